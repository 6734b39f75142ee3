"""What an estimate says, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 1
TargetsKind = Literal["live", "stored", "none"]


@dataclass(frozen=True)
class Range:
    """A forecast and the range in which the truth is expected; ``low <= point <= high``."""

    point: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> Range:
        """``function`` of each of the three, put in order."""
        ends = [function(self.low), function(self.high)]
        point = function(self.point)
        return Range(point, min(point, *ends), max(point, *ends))


def exactly(value: float) -> Range:
    """A range without width."""
    return Range(value, value, value)


@dataclass(frozen=True)
class Costs:
    """What one row costs, in seconds.

    Attributes:
        step: one row of a training step of the student, loading, stored targets and ledger
            included, the teacher not.
        screen: one row of a forward-only look of the student, loading included.
        ask: one row asked of the teacher at the student's batch size, loading apart.
        fill: one row of filling the store, loading and writing included.
        teacher_step, teacher_screen: ``step`` and ``screen`` of the teacher's own training.
    """

    step: float
    screen: float
    ask: float
    fill: float
    teacher_step: float
    teacher_screen: float


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one row; a multiply-add counts as two."""

    student_forward: float
    student_backward: float
    teacher_forward: float
    teacher_backward: float


@dataclass(frozen=True)
class Share:
    """Which part of the samples takes part.

    Attributes:
        kept: rows backpropagated, as a fraction of samples x epochs (the budget).
        pool: samples that may take part at all, as a fraction of all.
        screen_rate: rows looked at forward-only, for each row of the pool that is not kept.
        reads_all: every row of the pool is looked at in every epoch (gate-now).
        rough: bounded, not measured in the pilot.
    """

    kept: Range
    pool: float = 1.0
    screen_rate: float = 0.0
    reads_all: bool = False
    rough: bool = False

    def screened(self, kept: float) -> float:
        """Rows looked at forward-only where ``kept`` take part, both over samples x epochs."""
        return self.pool if self.reads_all else self.screen_rate * max(0.0, self.pool - kept)


@dataclass(frozen=True)
class ModeEstimate:
    """What one student costs in one mode.

    Attributes:
        mode: one of the modes, or ``ceiling C``: regulated with that ceiling.
        targets: where its soft targets come from.
        kept, rough: see :class:`Share`.
        forwards: rows through the student, as a fraction of samples x epochs.
        seconds: the student's training, filling a store apart.
        fill_seconds: filling the store that it needs, once for all students.
        disk_bytes: of that store, as it is allocated.
        flops: of the student's training at ``kept.point``, filling apart.
        of_vanilla: ``seconds`` over those of vanilla with the same targets.
        pays: ``of_vanilla.point`` is below 0.95.
    """

    mode: str
    targets: TargetsKind
    kept: Range
    forwards: Range
    rough: bool
    seconds: Range
    fill_seconds: float
    disk_bytes: int
    flops: float
    of_vanilla: Range
    pays: bool


@dataclass(frozen=True)
class TeacherEstimate:
    """What the teacher's own training costs.

    Attributes:
        known: a folder of a finished training, a pretrained state dict, or neither.
        ledger: its significances were read.
        conventional: seconds of training it on all samples.
        self_regulated: seconds of training it under its gate.
        kept: the part of the rows that its gate keeps.
        counted: ``kept`` was counted by the folder's own run, not forecast.
        folder_seconds: what that run took, on whatever machine; None where there is none.
    """

    known: Literal["folder", "pretrained", "untrained"]
    ledger: bool
    conventional: float
    self_regulated: Range
    kept: Range
    counted: bool
    folder_seconds: float | None


@dataclass(frozen=True)
class BreakEven:
    """After how many students something has paid for itself; None: never.

    Attributes:
        store: of vanilla students, against a live teacher.
        store_mode: of students in the mode of the verdict, against a live teacher.
        ledger: of the better of hybrid and significance, against vanilla with the same targets,
            where a pretrained teacher would have done.
        ledger_trained_anyway: the same where a teacher is trained in any case: only what its
            self-regulation costs more than a conventional training counts.
        ledger_over_regulated: as ``ledger``, against regulated, which needs no ledger.
    """

    store: int | None
    store_mode: int | None
    ledger: int | None
    ledger_trained_anyway: int | None
    ledger_over_regulated: int | None


@dataclass(frozen=True)
class Pilot:
    """How the figures were come by.

    Attributes:
        seconds: what the pilot took, reading the data set apart.
        rows, epochs: of the largest miniature training.
        small_rows: of the smaller one that says how the kept fraction falls with the data; 0 where
            the miniature is the whole training.
        kept: what the miniature itself kept.
        spread: of the seconds of equal stretches of training: interquartile range over median.
        check: seconds that the costs predict for the miniature, over those that it took.
    """

    seconds: float
    rows: int
    epochs: int
    small_rows: int
    kept: float
    spread: float
    check: float


@dataclass(frozen=True)
class Estimate:
    """What selection will pay.

    Attributes:
        r_flops, r_time: teacher forward over student forward.
        teacher_per_step_flops, teacher_per_step_time: teacher forward over a student's step
            (forward and backward; by time with loading, optimiser and ledger).
        modes: a row a mode.
        verdict: the mode it speaks of, and the sentence.
        pays: what it says; None: nobody passed in the miniature, so that it cannot say.
        warnings: what to doubt the figures for.
    """

    recipe: str
    samples: int
    epochs: float
    batch_size: int
    device: str
    threads: int
    costs: Costs
    flops: Flops
    r_flops: float
    r_time: float
    teacher_per_step_flops: float
    teacher_per_step_time: float
    modes: list[ModeEstimate]
    teacher: TeacherEstimate
    break_even: BreakEven
    verdict_mode: str
    pays: bool | None
    verdict: str
    pilot: Pilot
    warnings: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)
