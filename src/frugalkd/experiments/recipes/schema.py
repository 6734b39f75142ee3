"""The schema of a recipe. Any other key is refused, with the nearest name."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from frugalkd.data import DATA, Augmentation
from frugalkd.data.class_names import Match
from frugalkd.data.labels import Noise
from frugalkd.errors import ModelError, TargetsError
from frugalkd.experiments.tracking.trackers import TRACKERS, Tracker
from frugalkd.language.encodings import RECORD_BYTES, TOKEN_ENCODINGS
from frugalkd.language.named import CORPORA
from frugalkd.models.building import ModelSettings
from frugalkd.models.features import is_glob, means
from frugalkd.models.initial import PRETRAINED
from frugalkd.models.libraries import EMBEDDERS
from frugalkd.objectives import OBJECTIVES, Objective, Ramp, Scheduled, WeightedSum
from frugalkd.objectives.objective import features_read, why_not_by_row
from frugalkd.outputs import ONE_CLASS, OUTPUTS
from frugalkd.policies import POLICIES, Policy, Replay, SelfRegulation
from frugalkd.policies.modes import MODES, ModeName, check_cost, choose
from frugalkd.runtime.imports import make_object
from frugalkd.runtime.sections import NamedOrPath, PlainDict, Strict
from frugalkd.runtime.settings import MOST_SEED
from frugalkd.selection.checks import why_not_label_free
from frugalkd.selection.inputs import why_not_for
from frugalkd.teachers.average import DECAY
from frugalkd.teachers.encodings import ENCODINGS, Fidelity, encoding_for, too_little
from frugalkd.teachers.several import Combine, SeveralTeachers, shares_of
from frugalkd.teachers.targets import Targets
from frugalkd.training.settings import Checkpointing, Training

_FOLDER_NAME = re.compile(r"\w[\w .:+-]{0,99}")


def folder_names(section: dict[str, Any]) -> dict[str, Any]:
    """``section``, if all its keys can name folders inside a comparison's. Raises ValueError."""
    for name in section:
        if not _FOLDER_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} cannot be a name here: it names a folder, and up to 100 letters, "
                "digits, spaces and _ . : + - are allowed, a letter or digit first"
            )
    return section


class Data(NamedOrPath):
    """The data: ``name`` one of frugalkd's data sets, or ``path`` a callable that returns a
    training set, or a pair of training and test set, map-style."""

    name: str | None = Field(None, description=f"one of frugalkd's: {', '.join([*DATA, *CORPORA])}")
    root: str | None = Field(None, description="the folder that holds the data sets")
    train_size: int | None = Field(None, gt=0, description="random rows of the training set, fixed")
    validation: int = Field(0, ge=0, description="training rows that replace the test set")
    noise: Noise | None = Field(
        None, description="wrong labels to inject into the training set, for experiments"
    )
    relabel: str | None = Field(
        None, description="a file of 'frugalkd ledger audit --fix': samples and their classes"
    )
    exclude: str | None = Field(None, description="likewise: samples to leave out")


class _Trackers(Strict):
    """Trackers that log runs, beside the run folder: a name, a list of names, or a section each."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, said: Any) -> Any:
        names = [said] if isinstance(said, str) else said
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            said = dict.fromkeys(names)
        if isinstance(said, Mapping):  # a name with nothing below it has its defaults
            said = {name: {} if below is None else below for name, below in said.items()}
        return said

    @model_serializer(mode="wrap")
    def _chosen_only(self, plain: Any) -> dict[str, Any]:
        return {name: below for name, below in plain(self).items() if below is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        name = {"enum": list(TRACKERS)}
        return {"anyOf": [handler(schema), name, {"type": "array", "items": name}]}

    @property
    def chosen(self) -> dict[str, Tracker]:
        """By name."""
        return {name: tracker for name, tracker in self if tracker is not None}


if TYPE_CHECKING:
    Trackers = _Trackers
else:
    _OFF: dict[str, Any] = {name: (made | None, None) for name, made in TRACKERS.items()}
    Trackers = create_model("Trackers", __base__=_Trackers, __doc__=_Trackers.__doc__, **_OFF)


def _schedule_or_number(said: Any) -> str:
    return "schedule" if isinstance(said, Mapping | Ramp) else "number"


Changing = Annotated[
    Annotated[Ramp, Tag("schedule")] | Annotated[float, Tag("number")],
    Discriminator(_schedule_or_number),
]


class Spec(Strict, ABC):
    """A policy or an objective: its ``name`` and its own settings."""

    name: str

    @property
    def called(self) -> str:
        """What a person calls it: its name, or the import path."""
        return self.name

    @property
    @abstractmethod
    def imports(self) -> tuple[str, ...]:
        """The import paths that it names."""

    @abstractmethod
    def build(self) -> Any:
        """The object itself."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.imports:
            self.build()  # raises ValueError for impossible values
        return self


