"""Which labels a gate does not believe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.dynamics import LEARNED
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.policy import EpochContext, Ids

ENOUGH = 5
"""Visits, and so epochs, before a label may be disbelieved."""

UNDECIDED = 0.25
"""The part of the samples, by the size of their margins, that says how sure margins are."""

PRECISION = 0.9
"""Of the labels that are taken for wrong, at least so many are, by the estimate."""

LEAST = 0.02
"""The least part of the samples that counts as noise."""

PART = 0.9
"""Of a given rate, the part that is disbelieved: of its last tenth, by margin, every second label
is right."""


def wrong_labels(margins: NDArray[np.float32]) -> int:
    """How many of the lowest ``margins`` (samples,) are those of wrong labels, at least
    :data:`PRECISION` of them by an estimate; 0 where that is less than :data:`LEAST`.

    A margin is the logit of the given label less the largest other one, a mean over epochs. If
    logits are log-odds up to a factor ``c``, and all labels are right, then for each sample of
    margin ``-m`` there are ``exp(c * m)`` samples of margin ``m``: where a model hesitates between
    two classes it is right as often as it is sure. The least decided samples give ``c``, from which
    follows how many right labels have a margin of ``-m`` or less. (Our reading.) A model that has
    learned the noise itself, as where one class is often taken for one other, hesitates
    there, and less is found.
    """
    margins = np.sort(margins.astype(np.float64))
    size = np.abs(margins)
    undecided = margins[size <= np.quantile(size, UNDECIDED)] if len(margins) else margins
    c = 2 * undecided.sum() / max((undecided**2).sum(), _TINY)  # of sigmoid(x) = 1/2 + x/4
    accepted = margins[margins > 0]
    beyond = np.append(np.exp(np.minimum(-c * accepted, 500))[::-1].cumsum()[::-1], 0.0)
    refused = margins[margins < 0]
    right = beyond[np.searchsorted(accepted, -refused)]
    among = np.arange(1, len(refused) + 1)
    found = among[right <= (1 - PRECISION) * among].max(initial=0)
    return int(found) if found >= LEAST * len(margins) else 0


_TINY = np.finfo(np.float64).tiny


def disbelieved(
    ledger: Ledger, pool: Ids, at: EpochContext, *, rate: float | None, teacher: bool
) -> Ids:
    """The samples of ``pool`` whose labels are not believed in the epoch ``at``, sorted.

    Once in an epoch, from the sixth up to half of them (margins are means over these), the samples
    of the lowest mean margins (AUM, Pleiss et al., NeurIPS 2020) are added to what is in the column
    ``disbelieved``: as many as :func:`wrong_labels` finds, or ``PART`` of a given ``rate`` of all.
    What the model accepted at its last visit is believed, and where it is judged by a ``teacher``,
    also that of which they do not agree on another class.
    """
    since, counted = ledger["disbelieved"][pool], ledger["counted"][pool]
    doubted = ((ledger["flags"][pool] & LEARNED) == 0) & (counted >= ENOUGH)
    if teacher:
        doubted &= ledger.correct[pool]
    kept = doubted & (since > 0)
    if ENOUGH <= at.epoch <= max(ENOUGH, at.epochs / 2) and not (since == at.epoch).any():
        margins = np.where(counted > 0, ledger["margin"][pool], np.inf)
        known = margins[counted > 0]
        wanted = wrong_labels(known) if rate is None else round(PART * rate * len(known))
        kept[np.argsort(margins, kind="stable")[:wanted]] = True
        kept &= doubted
    return pool[kept]
