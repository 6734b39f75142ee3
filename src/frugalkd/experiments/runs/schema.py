"""What results.json, summary.json and comparison.json hold: as JSON schemas, and as reports read
them. Keys that a later version adds are ignored; a key that earlier versions lack has a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

LARGEST = 10**20
"""The largest absolute value of a number: sums and figures of them then hold no infinity."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Read-only; numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class MetersRecord(Record):
    """The cost of a run, or the mean of several; None where nothing was measured."""

    samples_backpropagated: Number | None = Field(None, description="rows of the backward passes")
    student_forwards: Number | None = Field(None, description="rows, screening included")
    teacher_queries: Number | None = Field(None, description="rows, filling a store included")
    tokens_backpropagated: Number | None = Field(
        None, description="learned tokens of these rows, of language models; the next two likewise"
    )
    tokens_forwarded: Number | None = None
    token_queries: Number | None = None
    queries_of: dict[str, Number] = Field({}, description="the same for each of several teachers")
    flops: dict[str, Number] = Field({}, description="operations, by purpose")
    wall_seconds: Number | None = Field(None, description="of the training, without evaluation")
    eval_seconds: Number | None = None
    phases: dict[str, Number] = Field({}, description="seconds of each phase of the training")
    peak_memory_bytes: dict[str, Number] = {}


class Cost(Record):
    """In epochs of full distillation from stored targets; null for what is not known."""

    epochs: Number | None = Field(
        None, description="(3 x backpropagated + screened + r x teacher queries) / (3 x samples)"
    )
    filling: Number | None = Field(None, description="likewise, of filling stores ahead: apart")
    teacher_ratio: Number | None = Field(
        None, description="r: the teacher's forward over the trained model's, by FLOPs"
    )


class Evaluation(Record):
    """Measures on held-out data; all fractions in [0, 1]. Of one class the first four, of
    embeddings the next two, then those of regression, of several labels and of tokens."""

    samples: int = Field(ge=1, le=LARGEST)
    accuracy: Fraction | None = None
    worst_class_accuracy: Fraction | None = None
    expected_calibration_error: Fraction | None = None
    teacher_agreement: Fraction | None = None
    mean_cosine_distance: Number | None = Field(
        None, description="the mean of 1 - cosine to the teacher's embedding"
    )
    pairwise_spearman: Number | None = Field(
        None, description="the rank correlation of all pairs' cosines with the teacher's"
    )
    r2: Number | None = Field(None, description="1 - squared error / variance, the targets' mean")
    mae: Number | None = Field(None, description="the mean absolute error")
    rmse: Number | None = Field(None, description="the root of the mean squared error")
    teacher_rmse: Number | None = Field(None, description="the same to the teacher's values")
    micro_f1: Fraction | None = Field(None, description="of all labels together, at 1/2")
    macro_f1: Fraction | None = Field(None, description="the mean over the labels")
    mean_average_precision: Fraction | None = None
    tokens: Count | None = Field(None, description="of language models: tokens that are measured")
    cross_entropy: Number | None = Field(None, description="nats a token")
    perplexity: Number | None = Field(None, description="its exponential")
    entropy_saved: Number | None = Field(
        None, description="1 - cross-entropy / that of equal probabilities"
    )
    teacher_kl: Number | None = Field(None, description="KL(teacher || model), nats a token")

    @property
    def quality(self) -> tuple[str, float | None]:
        """The name and the value of the measure that runs are compared by: higher is better."""
        return quality_of(self.model_dump())


SHOWN_MEASURES: dict[str, tuple[str, bool]] = {
    "mean_cosine_distance": ("mean of 1 - cosine to the teacher", False),
    "pairwise_spearman": ("rank correlation of pairs with the teacher's", False),
    "r2": ("R2", False),
    "mae": ("mean absolute error", False),
    "rmse": ("root of the mean squared error", False),
    "teacher_rmse": ("the same to the teacher's values", False),
    "macro_f1": ("macro F1", True),
    "micro_f1": ("micro F1", True),
    "mean_average_precision": ("mean average precision", True),
    "perplexity": ("perplexity", False),
    "teacher_kl": ("KL to the teacher, nats a token", False),
    "accuracy": ("accuracy", True),
    "worst_class_accuracy": ("accuracy of the worst class", True),
    "expected_calibration_error": ("expected calibration error", True),
    "teacher_agreement": ("agreement with the teacher", True),
}
"""Fields of :class:`Evaluation` in the order in which they are shown: what they are called, and
whether in percent."""


