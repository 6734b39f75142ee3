"""What a report reads of ``comparison.json``, ``results.json`` and ``summary.json``: all else in
them is passed over, and what an older schema lacks has a default."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """Read only; numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Spread(Shape):
    """A mean over seeds, the 95 % interval of it (None for one seed), the value of each seed."""

    mean: float | None = None
    ci95: tuple[float, float] | None = None
    values: list[float | None] = []


class Meters(Shape):
    """What a run cost, or the mean of several; None where nothing was measured."""

    samples_backpropagated: float | None = None
    student_forwards: float | None = None
    teacher_queries: float | None = None
    wall_seconds: float | None = None
    phases: dict[str, float] = {}


class Shares(Shape):
    """Parts of the samples by epoch, in [0, 1]; each is the mean of ``every`` epochs."""

    every: int = Field(1, ge=1)
    trained: list[float] = []
    participations: list[float] = []


class ClassRecord(Shape):
    """Significance within one class."""

    name: str = Field(alias="class")
    samples: int
    mean: float
    never: float
    always: float


class Sample(Shape):
    """A sample at one of the ends."""

    id: int = Field(ge=0)
    name: str | None = Field(alias="class")
    significance: float
    confidence: float | None
    correct: bool


class LedgerSummary(Shape):
    """What a ledger says."""

    samples: int
    epochs: float
    data: str | None = None
    mean: float
    never: float
    always: float
    classes: list[ClassRecord]
    classes_left_out: int = 0
    histogram: list[int]
    most: list[Sample]
    least: list[Sample]


class Scoring(Shape):
    """A scoring run, whose cost is in no other meter."""

    kind: str
    samples_backpropagated: int
    wall_seconds: float


class Match(Shape):
    """How near a control came to its arm's samples."""

    within_tolerance: bool


class Frontiers(Shape):
    """Whether no other arm is as accurate and cheaper: in samples, in time."""

    budget: bool = False
    time: bool = False


class Arm(Shape):
    """One row of a comparison."""

    arm: str
    about: str = ""
    mode: str | None = None
    seeds: list[int]
    accuracy: Spread
    difference: Spread | None = None
    against_random: Spread | None = None
    budget: Spread
    budget_asked: float | None = None
    own_budget: bool = False
    on_budget: bool | None = None
    forwards: Spread = Spread()
    wall_ratio: Spread
    meters: Meters
    collapsed: int = 0
    failed: list[int] = []
    control: str | None = None
    control_of: str | None = None
    matched: Match | None = None
    scoring: Scoring | None = None
    digests: dict[str, str] = {}
    frontier: Frontiers | None = None
    history: Shares | None = None
    teacher: str | None = None

    @property
    def family(self) -> str:
        """The arm's name without the budget that it was made to spend."""
        return self.arm if self.budget_asked is None else self.arm.rpartition("@")[0]


class StoreCost(Shape):
    """What filling a teacher's stores took, once for all students."""

    rows: float
    seconds: float


class Teacher(Shape):
    """One teacher of a comparison."""

    teacher: str
    seed: int | None = None
    accuracy: float | None = None
    budget: float | None = None
    wall_seconds: float | None = None
    digest: str | None = None
    error: str | None = None
    targets: StoreCost | None = None
    summary: LedgerSummary | None = None


class ClaimRecord(Shape):
    """A claim that was declared, and what came of it."""

    arm: str
    against: str
    claim: str
    difference: Spread
    p_holm: float
    holds: bool
    why: str = ""


class Failure(Shape):
    """A run that failed."""

    kind: str
    name: str
    seed: int | None = None
    error: str


class Comparison(Shape):
    """Arms over seeds."""

    name: str
    reference: str
    arms: list[Arm] = Field(min_length=1)
    teachers: list[Teacher] = []
    claims: list[ClaimRecord] = []
    failed: list[Failure] = []
    complete: bool = True
    seeds: list[int]
    split: str | None = None
    threads: int | None = None
    versions: dict[str, str] | None = None
    notes: list[str] = []
    recipe: dict[str, Any]

    def named(self, name: str | None) -> Arm | None:
        """The arm of that name."""
        return next((arm for arm in self.arms if arm.arm == name), None)


class Evaluation(Shape):
    """What a model is worth on held-out data; fractions in [0, 1]."""

    samples: int
    accuracy: float
    worst_class_accuracy: float
    expected_calibration_error: float
    teacher_agreement: float | None = None


class Epoch(Shape):
    """One epoch of a run."""

    epoch: int
    samples: int = Field(ge=1)
    rows: int
    participations: int
    screened: int = 0


class TargetsNote(Shape):
    """Where soft targets came from."""

    kind: str
    filled_here: bool = False
    rows: int | None = None
    bytes: int | None = None


class TeacherNote(Shape):
    """Whom a student learned from."""

    digest: str | None = None
    evaluation: Evaluation | None = None


class Run(Shape):
    """One finished run."""

    kind: str
    digest: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    seed: int
    threads: int
    device: str = "cpu"
    split: str
    train_samples: int
    epochs: float | None = None
    budget: float
    meters: Meters
    evaluation: Evaluation | None = None
    teacher: TeacherNote | None = None
    targets: TargetsNote | None = None
    scoring: Scoring | None = None
    history: list[Epoch]
    summary: LedgerSummary | None = None