class RegisteredSpec(Spec):
    """A class of a registry, ``made_of``."""

    made_of: ClassVar[type]

    @property
    def imports(self) -> tuple[str, ...]:
        return ()

    def build(self) -> Any:
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        settings.pop("name")
        ramps = {name: value for name, value in settings.items() if isinstance(value, Ramp)}
        settings |= {name: ramp.start for name, ramp in ramps.items()}
        made = self.made_of(**settings)
        return Scheduled(made, tuple(ramps.items())) if ramps else made


class OwnSpec(Spec):
    """Your own, by import path: a callable that makes a ``makes``."""

    makes: ClassVar[type]

    name: Literal["own"] = "own"
    path: str = Field(description="your own: package.module:Name")
    options: PlainDict = Field(default_factory=dict, description="its keyword arguments")

    @property
    def called(self) -> str:
        return self.path

    @property
    def imports(self) -> tuple[str, ...]:
        return (self.path,)

    def build(self) -> Any:
        """Imports it. Raises ModelError."""
        made = make_object(self.path, self.options)
        if not isinstance(made, self.makes):
            room, _, _ = self.makes.__module__.rpartition(".")
            raise ModelError(
                f"{self.path} made a {type(made).__name__}: it must make a "
                f"{room}.{self.makes.__name__}"
            )
        return made


class OwnObjective(OwnSpec):
    """Your own objective, by import path: a callable that makes a frugalkd Objective."""

    makes = Objective


class OwnPolicy(OwnSpec):
    """Your own policy, by import path: a callable that makes a frugalkd Policy."""

    makes = Policy


def _specs_of(registry: Mapping[str, type], number: Any = float) -> list[type[Spec]]:
    """One model for each dataclass of a registry; ``number`` replaces float."""
    specs = []
    for name, made_of in registry.items():
        hints = get_type_hints(made_of)
        fields: dict[str, Any] = {"name": (Literal[name], name)}
        for field in dataclasses.fields(made_of):
            kind = number if hints[field.name] is float else hints[field.name]
            must = field.default is dataclasses.MISSING
            fields[field.name] = (kind, ... if must else field.default)
        spec = create_model(f"{made_of.__name__}Spec", __base__=RegisteredSpec, **fields)
        spec.__doc__ = (made_of.__doc__ or "").split("\n")[0]
        spec.made_of = made_of
        specs.append(spec)
    return specs


def _name_of(said: Any) -> Any:
    """The name of a spec; a path without a name is your own."""
    if not isinstance(said, Mapping):
        return getattr(said, "name", None)
    return said.get("name", "own" if "path" in said else None)


def _one_of(specs: list[type[Spec]]) -> Any:
    """A union of them, discriminated by ``name``."""
    tagged = [Annotated[spec, Tag(spec.model_fields["name"].default)] for spec in specs]
    return Annotated[reduce(or_, tagged), Discriminator(_name_of)]


if TYPE_CHECKING:  # a checker cannot follow a union that is made at run time
    PolicySpec = _TermSpec = Spec
else:
    PolicySpec = _one_of([*_specs_of({**POLICIES, "replay": Replay}), OwnPolicy])
    _OBJECTIVES = [*_specs_of(OBJECTIVES, Changing), OwnObjective]
    _TermSpec = _one_of(_OBJECTIVES)


class Term(Strict):
    """One of a sum."""

    weight: Changing = Field(1.0, description="a number, or a schedule of start, end and shape")
    of: _TermSpec = Field(description="an objective")


