"""What results.json and comparison.json hold, as models that give their JSON schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = float


class _Record(BaseModel):
    """Readers must bear keys that a later version adds; writers are held to these in the tests."""

    model_config = ConfigDict(extra="allow")


class MeterSummary(_Record):
    """What a run cost."""

    samples_backpropagated: int = Field(description="rows through the objective's backward pass")
    student_forwards: int = Field(description="rows through the trained model, screening included")
    teacher_queries: int = Field(description="rows through the teacher, filling a store included")
    queries_of: dict[str, int] = Field(
        default_factory=dict, description="the same of each of several teachers"
    )
    flops: dict[str, float] = Field(description="operations, by what they were for")
    wall_seconds: float = Field(description="the whole training, evaluation apart")
    eval_seconds: float
    phases: dict[str, float] = Field(description="seconds by phase of the training")
    peak_memory_bytes: dict[str, int]


class Evaluation(_Record):
    """What a model is worth on held-out data; all fractions in [0, 1]."""

    samples: int = Field(ge=1)
    accuracy: Fraction = Field(ge=0, le=1)
    worst_class_accuracy: Fraction = Field(ge=0, le=1)
    expected_calibration_error: Fraction = Field(ge=0, le=1)
    teacher_agreement: Fraction | None = Field(ge=0, le=1)


class EpochRecord(_Record):
    """One epoch of the history, and one line of metrics.jsonl."""

    epoch: int = Field(ge=0)
    loss: float | None
    lr: float
    samples: int = Field(description="of the training set")
    planned: int = Field(description="rows in the epoch's plan")
    screened: int = Field(description="rows looked at forward-only before the epoch")
    rows: int = Field(description="rows that trained")
    steps: int
    samples_backpropagated: int = Field(description="so far")
    student_forwards: int = Field(description="so far")
    wall_seconds: float = Field(description="so far")


class TeacherNote(_Record):
    """Whom a student learned from."""

    digest: str | None
    evaluation: dict[str, Any] | None
    of: dict[str, Any] | None = Field(None, description="the same of each of several, by name")


class FillingNote(_Record):
    """What filling stores before the training cost the run that did it; in its meters, too."""

    rows: int = Field(description="through teachers, this run's stopped processes included")
    seconds: float = Field(description="of wall_seconds")
    teacher_seconds: float = Field(description="of these, in the teachers' forward passes")


class TargetsNote(_Record):
    """Where the soft targets came from."""

    kind: Literal["stored", "live", "ema", "several"]
    views: int | None
    filled_here: bool = Field(description="whether this run asked the teacher and paid for it")
    fill: Literal["ahead", "first-visit"] | None = None
    filling: FillingNote | None = Field(None, description="where this run filled a store ahead")
    of: dict[str, Any] | None = Field(None, description="the same of each of several, by name")
    encoding: dict[str, Any] | None = Field(None, description="its name and settings")
    rows: int | None = Field(None, description="stored, of samples x views")
    bytes: int | None = Field(None, description="of the store on disk")


class ScoringNote(_Record):
    """The scoring run whose scores decided who took part; its cost is in no other meter."""

    kind: str = Field(description="how samples are scored")
    epochs: float = Field(description="of each of its trainings")
    seeds: int = Field(description="trainings whose scores are averaged")
    samples_backpropagated: int
    student_forwards: int
    wall_seconds: float
    made_here: bool = Field(description="whether this run made the scores and paid for them")
    file: str = Field(
        description="in the teacher's folder, else in stores/ of the comparison, else in the run's"
    )
    digest: str = Field(description="SHA-256 of the scores")


class Results(_Record):
    """results.json: a finished run of 'frugalkd teach' or 'frugalkd distill'."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["teach", "distill"]
    digest: str = Field(description="SHA-256 of everything that decides the result")
    recipe: dict[str, Any] = Field(description="as resolved: see 'frugalkd schema recipe'")
    versions: dict[str, str]
    seed: int
    threads: int
    ranks: int = Field(1, description="processes that trained it together")
    device: str
    split: Literal["test", "validation"] = Field(description="what the evaluation was made on")
    train_samples: int
    epochs: float | None = Field(
        None,
        description="trained; fewer than the recipe's where its policy ended the training",
    )
    budget: float = Field(description="samples_backpropagated / (train_samples x epochs)")
    meters: MeterSummary
    evaluation: Evaluation | None
    teacher: TeacherNote | None
    targets: TargetsNote | None
    scoring: ScoringNote | None = None
    history: list[EpochRecord]


class AccuracyOverSeeds(_Record):
    """Accuracies in [0, 1]."""

    mean: float | None
    ci95: Any = Field(description="the 95 % interval of the mean, or null for one seed")
    values: list[float | None]


class BudgetOverSeeds(_Record):
    """Samples backpropagated, as fractions of full distillation over the same epochs."""

    mean: float | None
    values: list[float | None] = Field(description="null for a seed whose run failed")


class Ratio(_Record):
    """A mean over seeds of a time divided by the reference's."""

    mean: float | None
    ci95: Any = Field(None, description="the 95 % interval of the mean, or null for one seed")


class MeanHistory(_Record):
    """Parts of the samples by epoch, means over seeds."""

    every: int = Field(description="epochs that a value is the mean of")
    trained: list[float] = Field(description="went through a backward pass")
    participations: list[float] = Field(description="of these, failed their own gate")


class ArmResult(_Record):
    """One row of a comparison."""

    arm: str
    seeds: int | list[int]
    accuracy: AccuracyOverSeeds
    budget: BudgetOverSeeds
    wall_ratio: Ratio
    meters: dict[str, Any]
    targets: str | None = Field(
        None, description="with which of 'teachers' the filling of its stored targets is counted"
    )
    collapsed: int | bool | list[Any] = Field(description="runs at chance or stopped by NaN")
    history: MeanHistory | None = None


class Comparison(_Record):
    """comparison.json: arms over seeds."""

    schema_: Literal[2] = Field(alias="schema")
    reference: str = Field(description="the arm that ratios and differences speak of")
    arms: list[ArmResult] = Field(
        description="those that have begun; until all are done, over the seeds that all have done"
    )
    planned: list[str] = Field(default_factory=list, description="the names of all arms")
    complete_seeds: list[int] = Field(
        default_factory=list, description="seeds that all planned arms have done"
    )
