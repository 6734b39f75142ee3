"""Which samples to keep: what several policies have in common."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies.policy import EpochContext, Ids, Mask, at_sorted

_TINY = np.finfo(np.float32).tiny


def cross_entropy(seen: Outcome) -> NDArray[np.float32]:
    """Of each row (rows,), always finite: NaN counts as the largest there is, about 87 nats. Of a
    kind of output that has no probabilities it is the distance."""
    if seen.distance is not None:
        return np.nan_to_num(np.asarray(seen.distance, dtype=np.float32), nan=-np.log(_TINY))
    return -np.log(np.fmax(np.asarray(seen.truth, dtype=np.float32), _TINY))


def lowest(ids: Ids, wanted: int, *keys: Callable[[Ids], NDArray]) -> Ids:
    """The ``wanted`` ids that are lowest by the first key, among equals by the next, then by place.

    They come in no particular order. A key is called with the ids that it decides about only, and
    returns no NaN.
    """
    if wanted <= 0 or wanted >= len(ids) or not keys:
        return ids[: max(wanted, 0)]
    values = keys[0](ids)
    edge = np.partition(values, wanted - 1)[wanted - 1]
    sure, tied = ids[values < edge], ids[values == edge]
    return np.concatenate([sure, lowest(tied, wanted - len(sure), *keys[1:])])


def balanced(
    ids: Ids, classes: NDArray, wanted: int, at: EpochContext, *keys: Callable[[Ids], NDArray]
) -> Ids:
    """The ``wanted`` ids, as many of each of the ``classes``, integers (ids,), as far as it has so
    many: those that are lowest by the keys within it, in no particular order. What cannot be shared
    out evenly goes to classes drawn again in each epoch."""
    if not len(ids):
        return ids
    order = np.argsort(classes, kind="stable")
    names, begins, counts = np.unique(classes[order], return_index=True, return_counts=True)
    # One of each class at a time, until there are as many as wanted.
    owner = np.repeat(np.arange(len(names)), counts)
    turn, round_of = at.uniform("shares", names), np.arange(len(ids)) - begins[owner]
    given = owner[np.lexsort((turn[owner], round_of))[: max(0, wanted)]]
    shares = np.bincount(given, minlength=len(names))
    by_class = np.split(ids[order], begins[1:])
    kept = [lowest(own, int(n), *keys) for own, n in zip(by_class, shares, strict=True)]
    return np.concatenate(kept)


def lowest_rows(values: NDArray, wanted: int) -> Mask:
    """Which ``wanted`` rows have the lowest values, among equals the first; NaN is the lowest."""
    comparable = np.where(np.isnan(values), -np.inf, values)
    kept = np.zeros(len(values), dtype=bool)
    kept[lowest(np.arange(len(values)), wanted, comparable.take)] = True
    return kept


def share(part: float, ids: Ids, purpose: str, at: EpochContext) -> int:
    """``part`` of the rows of a batch ``ids``, rounded up or down by one draw, so that a training
    keeps what it should however few rows a batch has."""
    return int(part * len(ids) + at.uniform(purpose, ids[:1])[0])


def race(log_weights: NDArray, uniform: NDArray) -> NDArray:
    """Keys of which the lowest are a draw without replacement, with chances proportional to the
    weights: Efraimidis and Spirakis (2006), in logarithms, in which no weight is too small.
    ``uniform``: draws in [0, 1), one a row."""
    with np.errstate(divide="ignore"):
        return np.log(-np.log(uniform)) - log_weights


def stale(ledger: Ledger, pool: Ids, at: EpochContext) -> Mask:
    """Samples that were neither trained on in the epoch before nor screened for this one, so that
    the current model's outcome is not known; none before the first epoch."""
    if at.epoch == 0:
        return np.zeros(len(pool), dtype=bool)
    last = at_sorted(ledger["last_epoch"], pool)
    trained = (last == at.epoch - 1) & ~at_sorted(ledger.screened, pool)
    return ~(trained | (last == at.epoch))


# Budgets: what is left for an epoch where some epochs train on everything.


def full_from(epochs: float, wanted: float, budget: float | None) -> float:
    """The epoch from which on the last ones, ``wanted`` of them rounded down, train on everything;
    all of them together cost at most half of what a budget can pay for."""
    if budget is not None:
        wanted = min(wanted, budget * epochs / 2)
    return min(epochs, math.ceil(epochs - math.floor(wanted + 1e-9)))


def rest_of(budget: float, epochs: float, full: float) -> float:
    """The fraction of all samples for each other epoch, where ``full`` epochs train on everything
    and all epochs together may spend ``budget``, in (0, 1]."""
    if full >= epochs:
        return 1.0
    return min(1.0, max(0.0, budget - full * (1 - budget) / (epochs - full)))


def rows_of(part: float, samples: int) -> int:
    """How many samples an epoch may train on, at least one."""
    return max(1, round(part * samples))
