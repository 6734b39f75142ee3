"""How many labels are wrong, and which of them a gate does not believe."""

from __future__ import annotations

import numpy as np

from frugalkd.ledger.dynamics import LEARNED
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.keeping import lowest
from frugalkd.policies.policy import EpochContext, Ids, Mask

ENOUGH = 3
"""Visits, and so epochs, before a label may be disbelieved."""

SETTLED = 1.2
"""How many more labels of confident samples may be refused on average than at the last visit, at
most: where more were, the model still learns, and what it refuses are not yet wrong labels."""

LEAST = 0.05
"""The lowest estimate that counts as noise."""

PART = 0.9
"""Of the labels that are estimated to be wrong, those that are disbelieved at once: of the last
tenth, by margin, every second one is right."""


def refused(ledger: Ledger, ids: Ids) -> Mask:
    """Whether another class than the given one had a larger logit at the last visit."""
    return (ledger["flags"][ids] & LEARNED) == 0


def noise_rate(ledger: Ledger, ids: Ids, tau: float = 0.9) -> float:
    """An estimate of the fraction of wrong labels among ``ids``: how many are refused where the
    model was confident at its last visit, by ``tau`` at least, or as one of the most confident
    tenth. 0 without a visit.

    A label that is wrong by chance is refused as often on an easy sample as on a hard one, and on
    easy ones the model is seldom wrong itself. (Our reading. A gate of the same ``tau`` may skip
    what it passed, but its last confidence still counts.) Once a model has memorised labels, the
    estimate is too low."""
    sure = _confident(ledger, ids, tau)
    return float(refused(ledger, sure).mean()) if len(sure) else 0.0


def _confident(ledger: Ledger, ids: Ids, tau: float) -> Ids:
    ids = ids[ledger["counted"][ids] > 0]
    confidence = ledger["confidence"][ids]
    return ids[confidence >= min(tau, np.quantile(confidence, 0.9))] if len(ids) else ids


def disbelieved(
    ledger: Ledger, pool: Ids, at: EpochContext, *, rate: float | None, tau: float, teacher: bool
) -> Ids:
    """The samples of ``pool`` whose labels are not believed in the epoch ``at``, sorted.

    Once in an epoch, from the fourth up to half of them (margins are means over these), ``PART`` of
    the wrong labels, by :func:`noise_rate` of those still believed if it is ``SETTLED``, or by the
    given ``rate`` of all, are added to what is in the column ``disbelieved``: those of the lowest
    mean margin (AUM, Pleiss et al., NeurIPS 2020). What the model accepted at its last visit is
    believed, and where it is judged by a ``teacher``, also that of which they do not agree on
    another class.
    """
    since = ledger["disbelieved"][pool]
    doubted = refused(ledger, pool) & (ledger["counted"][pool] >= ENOUGH)
    if teacher:
        doubted &= ledger.correct[pool]
    kept = pool[doubted & (since > 0)]
    if not ENOUGH <= at.epoch <= max(ENOUGH, at.epochs / 2) or (since == at.epoch).any():
        return kept
    believed = np.setdiff1d(pool, kept, assume_unique=True)
    if rate is None:
        found, sure = noise_rate(ledger, believed, tau), _confident(ledger, believed, tau)
        settled = (ledger["margin"][sure] < 0).mean() <= SETTLED * found if len(sure) else False
        wanted = round(PART * found * len(believed)) if found >= LEAST and settled else 0
    else:
        wanted = round(PART * rate * len(pool)) - len(kept)
    new = lowest(pool[doubted & (since == 0)], wanted, ledger["margin"].take)
    return np.sort(np.concatenate([kept, new]))
