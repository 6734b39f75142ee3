"""What a training costs, and how many samples it keeps: the models of docs/estimate.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from frugalkd.policies import SelfRegulation

FADE = 0.85
"""Factor of the fall at each further doubling of the data, fitted on Fashion-MNIST."""

RUNS_DIFFER, PER_DOUBLING, PER_LENGTHENING = 0.05, 0.03, 0.1
"""Relative half-width of a range, and what each doubling of the samples and of the epochs adds."""

SATURATED, NO_INFORMATION = 0.9, 0.98
"""A miniature that keeps more of its pool has hardly begun to fall, or has seen no sample pass."""

TAIL = 0.3
"""In epochs that a miniature lacks, kept fractions fall at most as epoch^-0.3."""


class Range(NamedTuple):
    """A forecast and the range in which the truth is expected; ``low <= point <= high``."""

    point: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> Range:
        """``function`` of each of the three, sorted."""
        point, *ends = map(function, self)
        return Range(point, min(point, *ends), max(point, *ends))


def exactly(value: float) -> Range:
    """A range without width."""
    return Range(value, value, value)


@dataclass(frozen=True)
class Share:
    """Which fraction of the samples is used.

    Attributes:
        kept: rows used for training, of samples x epochs (the budget).
        pool: samples that may be used at all, of all.
        screen_rate: screenings for each row of the pool that is not kept.
        reads_all: every row of the pool is screened in every epoch (``when: now``).
        rough: bounded, not measured in the pilot.
    """

    kept: Range
    pool: float = 1.0
    screen_rate: float = 0.0
    reads_all: bool = False
    rough: bool = False

    def screened(self, kept: float) -> float:
        """Rows screened if ``kept`` are used, both as fractions of samples x epochs."""
        return self.pool if self.reads_all else self.screen_rate * max(0.0, self.pool - kept)

    def cost(self, visits: float, step: float, screen: float) -> Range:
        """What ``visits`` (samples x epochs) cost, if a row costs ``step`` and ``screen``."""
        return self.kept.map(lambda kept: visits * (kept * step + self.screened(kept) * screen))


EVERYTHING = Share(exactly(1.0))


def mode_row(
    mode: str, share: Share, targets: str, costs: Mapping[str, float], visits: float,
    store: tuple[float, int], epochs: float, ratio: float,
) -> dict[str, Any]:  # fmt: skip
    """One row of ``modes`` in an estimate. ``costs`` are seconds of a row (``step``, ``screen``,
    ``query``), ``visits`` are samples x epochs, ``store`` the seconds and bytes of a whole store,
    ``ratio`` the teacher's forward pass over the student's, by FLOPs."""
    step = costs["step"] + (costs["query"] if targets == "live" else 0.0)
    seconds = share.cost(visits, step, costs["screen"])
    fill, disk = store if targets == "stored" else (0.0, 0)
    return {
        "mode": mode,
        "targets": targets,
        "kept": share.kept,
        "forwards": share.kept.map(lambda kept: kept + share.screened(kept)),
        "rough": share.rough,
        "cost": share.cost(epochs, 1 + (ratio / 3 if targets == "live" else 0.0), 1 / 3),
        "seconds": seconds,
        "of_vanilla": seconds.map(lambda value: value / (visits * step)),
        "fill_seconds": share.pool * fill,
        "disk_bytes": disk,
    }


def students_until_paid(cost: float, before: float, after: float) -> int | None:
    """The smallest k with ``cost + k after <= k before``; None: there is none."""
    if cost <= 0:
        return 0
    saving = before - after
    if saving <= cost * 1e-15:  # a rounding error
        return None
    return math.ceil(cost / saving - 1e-9)  # a rounding error must not add a student


def students_text(count: int | None) -> str:
    """``never``, ``1 student``, ``7 students``."""
    if count is None:
        return "never"
    return f"{count:,} student{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Curve:
    """Of a miniature: samples that could be used, and rows used for training and screened in each
    epoch, over these. ``first_is_all``: the first epoch keeps every row."""

    rows: int
    kept: Sequence[float]
    screened: Sequence[float]
    first_is_all: bool = True

    @property
    def mean(self) -> float:
        return float(np.mean(self.kept))


class Fit(NamedTuple):
    """What a training on all of ``rows`` samples comes to: the fraction that still fails the gate,
    and how much more often the model is right on them than on samples that it was not given, of
    which it is right on the fraction ``unseen``."""

    rows: int
    failing: float
    gap: float
    unseen: float


def fit_of_all(large: Fit, small: Fit | None, rows: int) -> Fit:
    """The fit of ``rows`` samples by that of two parts, each figure as a power of the size."""

    def grown(many: float, few: float) -> float:
        if small is None or large.rows <= small.rows or min(many, few) <= 0:
            return max(0.0, many)
        power = min(0.0, math.log(many / few) / math.log(large.rows / small.rows))
        return many * (rows / large.rows) ** power

    few = small or large
    failing, gap = grown(large.failing, few.failing), grown(large.gap, few.gap)
    return Fit(rows, failing, gap, large.unseen)


def forecast(
    curves: Sequence[Curve],
    regulated: Sequence[Curve],
    gate: SelfRegulation,
    samples: int,
    epochs: float,
    pool: float = 1.0,
) -> Share:
    """What a training keeps of the ``pool`` of its ``samples``, by the curves of its miniatures
    (larger one first). A saturated curve falls by the mean of its own fall and that of *regulated*.
    """
    curve, fall = curves[0], fall_per_doubling(*curves)
    if curve.mean >= SATURATED:
        fall = (fall + fall_per_doubling(*regulated)) / 2
    full = min(1.0, (gate.warmup + gate.final_full_epochs) / epochs)
    kept = kept_fraction(curve, fall, round(pool * samples), epochs)
    kept = kept.map(lambda kept: pool * (full + (1 - full) * kept))
    return Share(kept, pool, screening_rate(curve, gate, epochs), not curve.first_is_all)


def fall_per_doubling(large: Curve, small: Curve | None = None) -> float:
    """The fall of the logarithm of the kept fraction when the data double; 0 if it is unknown."""
    if small is None or large.rows <= small.rows:
        return 0.0
    few, many = (sum(curve.kept[curve.first_is_all :]) for curve in (small, large))
    if few <= 0 or many <= 0:
        return 0.0
    return max(0.0, math.log(few / many) / math.log2(large.rows / small.rows))


def kept_fraction(curve: Curve, fall: float, rows: int, epochs: float) -> Range:
    """The kept fraction of a training on ``rows`` samples for ``epochs`` (may be fractional)."""
    count, longer = math.log2(max(1.0, rows / curve.rows)), max(1.0, epochs / len(curve.kept))
    faded = sum(min(1.0, count - i) * FADE ** (i + 1) for i in range(math.ceil(count)))
    last, wanted = len(curve.kept) - 1, math.ceil(epochs)
    later = (np.arange(last + 1, wanted) / max(1, last)) ** -min(TAIL, _tail(curve))
    kept = np.concatenate([curve.kept[:wanted], later * curve.kept[last]])
    kept = np.minimum(1.0, kept * math.exp(-fall * faded))
    if curve.first_is_all:
        kept[0] = 1.0
    point = float((np.minimum(1.0, epochs - np.arange(wanted)) * kept).sum() / epochs)
    margin = RUNS_DIFFER + PER_DOUBLING * count + PER_LENGTHENING * math.log2(longer)
    low, high = max(0.0, point * (1 - margin)), min(1.0, point * (1 + margin))
    if (count or longer > 1) and curve.mean > NO_INFORMATION and fall < 0.02:
        low = min(1.0, 1 / epochs) if curve.first_is_all else 0.0
    return Range(point, low, high)


def _tail(curve: Curve) -> float:
    """The exponent b of a fall as epoch^-b, fitted from the third epoch on."""
    values = np.asarray(curve.kept[2:])
    if len(values) < 3 or (values <= 0).any():
        return 0.0
    return max(0.0, float(-np.polyfit(np.log(np.arange(len(values)) + 2), np.log(values), 1)[0]))


def screening_rate(curve: Curve, gate: SelfRegulation, epochs: float) -> float:
    """Screenings for each skipped row: the miniature's; if it has fewer ``epochs``, corrected by
    those of a sample that always passes."""
    skipped, always = sum(1 - kept for kept in curve.kept), passing_rate(gate, epochs)
    if skipped <= 0:
        return always
    rate, seen = sum(curve.screened) / skipped, passing_rate(gate, len(curve.kept))
    return min(1.0, rate * always / seen) if seen else rate


def passing_rate(gate: SelfRegulation, epochs: float) -> float:
    """Screenings for each epoch after the first of a sample that always passes."""
    skips = gate.skip_epochs(np.arange(256, dtype=np.uint8))
    streak, due = 1, 1 + skips[1]
    while due < epochs:
        streak += 1
        due += max(1, skips[min(streak, 255)])
    return (streak - 1) / (epochs - 1) if epochs > 1 else 0.0


def labels_alone(share: Share) -> Share:
    """The share of a miniature that learned from the labels alone, its ends moved by a quarter.
    With soft targets the gate kept 0.86 to 0.89 of it on Fashion-MNIST, 1.16 on the digits."""
    kept = share.kept
    return replace(share, kept=Range(kept.point, 0.75 * kept.low, min(1.0, 1.25 * kept.high)))


def bounded(regulated: Share, teacher: Share, ever: float) -> dict[str, Share]:
    """Bounds, and their geometric mean, for modes that need a ledger or a trained teacher.

    *significance* keeps no fewer samples than the ``teacher`` in the mean epoch, and no more than
    the fraction that it ``ever`` used. *hybrid* lies between independence of the two gates and all
    of that pool.
    """
    own, least, most = regulated.kept, teacher.kept, max(ever, teacher.kept.point)
    middle, low, capped = math.sqrt(least.point * most), min(least.low, most), 0.5 * own.low
    both = Range(min(math.sqrt(own.point * middle), middle), own.low * low, most)
    ceiling = Range(math.sqrt(capped * own.high), capped, own.high)
    return {
        "significance": Share(Range(middle, low, most), middle, rough=True),
        "hybrid": replace(regulated, kept=both, pool=middle, rough=True),
        "ceiling": replace(regulated, kept=ceiling, rough=True),
    }
