"""Which labels a gate does not believe."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.dynamics import NEVER
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.keeping import lowest
from frugalkd.policies.policy import EpochContext, Ids, Mask

RULE = 2
"""Part of a run's digest: another rule makes another training."""

ENOUGH = 5
"""Visits before a label may be disbelieved. In a training of eight epochs or fewer it is half of
the epochs, rounded up."""

FEWEST = 3
"""Where that is less, in a training of four epochs or fewer, no label is disbelieved."""

UNDECIDED = 0.25
"""The part of the samples, those of the margins nearest to 0, that calibrates margins."""

MOST_REFUSED = 0.55
"""A model that refuses more of all labels, on average, knows too little to doubt any."""

MOST_OF_A_CLASS = 0.75
"""Labels of a class are not doubted where the model refuses more than this part of them."""

PRECISION = 0.85
"""Of the labels that are taken for wrong, at least so many are, by the estimate."""

LEAST = 0.02
"""The least part of the samples that counts as noise."""

PART = 0.9
"""Of a given rate, the part that is disbelieved: of its last tenth, by margin, every second label
is right."""


def wrong_labels(
    margins: NDArray[np.floating], labels: NDArray[np.integer], settled: Mask, classes: int
) -> Mask:
    """Which labels are taken for wrong (samples,): those of the lowest ``margins``, as many as
    :data:`PRECISION` of them are wrong by an estimate.

    A margin is the logit of the given label less the largest other one, a mean over epochs. Suppose
    all labels are right, and logits are log-odds up to a factor ``c``. Then, of two classes, a
    label that is refused by a margin of ``m`` is ``exp(c * m)`` times rarer than one that is
    accepted by ``m``. ``c`` is fitted to the margins nearest to 0 of ``settled`` samples (bool,
    samples), which were visited often. What is refused more often than follows from that is taken
    for wrong. Of more ``classes`` several may be refused by ``m``, so the expected number is
    multiplied by log2(classes) / 2. (Our reading. Noise that a model has learned itself, as where
    one class is often taken for one other, is like that of hard samples: less is found.)

    No label is taken for wrong where these are less than :data:`LEAST` of all, where the model
    refuses more than :data:`MOST_REFUSED` of all, and where the margins that give ``c`` sum to 0 or
    less. One of the ``labels``, integers from 0 (samples,), of which it refuses more than
    :data:`MOST_OF_A_CLASS` is left out.
    """
    found, below = np.zeros(len(margins), dtype=bool), margins < 0
    if not len(margins) or below.mean() > MOST_REFUSED:
        return found
    samples, lost = (np.bincount(labels[of], minlength=labels.max() + 1) for of in (..., below))
    ids = np.flatnonzero((lost <= MOST_OF_A_CLASS * samples)[labels])
    margins, tried = margins[ids].astype(np.float64), margins[ids[settled[ids]]].astype(np.float64)
    if not len(tried):
        return found
    size = np.abs(tried)
    undecided = tried[size <= np.quantile(size, UNDECIDED)]
    # The mean of m is that of |m| * tanh(c * |m| / 2), about c / 2 times that of m * m.
    c = 2 * undecided.sum() / max((undecided**2).sum(), np.finfo(np.float64).tiny)
    if c <= 0:
        return found
    order = np.argsort(margins, kind="stable")
    ordered = margins[order]
    refused, accepted = ordered[ordered < 0], -ordered[ordered > 0][::-1]  # both rise from below 0
    beyond = np.append(0, np.cumsum(np.exp(c * accepted)))
    right = beyond[np.searchsorted(accepted, refused, side="right")]
    expected = max(1, math.log2(classes) / 2) * (1 + right)  # none seen of few is no evidence
    among = np.arange(1, len(refused) + 1)
    count = among[expected <= (1 - PRECISION) * among].max(initial=0)
    if count >= LEAST * len(found):
        found[ids[order[:count]]] = True
    return found


def disbelieved(
    ledger: Ledger, pool: Ids, at: EpochContext, *, rate: float | None, teacher: bool
) -> Ids:
    """The samples of ``pool`` whose labels are not believed in the epoch ``at``, sorted.

    Once in an epoch, after ``ENOUGH`` of them and up to half of all (margins are means over these),
    labels that the model refused at its last visit are added to what is in the column
    ``disbelieved``, those of the lowest mean margins (AUM, Pleiss et al., NeurIPS 2020): of what
    :func:`wrong_labels` finds up to as many, or up to ``PART`` of a given ``rate`` of all. What the
    model accepted at its last visit is believed, and where it is judged by a ``teacher``, also that
    of which they do not agree on another class.
    """
    since, counted = ledger["disbelieved"][pool], ledger["counted"][pool]
    enough = min(ENOUGH, math.ceil(at.epochs / 2))
    doubted = ~ledger.accepted[pool] & (counted >= enough)
    if teacher:
        doubted &= ledger.correct[pool]
    kept = pool[doubted & (since > 0)]
    in_time = FEWEST <= enough <= at.epoch <= max(enough, at.epochs / 2)
    if not in_time or (since == at.epoch).any():
        return kept
    new, wanted = doubted & (since == 0), round(PART * (rate or 0) * len(pool))
    if rate is None:
        margins, other = ledger["margin"][pool], ledger["other"][pool]
        known = (counted > 0) & np.isfinite(margins)
        classes, given = 1 + int(other[other != NEVER].max(initial=1)), np.zeros(len(pool), np.intp)
        if ledger.labels is not None:
            given = np.unique(ledger.labels[pool], return_inverse=True)[1]
        found = np.zeros(len(pool), dtype=bool)
        found[known] = wrong_labels(margins[known], given[known], counted[known] >= enough, classes)
        new, wanted = new & found, int(found.sum())
    added = lowest(pool[new], wanted - len(kept), ledger["margin"].take)
    return np.sort(np.concatenate([kept, added]))