class SumSpec(Spec):
    """A weighted sum of objectives."""

    name: Literal["sum"] = "sum"
    terms: tuple[Term, ...] = Field(description="two or more")

    @property
    def imports(self) -> tuple[str, ...]:
        return tuple(path for term in self.terms for path in term.of.imports)

    def build(self) -> Any:
        """The sum. Raises ModelError where a term of your own cannot be made."""
        objectives = tuple(term.of.build() for term in self.terms)
        return WeightedSum(objectives, tuple(term.weight for term in self.terms))


if TYPE_CHECKING:
    ObjectiveSpec = Spec
else:
    ObjectiveSpec = _one_of([*_OBJECTIVES, SumSpec])


class Role(Strict):
    """What teacher and student have in common."""

    model: ModelSettings
    augment: Augmentation = Augmentation()
    training: Training = Training()
    class_weights: Literal["balanced"] | tuple[float, ...] | None = Field(
        None, description="balanced, or what samples of each class weigh, scaled to a mean of 1"
    )
    dynamics: bool = Field(
        False, description="record training dynamics in the ledger, for 'frugalkd ledger audit'"
    )


class TeacherRole(Role):
    """The teacher and how it is trained."""

    objective: ObjectiveSpec = Field({"name": "cross-entropy"}, validate_default=True)
    policy: PolicySpec = Field({"name": "self-regulation"}, validate_default=True)
    trains: Literal["all", "head"] = Field(
        "all", description="head: only the last linear layer, on features that are computed once"
    )
    weights: str | None = Field(
        None,
        description="a pretrained state dict (.safetensors, or .pt without pickle); or pretrained: "
        "those that the model's path begins with",
    )
    dynamics: bool = Field(
        True, description="record training dynamics in the ledger, for 'frugalkd ledger audit'"
    )

    @model_validator(mode="after")
    def _pretrained_by_path(self) -> TeacherRole:
        ready = [*sorted(EMBEDDERS), "causal-lm"]
        if self.weights == PRETRAINED and self.model.name not in ready:
            raise ValueError(
                f"weights: pretrained is for {', '.join(ready)}, which need no training: name a "
                "file, or train the teacher"
            )
        if self.weights == PRETRAINED and "config" in self.model.options:
            raise ValueError("model.options.config is for new weights: leave it, or weights, out")
        return self

    @model_validator(mode="after")
    def _has_a_classifier(self) -> TeacherRole:
        if self.model.reuse_classifier_dim is not None:
            raise ValueError(
                "model.reuse_classifier_dim is a student's: the teacher has a classifier"
            )
        return self

    @model_validator(mode="after")
    def _policy_fits(self) -> TeacherRole:
        if self.augment.mix is not None:
            raise ValueError(
                "augment.mix: mixed views have no label of their own, and a teacher learns from "
                "labels: give it to the student"
            )
        if self.objective.imports:
            return self
        output = OUTPUTS[self.objective.build().learns]
        if not self.policy.imports and (problem := why_not_for(self.policy.build(), output)):
            raise ValueError(problem)
        if self.trains == "head" and not output.by_top_class:
            raise ValueError(f"trains: head is for classes, not for {output.plural}: set it to all")
        return self

    @property
    def gated(self) -> bool:
        """Whether its training gives samples a significance."""
        return self.policy.build().needs_screening


class TargetsRole(Strict):
    """The source of the soft targets."""

    kind: Literal["stored", "live", "ema"] = Field(
        "stored", description="ema: self-distillation, the teacher is the student's own average"
    )
    decay: float = Field(DECAY, ge=0, lt=1, description="of that average")
    views: int = Field(1, ge=1, description="stored views that a sample's visits cycle through")
    encoding: Literal[
        "float16", "float32", "top-k", "sampled", "int8", "head+tail", "top-k+tail"
    ] = Field(
        "float16",
        description="all classes in float16 or float32; the k largest and the rest's mass; or k "
        "unbiased draws. The last two serve the objective's temperature only. int8: of embeddings. "
        "Of tokens head+tail, top-k+tail, top-k, sampled (docs/language.md)",
    )
    k: int = Field(32, ge=1, le=65536, description="of top-k (below the classes) and of sampled")
    record_bytes: int = Field(RECORD_BYTES, ge=1, le=65536, description="of a token's record")
    fill: Literal["ahead", "first-visit"] = Field(
        "ahead",
        description="ahead: before training, into the teacher's folder, for all students; "
        "first-visit: as samples are visited, into the run's folder",
    )
    folder: str | None = Field(None, description="a store, in place of these folders")
    features: tuple[str, ...] = Field(
        (), description="paths or globs of the teacher's modules whose features are stored too"
    )
    classes: Match = Field(
        "same",
        description="same: a teacher with other class names, or in another order, is refused; "
        "by-name: its outputs are reordered; by-position: names are ignored",
    )

    @model_validator(mode="after")
    def _features_are_stored_ahead(self) -> TargetsRole:
        if self.features and (self.kind, self.fill) != ("stored", "ahead"):
            raise ValueError("features are stored ahead: set kind to stored and fill to ahead")
        return self


