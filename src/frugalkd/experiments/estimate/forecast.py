"""How many samples will take part, told from a miniature of the training.

A miniature is the very training (same model, objective, gate, schedule) on ``n`` of the ``N``
samples, for ``E'`` of the ``E`` epochs. What it keeps in an epoch falls as ``n`` grows, since a
larger set means more steps an epoch. Two miniatures say how fast, and three readings of how that
goes on give the forecast and its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from frugalkd.experiments.estimate.result import Range, exactly

FADES = (0.85, 1.0, 0.6)
"""By what the fall per doubling of the data is multiplied at each further doubling: for the
forecast, for the low end (it goes on for ever) and for the high end (it soon stops). Measured on
Fashion-MNIST, where 0.8 to 0.9 fit from 1,000 to 60,000 samples (docs/estimate.md)."""

RUNS_DIFFER = 0.05
"""Relative half-width that no range goes below: seeds alone move what is kept by some percent."""

SATURATED = 0.9
"""A miniature that keeps more than this part of its pool has hardly begun to fall."""

NOBODY = 0.98
"""The kept fraction of a miniature from which it has seen nobody sleep, and tells nothing."""

_NO_FALL = 0.02

TAIL = 0.3
"""How steeply kept fractions are expected to fall with epochs that the miniature lacks, as
epoch^-0.3, at the most: so a teacher's fell on Fashion-MNIST, a student's as epoch^-0.15."""


@dataclass(frozen=True)
class Curve:
    """What a miniature kept, epoch by epoch.

    Attributes:
        rows: samples that could take part.
        kept: rows backpropagated in each epoch, over ``rows``.
        screened: rows looked at forward-only in each epoch, over ``rows``.
    """

    rows: int
    kept: tuple[float, ...]
    screened: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Its own kept fraction."""
        return float(np.mean(self.kept))


def fall_per_doubling(small: Curve, large: Curve, *, first_is_all: bool) -> float:
    """How much the logarithm of the kept fraction falls when the data double; 0 or more.

    Args:
        small, large: miniatures of equal epochs, ``small`` with fewer rows (where it has no fewer,
            the two say nothing).
        first_is_all: the first epoch keeps everything whatever the data, and says nothing.
    """
    start = 1 if first_is_all else 0
    few, many = sum(small.kept[start:]), sum(large.kept[start:])
    if few <= 0 or many <= 0 or large.rows <= small.rows:
        return 0.0
    return max(0.0, math.log(few / many) / math.log2(large.rows / small.rows))


def doublings(count: float, fade: float) -> float:
    """``count`` doublings, each weighing ``fade`` times the one before: ``fade + fade^2 + ...``."""
    whole = int(count)
    return sum(fade**i for i in range(1, whole + 1)) + (count - whole) * fade ** (whole + 1)


def fall_of(own: float, regulated: float, curve: Curve) -> Range:
    """The fall of a mode whose miniatures fall by ``own``, beside ``regulated``'s.

    A curve that lies at the top has hardly begun to fall, and does not say how it will: then it is
    expected half way between its own fall and that of *regulated*, and the two are the ends.
    """
    if float(np.mean(curve.kept)) < SATURATED:
        return exactly(own)
    return Range((own + regulated) / 2, min(own, regulated), max(own, regulated))


def kept_fraction(
    curve: Curve, fall: Range, rows: int, epochs: float, *, first_is_all: bool
) -> Range:
    """The kept fraction of a training on ``rows`` samples for ``epochs``, from a miniature.

    Args:
        curve: the miniature; it may have fewer epochs, whose end is then gone on with.
        fall: see :func:`fall_per_doubling`; its high end makes the low one of the answer.
        rows: that could take part, at least those of the miniature.
        epochs: may be fractional.
        first_is_all: the first epoch keeps everything.
    """
    count = math.log2(max(1.0, rows / curve.rows))
    tail = _tail(curve.kept)
    steep = min(1.0, max(TAIL, 1.5 * tail))
    ends = []
    falls = (fall.point, fall.high, fall.low)
    for each, fade, bend in zip(falls, FADES, (min(TAIL, tail), steep, 0.0), strict=True):
        factor = math.exp(-each * doublings(count, fade))
        ends.append(_mean(_go_on(curve.kept, epochs, bend), epochs, factor, first_is_all))
    point, low, high = ends
    scaled = rows > curve.rows or epochs > len(curve.kept)
    if scaled and curve.mean > NOBODY and fall.high < _NO_FALL:
        low = min(1.0, 1 / epochs) if first_is_all else 0.0
    # The more the data are scaled, the less is known even where the two miniatures agree.
    margin = RUNS_DIFFER * (1 + 0.5 * count)
    return Range(
        min(1.0, point),
        max(0.0, min(low, point * (1 - margin))),
        min(1.0, max(high, point * (1 + margin))),
    )


def screening_rate(
    curve: Curve, sleep: Callable[[int], int], epochs: float, *, first_is_all: bool = True
) -> float:
    """Rows screened for each row asleep, in a training of ``epochs``, from a miniature.

    Args:
        curve: the miniature; where it has fewer epochs its rate is corrected by what a sample that
            passes always would need.
        sleep: epochs of sleep after this many passes in a row.
        epochs: of the whole training.
        first_is_all: as above.
    """
    asleep = sum(1 - kept for kept in curve.kept)
    if asleep <= 0:
        return looks_of_a_sleeper(sleep, epochs)
    rate = sum(curve.screened) / asleep
    here = looks_of_a_sleeper(sleep, len(curve.kept))
    return min(1.0, rate * looks_of_a_sleeper(sleep, epochs) / here) if here else rate


def looks_of_a_sleeper(sleep: Callable[[int], int], epochs: float) -> float:
    """Screenings, for each epoch asleep, of a sample that passes in the first epoch and always."""
    if epochs <= 1:
        return 0.0
    streak, due, looks = 1, 1 + sleep(1), 0
    while due < epochs:
        looks, streak = looks + 1, streak + 1
        due += max(1, sleep(streak))
    return looks / (epochs - 1)


def _tail(kept: Sequence[float]) -> float:
    """The exponent b with which kept falls as epoch^-b, fitted from the third epoch on."""
    values = np.asarray(kept[2:])
    if len(values) < 3 or (values <= 0).any():
        return 0.0
    exponent = -np.polyfit(np.log(np.arange(2, len(kept))), np.log(values), 1)[0]
    return float(max(0.0, exponent))


def _go_on(kept: Sequence[float], epochs: float, exponent: float) -> list[float]:
    """The curve for ``epochs``: cut, or gone on with as epoch^-exponent."""
    wanted = math.ceil(epochs)
    last = len(kept) - 1
    more = [kept[last] * (e / max(1, last)) ** -exponent for e in range(last + 1, wanted)]
    return [*kept[:wanted], *more]


def _mean(kept: Sequence[float], epochs: float, factor: float, first_is_all: bool) -> float:
    """The mean over ``epochs`` of the curve times ``factor``, the last counted by its part."""
    parts = np.minimum(1.0, epochs - np.arange(len(kept)))
    scaled = np.minimum(1.0, np.asarray(kept) * factor)
    if first_is_all:
        scaled[0] = 1.0
    return float((parts * scaled).sum() / epochs)
