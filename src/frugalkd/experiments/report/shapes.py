"""What a report reads of ``comparison.json``, ``results.json`` and ``summary.json``: all else in
them is passed over, and what an older schema lacks has a default."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

LARGEST = 10**20
"""No number of a report is larger than this one, either way: what is reckoned of them, and the
figures, hold no infinity."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]


class Shape(BaseModel):
    """Read only; numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Spread(Shape):
    """A mean over seeds, the 95 % interval of it (None for one seed), the value of each seed."""

    mean: Number | None = None
    ci95: tuple[Number, Number] | None = None
    values: list[Number | None] = []


class Meters(Shape):
    """What a run cost, or the mean of several; None where nothing was measured."""

    samples_backpropagated: Number | None = None
    student_forwards: Number | None = None
    teacher_queries: Number | None = None
    wall_seconds: Number | None = None
    phases: dict[str, Number] = {}


class Shares(Shape):
    """Parts of the samples by epoch, in [0, 1]; each is the mean of ``every`` epochs, the last of
    those that are left."""

    every: int = Field(1, ge=1, le=LARGEST)
    trained: list[Number] = []
    participations: list[Number] = []
    screened: list[Number] = []

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if {len(self.participations), len(self.screened)} - {0, len(self.trained)}:
            raise PydanticCustomError("lengths", "its lists are not equally long")
        return self

    @property
    def epochs(self) -> list[float]:
        """Where on an axis of epochs, which begins at 1, each of ``trained`` stands: in the middle
        of its epochs."""
        return [1 + self.every * k + (self.every - 1) / 2 for k in range(len(self.trained))]


class ClassRecord(Shape):
    """Significance within one class."""

    name: str = Field(alias="class")
    samples: Count
    mean: Number
    never: Number
    always: Number


class Sample(Shape):
    """A sample at one of the ends."""

    id: int = Field(ge=0, le=LARGEST)
    name: str | None = Field(alias="class")
    significance: Number
    confidence: Number | None
    correct: bool


class LedgerSummary(Shape):
    """What a ledger says."""

    samples: Count
    epochs: Number
    data: str | None = None
    mean: Number
    never: Number
    always: Number
    classes: list[ClassRecord]
    classes_left_out: Count = 0
    histogram: list[Count]
    most: list[Sample]
    least: list[Sample]


class Scoring(Shape):
    """A scoring run, whose cost is in no other meter."""

    kind: str
    samples_backpropagated: Count
    wall_seconds: Number


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
    seeds: list[Count]
    accuracy: Spread
    difference: Spread | None = None
    against_random: Spread | None = None
    budget: Spread
    budget_asked: Number | None = None
    own_budget: bool = False
    on_budget: bool | None = None
    forwards: Spread = Spread()
    wall_ratio: Spread
    meters: Meters
    collapsed: Count = 0
    failed: list[Count] = []
    control: str | None = None
    control_of: str | None = None
    matched: Match | None = None
    scoring: Scoring | None = None
    digests: dict[str, str] = {}
    frontier: Frontiers | None = None
    history: Shares | None = None
    teacher: str | None = None
    targets: str | None = None

    def accuracies(self) -> dict[int, float]:
        """By seed, of the runs that gave one."""
        known = zip(self.seeds, self.accuracy.values, strict=False)
        return {seed: value for seed, value in known if value is not None}

    @property
    def stored_with(self) -> str | None:
        """With which teacher the filling of its soft targets is counted; earlier files do not tell
        it from the teacher whose ledger it has."""
        return self.targets or self.teacher

    @property
    def family(self) -> str:
        """The arm's name without the budget that it was made to spend."""
        return self.arm if self.budget_asked is None else self.arm.rpartition("@")[0] or self.arm


class StoreCost(Shape):
    """What filling a teacher's stores took, once for all students."""

    rows: Number
    seconds: Number


class Teacher(Shape):
    """One teacher of a comparison."""

    teacher: str
    seed: Count | None = None
    accuracy: Number | None = None
    budget: Number | None = None
    wall_seconds: Number | None = None
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
    p_holm: Number
    holds: bool
    why: str = ""


class Failure(Shape):
    """A run that failed."""

    kind: str
    name: str
    seed: Count | None = None
    error: str


class RunsDone(Shape):
    """How many of a comparison's runs have ended."""

    done: Count
    of: Count


class Comparison(Shape):
    """Arms over seeds."""

    name: str
    reference: str
    arms: list[Arm]
    teachers: list[Teacher] = []
    claims: list[ClaimRecord] = []
    failed: list[Failure] = []
    complete: bool = True
    complete_seeds: list[Count] | None = None
    planned: list[str] = []
    runs: RunsDone | None = None
    seeds: list[Count]
    split: str | None = None
    threads: Count | None = None
    versions: dict[str, str] | None = None
    notes: list[str] = []
    recipe: dict[str, Any]

    def named(self, name: str | None) -> Arm | None:
        """The arm of that name."""
        return next((arm for arm in self.arms if arm.arm == name), None)


class Evaluation(Shape):
    """What a model is worth on held-out data; fractions in [0, 1]."""

    samples: Count
    accuracy: Number
    worst_class_accuracy: Number
    expected_calibration_error: Number
    teacher_agreement: Number | None = None


class Epoch(Shape):
    """One epoch of a run."""

    epoch: Count
    samples: int = Field(ge=1, le=LARGEST)
    rows: Count
    participations: Count
    screened: Count = 0


class TargetsNote(Shape):
    """Where soft targets came from."""

    kind: str
    filled_here: bool = False
    filling: StoreCost | None = None
    rows: Count | None = None
    bytes: Count | None = None


class TeacherNote(Shape):
    """Whom a student learned from."""

    digest: str | None = None
    evaluation: Evaluation | None = None


class Run(Shape):
    """One finished run. ``results.json`` has the ``history``, ``summary.json`` the ``shares``."""

    kind: str
    digest: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    seed: Count
    threads: Count
    device: str = "cpu"
    split: str
    train_samples: Count
    epochs: Number | None = None
    budget: Number
    meters: Meters
    evaluation: Evaluation | None = None
    teacher: TeacherNote | None = None
    targets: TargetsNote | None = None
    scoring: Scoring | None = None
    history: list[Epoch] = []
    shares: Shares | None = None
    summary: LedgerSummary | None = None


def section(of: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a recipe, which nobody has checked; {} where there is none."""
    found = of.get(name)
    return found if isinstance(found, dict) else {}