class OneOfSeveral(Strict):
    """One of several teachers: a run's folder, a store of its soft targets, or pretrained weights;
    where none of these is given, the run's own teacher."""

    folder: str | None = Field(None, description="made by 'frugalkd teach' or 'distill'")
    store: str | None = Field(None, description="made by 'frugalkd store', without a model")
    weights: str | None = Field(None, description="a pretrained state dict of model")
    model: ModelSettings | None = Field(
        None, description="of weights; or what a folder's model.json may name to import"
    )
    kind: Literal["stored", "live", "ema"] | None = Field(None, description="see student.targets")
    classes: Match | None = Field(None, description="see student.targets")
    weight: float | None = Field(None, gt=0, description="its share of 1")

    @model_validator(mode="after")
    def _one_source(self) -> OneOfSeveral:
        sources = [self.folder, self.store, self.weights]
        if sources.count(None) < 2:
            raise ValueError("give one of folder, store and weights, or none for the run's teacher")
        if self.weights is not None and self.model is None:
            raise ValueError("weights belong to a model: give model, too")
        if self.model is not None and self.weights is None and self.folder is None:
            raise ValueError("a model without weights is untrained: give weights, or a folder")
        if self.store is not None and self.kind == "live":
            raise ValueError("a store has no model to query live: give a folder")
        if self.kind == "ema" and any(sources):
            raise ValueError("the student's average (ema) has no folder, store or weights")
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is the run's own teacher."""
        return self.kind != "ema" and not (self.folder or self.store or self.weights)


class Several(Strict):
    """Several teachers as one (docs/teachers.md)."""

    combine: Combine = Field(
        "mean", description="by equal weights, each one's weight, confidence in the label; or one"
    )
    average: Literal["logits", "softmax"] = Field(
        "logits", description="what is averaged; softmax: at the objective's temperature"
    )
    of: Annotated[dict[str, OneOfSeveral], AfterValidator(folder_names)] = Field(
        description="two or more, by name"
    )

    @model_validator(mode="after")
    def _possible(self) -> Several:
        if self.combine == "random" and self.average == "softmax":
            raise ValueError("combine: random takes one of them, and averages nothing")
        try:
            shares_of(self.combine, self.weights, len(self.of))
        except TargetsError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def weights(self) -> list[float] | None:
        """Of each teacher, where they have some."""
        return [each.weight for each in self.of.values() if each.weight is not None] or None


