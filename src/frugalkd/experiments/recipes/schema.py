"""What a recipe may say. Everything else is refused, with the nearest name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from frugalkd.data import DATA
from frugalkd.data.class_names import Match
from frugalkd.experiments.recipes.several import Several, folder_names
from frugalkd.experiments.recipes.specs import ObjectiveSpec, PolicySpec
from frugalkd.experiments.recipes.trackers import Trackers
from frugalkd.models.features.paths import is_glob, means
from frugalkd.models.settings import ModelSettings
from frugalkd.objectives.objective import features_read
from frugalkd.policies import SelfRegulation
from frugalkd.policies.modes import MODES, ModeName
from frugalkd.runtime.sections import NamedOrPath, PlainDict, Strict
from frugalkd.runtime.settings import MOST_SEED
from frugalkd.selection.checks import why_not_label_free
from frugalkd.teachers.ema import DECAY
from frugalkd.teachers.encodings import make_encoding
from frugalkd.teachers.fidelity import Fidelity, too_little
from frugalkd.teachers.several import NOT_TOGETHER
from frugalkd.teachers.targets import NO_FEATURES
from frugalkd.training.settings import Checkpointing, Training


class Data(NamedOrPath):
    """The data: ``name`` a data set of ours, or ``path`` a callable that returns a training set,
    or a pair of training and test set, map-style."""

    name: str | None = Field(None, description=f"one of ours: {', '.join(DATA)}")
    root: str | None = Field(None, description="the folder that holds the data sets")
    train_size: int | None = Field(
        None, gt=0, description="a fixed random part of the training set"
    )
    validation: int = Field(
        0,
        ge=0,
        description="rows held out of the training set and measured on in place of the test set",
    )


class Augment(Strict):
    """Random views of a sample, each a function of (seed, id, view)."""

    crop: int = Field(0, ge=0, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="horizontal flip with probability 1/2")


class Role(Strict):
    """What teacher and student have in common."""

    model: ModelSettings
    augment: Augment = Field(default_factory=lambda: Augment.model_validate({}))
    training: Training = Training()


class TeacherRole(Role):
    """The teacher and how it is trained."""

    objective: ObjectiveSpec = Field({"name": "cross-entropy"}, validate_default=True)
    policy: PolicySpec = Field({"name": "self-regulation"}, validate_default=True)
    trains: Literal["all", "head"] = Field(
        "all",
        description="all of the model; or head: only its last linear layer, on features that are "
        "asked for once",
    )
    weights: str | None = Field(
        None, description="a pretrained teacher's state dict (.safetensors, or .pt without pickle)"
    )

    @model_validator(mode="after")
    def _has_a_classifier(self) -> TeacherRole:
        if self.model.reuse_classifier_dim is not None:
            raise ValueError(
                "model.reuse_classifier_dim is a student's: the teacher has a classifier"
            )
        return self

    @property
    def gated(self) -> bool:
        """Whether its training finds out which samples matter."""
        return self.policy.build().needs_screening


class TargetsRole(Strict):
    """Where soft targets come from."""

    kind: Literal["stored", "live", "ema"] = Field(
        "stored", description="ema: self-distillation, the teacher is the student's own average"
    )
    decay: float = Field(DECAY, ge=0, lt=1, description="of that average")
    views: int = Field(1, ge=1, description="stored views that a sample's visits cycle through")
    encoding: Literal["float16", "float32", "top-k", "sampled"] = Field(
        "float16",
        description="all classes in float16 or float32; the k largest and the rest's mass; or k "
        "unbiased draws. The last two serve the objective's temperature only",
    )
    k: int = Field(32, ge=1, le=65536, description="of top-k (below the classes) and of sampled")
    fill: Literal["ahead", "first-visit"] = Field(
        "ahead",
        description="ahead: before training, into the teacher's folder, for all students; "
        "first-visit: as samples are visited, into the run's folder",
    )
    folder: str | None = Field(
        None, description="a store made by 'frugalkd store', in place of these folders"
    )
    features: tuple[str, ...] = Field(
        (),
        description="paths or globs of the teacher's modules whose features are stored too, in "
        "float16, for objectives that read them",
    )
    classes: Match = Field(
        "same",
        description="same: a teacher whose classes have other names than the data's, or another "
        "order, is refused; by-name: its outputs are reordered; by-position: class i is class i, "
        "whatever the names",
    )

    @model_validator(mode="after")
    def _features_are_stored_ahead(self) -> TargetsRole:
        if self.features and (self.kind, self.fill) != ("stored", "ahead"):
            raise ValueError("features are stored ahead: set kind to stored and fill to ahead")
        return self


class StudentRole(Role):
    """The student and how it is distilled."""

    objective: ObjectiveSpec = Field({"name": "kd"}, validate_default=True)
    mode: ModeName | None = Field("regulated", description="sugar for policy and weighting")
    regulation: SelfRegulation = Field(
        default_factory=SelfRegulation, description="the student's own gate, where the mode has one"
    )
    gamma: float = Field(1.0, ge=0, description="weights are significance ** gamma")
    policy: PolicySpec | None = Field(None, description="who takes part, instead of a mode")
    weighting: Literal["uniform", "significance"] | None = Field(
        None, description="what a sample weighs, instead of a mode"
    )
    label_free: bool = Field(
        False,
        description="read no label of the training set: the teacher's top class stands in, in the "
        "loss and in gates",
    )
    targets: TargetsRole = Field(default_factory=lambda: TargetsRole.model_validate({}))
    teachers: Several | None = Field(None, description="several teachers in the place of one")

    @model_validator(mode="after")
    def _mode_or_parts(self) -> StudentRole:
        if self.mode is None and self.policy is None:
            raise ValueError("give a mode, or a policy (with a weighting)")
        if self.mode is not None and (self.policy or self.weighting):
            raise ValueError("mode stands for policy and weighting: set mode: null to give those")
        return self

    @model_validator(mode="after")
    def _one_classifier_to_reuse(self) -> StudentRole:
        if self.model.reuse_classifier_dim is not None and (
            self.teachers or self.targets.kind == "ema"
        ):
            raise ValueError(
                "model.reuse_classifier_dim takes the classifier of one teacher: name one"
            )
        return self

    @model_validator(mode="after")
    def _targets_say_enough(self) -> StudentRole:
        if self.objective.imports:  # nothing of the user's is imported to read a recipe
            return self
        objective = self.objective.build()
        if not objective.needs_targets:
            return self
        stored = make_encoding(self.targets.encoding, self.targets.k)
        keeps = stored.keeps if self.stores else Fidelity.LOGITS
        if self.teachers is not None:
            keeps = min(keeps, self.teachers.keeps)
        if keeps < objective.reads:
            raise ValueError(too_little(type(objective).__name__, objective.reads, keeps))
        by_features = bool(features_read(objective))
        if self.teachers is None:
            named = self.targets.features or self.targets.folder is not None
            if by_features and self.stores and not named:
                raise ValueError(NO_FEATURES)
            if self.stores and self.targets.features and self.targets.folder is None:
                self._all_features_are_stored(features_read(objective))
            return self
        if self.targets.kind == "ema":
            raise ValueError("teachers: set targets.kind to stored or live, and that of one to ema")
        if by_features or self.targets.features:
            raise ValueError(f"teachers: {NOT_TOGETHER}")
        if self.targets.folder is not None:
            raise ValueError("targets.folder is one teacher's: name stores in teachers.of")
        if stored.temperature is not None and self.stores and self.teachers.reads_logits:
            raise ValueError(
                f"teachers: {self.teachers.combine} of {self.teachers.average} needs whole logits, "
                f"and targets.encoding {self.targets.encoding} keeps less: set it to float16, or "
                "teachers.average to softmax"
            )
        return self

    def _all_features_are_stored(self, read: tuple[str, ...]) -> None:
        """As far as names can tell: what a glob means is known with the teacher."""
        stored = self.targets.features
        for path in read:
            if not is_glob(path) and not any(means(pattern, path) for pattern in stored):
                raise ValueError(
                    f"targets.features stores {', '.join(stored)}, and the objective reads {path}: "
                    "add it"
                )

    @model_validator(mode="after")
    def _labels_are_not_needed(self) -> StudentRole:
        if self.label_free:
            own = None if self.policy is None else self.policy.build()
            problem = why_not_label_free(
                own or MODES[self.mode or "vanilla"].policy(self.regulation),
                asks_teacher=bool(self.objective.imports) or self.objective.build().needs_targets,
                targets_read_labels=self.teachers is not None
                and self.teachers.combine == "confidence",
            )
            if problem is not None:
                raise ValueError(problem)
        return self

    @property
    def asks_own_teacher(self) -> bool:
        """Whether the run's own teacher is asked for soft targets: alone, or as one of several."""
        if self.targets.kind == "ema" or not self.objective.build().needs_targets:
            return False
        return self.teachers is None or any(each.is_own for each in self.teachers.of.values())

    @property
    def weighted(self) -> bool:
        """Whether samples weigh by the significance that the teacher's training gave them."""
        return MODES[self.mode].weighted if self.mode else self.weighting == "significance"

    @property
    def gated(self) -> bool:
        """Whether its own training finds out which samples matter."""
        if self.mode is not None:
            return MODES[self.mode].gated
        return self.policy is not None and self.policy.build().needs_screening

    @property
    def stores(self) -> bool:
        """Whether soft targets are stored as ``targets`` says, any teacher's."""
        if self.teachers is None:
            return self.targets.kind == "stored"
        return any(
            each.store is None and (each.kind or self.targets.kind) == "stored"
            for each in self.teachers.of.values()
        )


