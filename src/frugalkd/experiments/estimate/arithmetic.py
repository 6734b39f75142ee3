"""The cost model: what a mode takes, given what a row costs and which part of the rows takes part.

For each sample and epoch, with f kept and s looked at forward-only, a training takes
``f (step + ask) + s screen``; with stored targets ``ask`` is nothing, and filling the store is paid
once. Nothing here measures anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frugalkd.experiments.estimate.result import (
    Costs,
    Flops,
    ModeEstimate,
    Range,
    Share,
    TargetsKind,
    exactly,
)

PAYS_BELOW = 0.95
"""Selection pays where its predicted time is below this part of vanilla's."""


@dataclass(frozen=True)
class Size:
    """How large a training is: samples, epochs (may be fractional), stored views of a sample, and
    bytes of a store of all samples."""

    samples: int
    epochs: float
    views: int
    disk_bytes: int


EVERYONE = Share(exactly(1.0))


def student_seconds(share: Share, costs: Costs, size: Size, targets: TargetsKind) -> Range:
    """Seconds of a student's training, filling a store apart."""
    ask = costs.ask if targets == "live" else 0.0

    def at(kept: float) -> float:
        row = kept * (costs.step + ask) + share.screened(kept) * costs.screen
        return size.samples * size.epochs * row

    return share.kept.map(at)


def student_flops(share: Share, flops: Flops, size: Size, targets: TargetsKind) -> float:
    """Operations of a student's training at the forecast, filling a store apart."""
    kept = share.kept.point
    row = kept * (flops.student_forward + flops.student_backward)
    row += share.screened(kept) * flops.student_forward
    row += kept * flops.teacher_forward if targets == "live" else 0.0
    return size.samples * size.epochs * row


def fill_seconds(share: Share, costs: Costs, size: Size, targets: TargetsKind) -> float:
    """Seconds of asking once for every view of every sample that may take part."""
    return size.samples * share.pool * size.views * costs.fill if targets == "stored" else 0.0


def mode_estimate(
    name: str, share: Share, costs: Costs, flops: Flops, size: Size, targets: TargetsKind
) -> ModeEstimate:
    """One row of the table."""
    seconds = student_seconds(share, costs, size, targets)
    vanilla = student_seconds(EVERYONE, costs, size, targets).point
    ratio = seconds.map(lambda value: value / vanilla)
    return ModeEstimate(
        mode=name,
        targets=targets,
        kept=share.kept,
        forwards=share.kept.map(lambda kept: kept + share.screened(kept)),
        rough=share.rough,
        seconds=seconds,
        fill_seconds=fill_seconds(share, costs, size, targets),
        disk_bytes=size.disk_bytes if targets == "stored" else 0,
        flops=student_flops(share, flops, size, targets),
        of_vanilla=ratio,
        pays=ratio.point < PAYS_BELOW,
    )


def students_until_paid(cost: float, before: float, after: float) -> int | None:
    """The fewest students for which ``cost + k after <= k before``; None: no number of them."""
    if cost <= 0:
        return 0
    saving = before - after
    if saving <= cost * 1e-15:  # nothing but a rounding
        return None
    # A rounding must not add a student.
    return math.ceil(cost / saving - 1e-9)


def teacher_seconds(share: Share, costs: Costs, samples: int, epochs: float) -> Range:
    """Seconds of a teacher's own training."""

    def at(kept: float) -> float:
        row = kept * costs.teacher_step + share.screened(kept) * costs.teacher_screen
        return samples * epochs * row

    return share.kept.map(at)


def students_text(count: int | None) -> str:
    """``never``, ``1 student``, ``7 students``."""
    if count is None:
        return "never"
    return f"{count:,} student{'' if count == 1 else 's'}"