class StudentRole(Role):
    """The student and how it is distilled."""

    objective: ObjectiveSpec = Field({"name": "kd"}, validate_default=True)
    mode: ModeName | None = Field("regulated", description="sugar for policy and weighting")
    regulation: SelfRegulation = Field(
        default_factory=SelfRegulation, description="the student's own gate, if the mode has one"
    )
    cost: float | None = Field(
        None, gt=0, description="what the training may cost, as a fraction of full training"
    )
    gamma: float = Field(1.0, ge=0, description="weights are significance ** gamma")
    policy: PolicySpec | None = Field(None, description="which samples are used, instead of a mode")
    weighting: Literal["uniform", "significance"] | None = Field(
        None, description="of the samples, instead of a mode"
    )
    label_free: bool = Field(
        False, description="use the teacher's top class in place of the training set's labels"
    )
    positions: float = Field(
        1.0, gt=0, le=1,
        description="of a corpus: the part of a block's rows that each visit learns, at random",
    )  # fmt: skip
    targets: TargetsRole = Field(default_factory=lambda: TargetsRole.model_validate({}))
    teachers: Several | None = Field(None, description="several teachers in the place of one")

    @model_validator(mode="after")
    def _mode_or_parts(self) -> StudentRole:
        if self.mode is None and self.policy is None:
            raise ValueError("give a mode, or a policy (with a weighting)")
        if self.mode is not None and (self.policy or self.weighting):
            raise ValueError("mode stands for policy and weighting: set mode: null to give those")
        if self.cost is not None:
            check_cost(self.cost)
            _ = self.known_policy
        one_teacher = self.teachers is None and self.targets.kind != "ema"
        if self.model.reuse_classifier_dim is not None and not one_teacher:
            raise ValueError(
                "model.reuse_classifier_dim takes the classifier of one teacher: name one"
            )
        return self

    @model_validator(mode="after")
    def _targets_say_enough(self) -> StudentRole:
        if self.objective.imports:  # no user code is imported to read a recipe
            return self
        objective = self.objective.build()
        if not objective.needs_targets or self.targets.encoding not in ENCODINGS:
            return self
        stored = encoding_for(objective.learns, self.targets.encoding, self.targets.k)
        keeps = stored.keeps if self.stores else Fidelity.LOGITS
        if self.teachers is not None and self.teachers.average == "softmax":
            keeps = min(keeps, Fidelity.SOFTMAX)
        if keeps < objective.reads:
            raise ValueError(too_little(type(objective).__name__, objective.reads, keeps))
        by_features = bool(features_read(objective))
        if self.teachers is None:
            named = self.targets.features or self.targets.folder is not None
            if by_features and self.stores and not named:
                raise ValueError(Targets.no_features)
            if self.stores and self.targets.features and self.targets.folder is None:
                for path in features_read(objective):  # globs are resolved with the teacher
                    if not is_glob(path) and not any(means(p, path) for p in self.targets.features):
                        raise ValueError(
                            f"targets.features stores {', '.join(self.targets.features)}, and the "
                            f"objective reads {path}: add it"
                        )
            return self
        if self.targets.kind == "ema":
            raise ValueError("teachers: set targets.kind to stored or live, and that of one to ema")
        if by_features or self.targets.features:
            raise ValueError(f"teachers: {SeveralTeachers.no_features}")
        if self.targets.folder is not None:
            raise ValueError("targets.folder is one teacher's: name stores in teachers.of")
        combine, average = self.teachers.combine, self.teachers.average
        by_logits = combine == "confidence" or (combine != "random" and average == "logits")
        if stored.temperature is not None and self.stores and by_logits:
            raise ValueError(
                f"teachers: {combine} of {average} needs complete logits, and targets.encoding "
                f"{self.targets.encoding} keeps less: set it to float16, or teachers.average to "
                "softmax"
            )
        return self

    @model_validator(mode="after")
    def _fits_what_it_learns(self) -> StudentRole:
        if self.objective.imports:
            return self
        objective = self.objective.build()
        output = OUTPUTS[objective.learns]
        if (known := self.known_policy) and (problem := why_not_for(known, output)):
            raise ValueError(problem)
        if output is ONE_CLASS:
            return self
        if problem := why_not_by_row(objective):
            raise ValueError(problem)
        if objective.needs_targets and (self.targets.kind == "ema" or self.teachers is not None):
            raise ValueError(f"{output.plural} are learned from one teacher that does not change")
        return self

    @model_validator(mode="after")
    def _labels_are_not_needed(self) -> StudentRole:
        if not self.label_free:
            labelled = self.objective.imports or OUTPUTS[self.objective.build().learns].labelled
            if self.augment.mix is not None and labelled:
                raise ValueError(
                    "augment.mix: mixed views have no label of their own: set label_free to true, "
                    "so that the teacher's answer counts"
                )
            return self
        several, known = self.teachers, self.known_policy
        problem = known and why_not_label_free(
            known,
            uses_teacher=bool(self.objective.imports) or self.objective.build().needs_targets,
            targets_read_labels=several is not None and several.combine == "confidence",
        )
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def chosen_policy(self) -> Policy:
        """Its policy, or that of its mode, limited to the cost. Raises SettingError."""
        own = None if self.policy is None else self.policy.build()
        return choose(own, self.mode or "vanilla", self.regulation, self.cost)

    @property
    def known_policy(self) -> Policy | None:
        """The same, or None where it is your own: reading a recipe imports none of your code."""
        return None if self.policy and self.policy.imports else self.chosen_policy

    @property
    def queries_own_teacher(self) -> bool:
        """Whether soft targets come from the run's own teacher: alone, or as one of several."""
        if self.targets.kind == "ema" or not self.objective.build().needs_targets:
            return False
        return self.teachers is None or any(each.is_own for each in self.teachers.of.values())

    @property
    def weighted(self) -> bool:
        """Whether samples are weighted by the significance in the teacher's ledger."""
        return MODES[self.mode].weighted if self.mode else self.weighting == "significance"

    @property
    def gated(self) -> bool:
        """Whether its own training gives samples a significance."""
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