def quality_of(evaluation: Mapping[str, Any] | None) -> tuple[str, float | None]:
    """As of :class:`Evaluation`, from plain values; None where nothing was measured."""
    measured = evaluation or {}
    if (distance := measured.get("mean_cosine_distance")) is not None:
        return "mean cosine", 1 - distance
    if (r2 := measured.get("r2")) is not None:
        return "R2", r2
    if (f1 := measured.get("macro_f1")) is not None:
        return "macro F1", f1
    if (saved := measured.get("entropy_saved")) is not None:
        return "entropy saved", saved
    return "accuracy", measured.get("accuracy")


class EpochRecord(Record):
    """One epoch of the history, and one line of metrics.jsonl."""

    epoch: int = Field(ge=0, le=LARGEST)
    loss: Number | None = None
    lr: Number | None = None
    samples: int = Field(ge=1, le=LARGEST, description="of the training set")
    planned: Count = Field(0, description="rows in the epoch's plan")
    screened: Count = Field(0, description="rows of the screening pass")
    rows: Count = Field(description="rows used for training")
    steps: Count = 0
    participations: Count = Field(0, description="of these rows, those that failed their gate")
    idle: Count = Field(0, description="of these rows, those that passed their gate")
    forced: Count = Field(0, description="rows that were not the gate's choice")
    deferred: Count = Field(0, description="planned rows left to a later epoch")
    disbelieved: Count = Field(0, description="samples left out for their labels (label_noise)")
    mean_weight: Number = Field(0.0, description="of the rows used for training")
    effective_samples: Number = Field(0.0, description="(sum of weights)^2 / sum of squares")
    progress: Number | None = Field(
        None, description="what is done of the training, of its cost where it has one, in [0, 1]"
    )
    samples_backpropagated: Count = Field(0, description="so far")
    student_forwards: Count = Field(0, description="so far")
    wall_seconds: Number | None = Field(None, description="so far")


class TeacherNote(Record):
    """The run that made the student's teacher; None where no run did."""

    digest: str | None = None
    evaluation: Evaluation | None = None
    of: dict[str, TeacherNote] | None = Field(None, description="the same for each of several")


class StoreCost(Record):
    """The cost of filling stores of soft targets before a training."""

    rows: Number = Field(description="through teachers, this run's stopped processes included")
    seconds: Number = Field(description="of wall_seconds")
    teacher_seconds: Number | None = Field(None, description="of these, in teachers")


class EncodingError(Record):
    """1 - cosine of stored and computed embeddings; of values the difference over their spread."""

    mean: Number
    largest: Number


class TargetsNote(Record):
    """The source of the soft targets."""

    kind: Literal["stored", "live", "ema", "several"]
    views: Count | None = None
    filled_here: bool = Field(False, description="whether this run queried the teacher")
    fill: Literal["ahead", "first-visit"] | None = None
    filling: StoreCost | None = Field(None, description="where this run filled a store ahead")
    combine: str | None = Field(None, description="how several teachers are combined")
    average: str | None = Field(None, description="what of several teachers is averaged")
    weights: list[Number] | None = Field(None, description="of several teachers")
    of: dict[str, TargetsNote] | None = Field(None, description="the same for each of several")
    encoding: dict[str, Any] | None = Field(None, description="its name and settings")
    encoding_error: EncodingError | None = Field(
        None, description="on 128 samples: of int8, and of values in float16"
    )
    rows: Count | None = Field(None, description="stored, of samples x views")
    bytes: Count | None = Field(None, description="of the store on disk")
    features: list[str] = Field([], description="stored modules of the teacher")


class ScoringNote(Record):
    """The scoring run whose scores decided which samples are used; no meter counts its cost."""

    kind: str = Field(description="how samples are scored")
    epochs: Number = Field(0, description="of each of its trainings")
    seeds: Count = Field(1, description="trainings whose scores are averaged")
    samples_backpropagated: Count
    student_forwards: Count = 0
    wall_seconds: Number
    made_here: bool = Field(True, description="whether this run computed the scores")
    file: str = Field("", description="in the teacher's, the comparison's stores/ or the run's")
    digest: str = Field("", description="SHA-256 of the scores")


class FeaturesNote(Record):
    """Of a teacher whose head alone was trained: the features of its training data."""

    rows: Count
    seconds: Number = Field(description="of computing them, in this run or an earlier one")
    reused_from: str | None = Field(None, description="the file of an earlier run")


class DataDigests(Record):
    """SHA-256 of the data of a run."""

    train: str
    held_out: str | None = Field(None, description="of the evaluation")