class Arm(Strict):
    """One row of a comparison: what differs from the recipe, or a control of another arm."""

    set: PlainDict = Field(default_factory=dict, description="section.key: value")
    teacher: str | None = Field(None, description="one of the recipe's teachers")
    control: Literal["random", "random-counts", "random-static", "short"] | None = None
    match: str | None = Field(None, description="the arm whose samples the control copies")

    @model_validator(mode="after")
    def _control_matches(self) -> Arm:
        if (self.control is None) != (self.match is None):
            raise ValueError("a control names the arm that it matches: give control and match")
        return self


class Recipe(Strict):
    """Everything that makes a run: teacher, student, data, and how they are trained."""

    name: str
    summary: str = ""
    seed: int = Field(0, ge=0, le=MOST_SEED)
    threads: int = Field(1, ge=1, description="CPU threads; part of a run's digest")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: Data
    teacher: TeacherRole
    student: StudentRole
    teachers: Annotated[dict[str, PlainDict], AfterValidator(folder_names)] = Field(
        default_factory=lambda: {
            "self-regulated": {},
            "conventional": {"teacher.policy": {"name": "all"}},
        },
        description="teachers that a comparison trains, as what differs from this recipe",
    )
    checkpoints: Checkpointing = Field(
        default_factory=Checkpointing,
        description="when a training writes down where it is; not part of a run's digest",
    )
    trackers: Trackers = Field(
        default_factory=Trackers,
        description="TensorBoard and the like, told of each epoch; not part of a run's digest",
    )
    arms: Annotated[dict[str, Arm], AfterValidator(folder_names)] = Field(
        default_factory=dict, description="rows of a comparison"
    )