ControlName = Literal[
    "random", "random-static", "short", "permuted", "random-cost", "short-cost", "permuted-cost"
]
"""Cheap alternatives of an arm: as many samples or, with ``-cost``, the same cost."""


class Arm(Strict):
    """One row of a comparison: what differs from the recipe, or a control of another arm."""

    set: PlainDict = Field(default_factory=dict, description="section.key: value")
    teacher: str | None = Field(None, description="one of the recipe's teachers")
    control: ControlName | None = None
    match: str | None = Field(None, description="the arm whose samples the control copies")

    @model_validator(mode="after")
    def _control_matches(self) -> Arm:
        if (self.control is None) != (self.match is None):
            raise ValueError("a control names the arm that it matches: give control and match")
        return self


class Recipe(Strict):
    """All settings of a run: teacher, student, data, and how they are trained."""

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
        description="when checkpoints are saved; not part of a run's digest",
    )
    trackers: Trackers = Field(
        default_factory=Trackers,
        description="TensorBoard and others, which log each epoch; not part of a run's digest",
    )
    arms: Annotated[dict[str, Arm], AfterValidator(folder_names)] = Field(
        default_factory=dict, description="rows of a comparison"
    )

    @property
    def reads_corpus(self) -> bool:
        """Whether samples are blocks of tokens."""
        return self.data.name in CORPORA

    @model_validator(mode="after")
    def _fits_a_corpus(self) -> Recipe:
        student, encoding = self.student, self.student.targets.encoding
        if not self.reads_corpus:
            if self.data.name is not None and encoding not in ENCODINGS:
                raise ValueError(
                    f"student.targets.encoding {encoding} is for the tokens of a corpus"
                )
            if student.positions != 1:
                raise ValueError("student.positions is for the tokens of a corpus")
            return self
        policies = {"student": student.known_policy}
        if self.teacher.weights is None and not self.teacher.policy.imports:
            policies["teacher"] = self.teacher.policy.build()
        for role, policy in policies.items():
            if policy and (problem := why_not_for(policy, OUTPUTS["tokens"])):
                raise ValueError(f"{role}: {problem}")
        targets = student.targets
        refused = {
            "teacher.trains: head": self.teacher.trains == "head",
            "student.teachers": student.teachers is not None,
            "student.label_free": student.label_free,
            "class_weights": student.class_weights or self.teacher.class_weights,
            "student.targets.kind: ema": targets.kind == "ema",
            "student.targets.fill: first-visit": targets.fill == "first-visit",
            "student.targets.features": bool(targets.features),
            "student.targets.k (see record_bytes)": targets.k != 32,
            "student.model.reuse_classifier_dim": student.model.reuse_classifier_dim is not None,
        }
        if said := [name for name, given in refused.items() if given]:
            raise ValueError(f"not supported for the tokens of a corpus: {', '.join(said)}")
        if student.objective.imports:
            return self
        objective = student.objective.build()
        if objective.needs_targets and targets.kind == "stored" and encoding not in TOKEN_ENCODINGS:
            raise ValueError(
                f"student.targets.encoding {encoding} keeps all classes, and tokens are too many: "
                f"set it to {', '.join(TOKEN_ENCODINGS)}"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_output(self) -> Recipe:
        said = self.teacher.objective, self.student.objective
        if self.teacher.weights is not None or any(each.imports for each in said):
            return self
        theirs, own = (OUTPUTS[each.build().learns] for each in said)
        if theirs is not own and own.labelled:
            raise ValueError(
                f"teacher.objective learns {theirs.plural} and student.objective {own.plural}: set "
                "both to objectives of one kind of output"
            )
        return self