class Results(Record):
    """results.json: a finished run of 'frugalkd teach' or 'frugalkd distill'."""

    schema_: Literal[1] = Field(1, alias="schema")
    kind: Literal["teach", "distill"]
    digest: str = Field(description="SHA-256 of everything that decides the result")
    recipe: dict[str, Any] = Field(description="as resolved: see 'frugalkd schema recipe'")
    data: DataDigests | None = None
    ranks: Count = Field(1, description="processes that trained it together")
    versions: dict[str, str]
    seed: Count
    threads: Count
    device: str = "cpu"
    split: Literal["test", "validation"] = Field(description="of the evaluation")
    train_samples: int = Field(ge=1, le=LARGEST)
    epochs: Number | None = Field(None, description="fewer than the recipe's if its policy stopped")
    budget: Number = Field(description="samples_backpropagated / (train_samples x epochs)")
    token_budget: Number | None = Field(None, description="of a corpus, the same of its tokens")
    cost: Cost | None = Field(None, description="not held by earlier versions")
    meters: MetersRecord
    evaluation: Evaluation | None = None
    teacher: TeacherNote | None = None
    targets: TargetsNote | None = None
    scoring: ScoringNote | None = None
    features: FeaturesNote | None = None
    plans: str | None = Field(None, description="SHA-256 of the recorded plans/, if they are kept")
    history: list[EpochRecord] = []


class Shares(Record):
    """Fractions of the samples by epoch, in [0, 1]."""

    every: int = Field(1, ge=1, le=LARGEST, description="epochs that each value is the mean of")
    trained: list[Number] = Field([], description="with a backward pass")
    participations: list[Number] = Field([], description="of these, failed their own gate")
    screened: list[Number] = []

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if {len(self.participations), len(self.screened)} - {0, len(self.trained)}:
            raise PydanticCustomError("lengths", "its lists are not equally long")
        return self

    @property
    def epochs(self) -> list[float]:
        """The middle of each value's epochs, on an axis that begins at 1."""
        return [1 + self.every * k + (self.every - 1) / 2 for k in range(len(self.trained))]


class ClassRecord(Record):
    """Significance within one class."""

    name: str = Field(alias="class")
    samples: Count
    mean: Number
    never: Number
    always: Number


class Sample(Record):
    """A sample at one of the ends."""

    id: int = Field(ge=0, le=LARGEST)
    name: str | None = Field(alias="class")
    significance: Number
    confidence: Number | None
    correct: bool
    predicted: str | None = Field(None, description="the model's values, where these are learned")
    wanted: str | None = Field(None, description="the labels, likewise")


class Suspect(Record):
    """A label that is likely to be wrong; classes by name, null for what is not known."""

    id: int = Field(ge=0, le=LARGEST)
    given: str | None = None
    suggested: str | None = None
    score: Number | None = Field(None, description="what the ranking goes by, the lowest first")
    margin: Number = Field(description="mean of the given label's margin in training")
    probability: Number = Field(description="mean of its softmax probability")


class LedgerSummary(Record):
    """A summary of a ledger, as summary.json holds it."""

    schema_: Literal[1] = Field(1, alias="schema")
    kind: Literal["teach", "distill", "ledger"] = "teach"
    samples: Count
    epochs: Number
    policy: str = ""
    data: str | None = None
    mean: Number
    never: Number
    always: Number
    classes: list[ClassRecord]
    classes_left_out: Count = 0
    histogram: list[Count]
    most: list[Sample]
    least: list[Sample]
    refused: Count | None = Field(None, description="labels of a negative mean margin")
    suspects: list[Suspect] = Field([], description="the most suspicious labels, a run's own")


class RunRecord(Results):
    """A run as a report reads it, with its ledger's summary.json."""

    shares: Shares | None = None
    summary: LedgerSummary | None = None


class Spread(Record):
    """A mean over seeds."""

    mean: Number | None = None
    ci95: tuple[Number, Number] | None = Field(default=None, description="null for one seed")
    values: list[Number | None] = Field(default=[], description="by seed; null for a failed run")


class Match(Record):
    """A control's samples, or cost, over those of the arm that it matches."""

    by: Literal["samples", "cost"] = "samples"
    ratios: list[Number] = []
    within_tolerance: bool


class Frontiers(Record):
    """Whether no other arm is as accurate and cheaper: in cost, in samples, in time."""

    cost: bool = False
    budget: bool = False
    time: bool = False


class ArmRecord(Record):
    """One row of a comparison. Budgets are samples backpropagated, as fractions of full
    distillation over the same epochs."""

    arm: str
    about: str = ""
    mode: str | None = None
    seeds: list[Count]
    accuracy: Spread
    worst_class: Spread | None = None
    difference: Spread | None = None
    against_random: Spread | None = None
    budget: Spread
    target_budget: Number | None = Field(
        None, alias="budget_asked", description="the budget that was set, as of ARM@BUDGET"
    )
    own_budget: bool = False
    on_budget: bool | None = None
    forwards: Spread = Spread()
    cost: Spread = Field(Spread(), description="in epochs of full distillation")
    wall_ratio: Spread = Field(description="training seconds divided by the reference's")
    meters: MetersRecord
    collapsed: Count = Field(0, description="runs at chance or stopped by NaN")
    collapsed_seeds: list[Count] = []
    failed: list[Count] = []
    control: str | None = None
    control_of: str | None = None
    matched: Match | None = None
    scoring: ScoringNote | None = None
    digests: dict[str, str] = {}
    frontier: Frontiers | None = None
    history: Shares | None = None
    teacher: str | None = None
    targets: str | None = Field(None, description="the teacher of its stored targets")

    def accuracies(self) -> dict[int, float]:
        """By seed, of the runs that gave one."""
        known = zip(self.seeds, self.accuracy.values, strict=False)
        return {seed: value for seed, value in known if value is not None}

    @property
    def family(self) -> str:
        """The arm's name without its budget."""
        return self.arm if self.target_budget is None else self.arm.rpartition("@")[0] or self.arm

    @property
    def marks(self) -> list[str]:
        """What a reader must know beside the numbers."""
        runs, failed = len(self.seeds), len(self.failed)
        marks = {
            f"{failed} of {runs} failed": failed,
            f"{self.collapsed - failed} of {runs} collapsed": self.collapsed > failed,
            "not matched": self.matched is not None and not self.matched.within_tolerance,
            "off its budget": self.on_budget is False,
            "own budget": self.own_budget,
        }
        return [mark for mark, holds in marks.items() if holds]


class Teacher(Record):
    """One teacher of a comparison."""

    teacher: str
    settings: dict[str, Any] = {}
    seed: Count | None = None
    accuracy: Number | None = None
    budget: Number | None = None
    wall_seconds: Number | None = None
    meters: MetersRecord | None = None
    features: FeaturesNote | None = None
    digest: str | None = None
    error: str | None = None
    folder: str | None = Field(None, description="where it was trained before, outside of this")
    targets: StoreCost | None = None
    summary: LedgerSummary | None = None


class ClaimRecord(Record):
    """A declared claim, and its outcome."""

    arm: str
    against: str
    claim: str
    margin: Number | None = None
    seeds: list[Count] = []
    difference: Spread
    p: Number | None = None
    p_holm: Number
    holds: bool
    why: str = ""


class Failure(Record):
    """A run that failed."""

    kind: str
    name: str
    seed: Count | None = None
    error: str
    traceback: str | None = None


class RunsDone(Record):
    """How many of a comparison's runs have ended."""

    done: Count
    of: Count


class Comparison(Record):
    """comparison.json: arms over seeds."""

    schema_: Literal[2] = Field(2, alias="schema")
    reference: str = Field(description="the arm of ratios and differences")
    measure: str = Field("accuracy", description="what the accuracies are, in [0, 1]")
    arms: list[ArmRecord] = Field(description="that have begun, over the seeds that all have done")
    teachers: list[Teacher] = []
    failed: list[Failure] = []
    complete: bool = True
    complete_seeds: list[Count] | None = Field(None, description="that all planned arms have done")
    planned: list[str] = Field([], description="the names of all arms")
    runs: RunsDone | None = None
    name: str
    seeds: list[Count]
    split: str | None = None
    threads: Count | None = None
    versions: dict[str, str] | None = None
    notes: list[str] = []
    recipe: dict[str, Any]
    claims: list[ClaimRecord] = []

    @property
    def a_measure(self) -> str:
        """The measure in a sentence: an accuracy, a mean cosine, an R2."""
        return f"{'an' if self.measure[:1] in 'aeiouR' else 'a'} {self.measure}"

    def named(self, name: str | None) -> ArmRecord | None:
        """The arm of that name."""
        return next((arm for arm in self.arms if arm.arm == name), None)


def section(of: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a recipe that was not validated; {} where there is none."""
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def called(of: dict[str, Any], name: str) -> str | None:
    """The name, or the import path, of such a section."""
    said = section(of, name)
    return said.get("path") or said.get("name")
