"""What a recipe may say. Everything else is refused, with the nearest name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from frugalkd.data import DATA
from frugalkd.fidelity import too_little
from frugalkd.models import MODELS, TEXT_MODELS
from frugalkd.modes import ModeName
from frugalkd.objectives import OBJECTIVES, FeatureObjective
from frugalkd.policies import POLICIES, SelfRegulation
from frugalkd.teachers._targets import NO_FEATURES
from frugalkd.teachers.encodings import make_encoding
from frugalkd.tracking import TRACKERS, Tracker
from frugalkd.training import Checkpointing, Training


def _plain(value: Any, depth: int = 0) -> Any:
    """``value``, if it is what JSON can hold, and so can be kept in results. Raises ValueError."""
    if depth > 16:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has the key {key!r}, which is not text")
            _plain(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _plain(item, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"holds {value}, which is not finite")
    elif isinstance(value, int):
        if value.bit_length() > 64:
            raise ValueError("holds a number of more than 64 bits")
    elif value is not None and not isinstance(value, str):
        raise ValueError(f"holds a {type(value).__name__}: numbers, text, lists and sections only")
    return value


PlainDict = Annotated[dict[str, Any], AfterValidator(_plain)]
"""A section of a user's own keys."""

_FOLDER_NAME = re.compile(r"\w[\w .:+-]{0,99}")


def _names(section: dict[str, Any]) -> dict[str, Any]:
    """``section``, if all its keys can be the names of folders inside a comparison's."""
    for name in section:
        if not _FOLDER_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} cannot be a name here: folders are called so, and up to 100 "
                "letters, digits, spaces and _ . : + - are allowed, a letter or digit first"
            )
    return section


class Strict(BaseModel):
    """A section of a recipe: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Spec(Strict):
    """Something from a registry: its ``name`` and its own settings."""

    made_of: ClassVar[type]

    def build(self) -> Any:
        """The object itself."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        settings.pop("name")
        return self.made_of(**settings)

    @model_validator(mode="after")
    def _possible(self) -> Spec:
        self.build()  # raises ValueError for impossible values
        return self


def _spec_of(registry: Mapping[str, type]) -> Any:
    """A union over a registry of dataclasses, told apart by ``name``."""
    specs = []
    for name, made_of in registry.items():
        hints = get_type_hints(made_of)
        fields: dict[str, Any] = {"name": (Literal[name], name)}
        for field in dataclasses.fields(made_of):
            must = field.default is dataclasses.MISSING
            fields[field.name] = (hints[field.name], ... if must else field.default)
        spec = create_model(f"{made_of.__name__}Spec", __base__=Spec, **fields)
        spec.__doc__ = (made_of.__doc__ or "").split("\n")[0]
        spec.made_of = made_of
        specs.append(spec)
    return Annotated[reduce(or_, specs), Field(discriminator="name")]


if TYPE_CHECKING:  # a checker cannot follow a union that is made at run time
    PolicySpec = ObjectiveSpec = Spec
else:
    PolicySpec = _spec_of(POLICIES)
    ObjectiveSpec = _spec_of(OBJECTIVES)


class NamedOrPath(Strict):
    """One of ours by ``name``, or your own by import ``path``."""

    name: str | None = Field(None, description="one of ours")
    path: str | None = Field(None, description="your own: package.module:Name")
    options: PlainDict = Field(default_factory=dict, description="its keyword arguments")

    @model_validator(mode="after")
    def _one_of_both(self) -> NamedOrPath:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name or path")
        return self


class Sees(Strict):
    """Pictures as the model was trained to see them; the data stay as they are for the other one.

    On grey pictures, a ``mean`` and ``std`` of three numbers make them colour.
    """

    size: int | tuple[int, int] | None = Field(
        None, description="a side in pixels, or [height, width]; not set: that of the data"
    )
    mean: list[float] | None = Field(
        None, description="a number a channel, of pixels in [0, 1]; not set: that of the data"
    )
    std: list[float] | None = Field(None, description="as mean, above 0")

    @model_validator(mode="after")
    def _possible(self) -> Sees:
        sides = [self.size] if isinstance(self.size, int) else list(self.size or ())
        if not all(1 <= side <= 4096 for side in sides):
            raise ValueError("size is in 1 .. 4096 pixels")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither")
        mean, std = self.mean or [0.0], self.std or [1.0]
        if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
            raise ValueError("mean and std are one number, or three, each; std above 0")
        return self


class Model(NamedOrPath):
    """A model: ``name`` one of ours, or of timm's and torchvision's, or ``path`` a callable that
    returns a torch module."""

    name: str | None = Field(
        None,
        description=f"one of ours: {', '.join([*MODELS, *TEXT_MODELS])}; or timm/NAME, "
        "torchvision/NAME",
    )
    start: str | None = Field(
        None,
        description="weights to begin with: a file (.safetensors, or .pt without pickle), also "
        "package/folder/file inside an installed one, whose head is taken where it fits; or "
        "pretrained: those that timm or torchvision fetch",
    )
    sees: Sees | None = Field(
        None, description="resize and normalise pictures for this model alone"
    )


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

    model: Model
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


class TargetsRole(Strict):
    """Where soft targets come from."""

    kind: Literal["stored", "live"] = "stored"
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
    targets: TargetsRole = Field(default_factory=lambda: TargetsRole.model_validate({}))

    @model_validator(mode="after")
    def _mode_or_parts(self) -> StudentRole:
        if self.mode is None and self.policy is None:
            raise ValueError("give a mode, or a policy (with a weighting)")
        if self.mode is not None and (self.policy or self.weighting):
            raise ValueError("mode stands for policy and weighting: set mode: null to give those")
        return self

    @model_validator(mode="after")
    def _targets_say_enough(self) -> StudentRole:
        objective = self.objective.build()
        if objective.needs_targets and self.targets.kind == "stored":
            keeps = make_encoding(self.targets.encoding, self.targets.k).keeps
            if keeps < objective.reads:
                raise ValueError(too_little(type(objective).__name__, objective.reads, keeps))
            named = self.targets.features or self.targets.folder is not None
            if isinstance(objective, FeatureObjective) and not named:
                raise ValueError(NO_FEATURES)
        return self


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


class _Trackers(Strict):
    """Who is told of runs, beside the run folder: a name, a list of names, or a section each."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, said: Any) -> Any:
        if isinstance(said, str):
            said = [said]
        if isinstance(said, list) and all(isinstance(name, str) for name in said):
            return {name: {} for name in said}
        if isinstance(said, Mapping):  # a name with nothing below it is meant, too
            return {name: {} if below is None else below for name, below in said.items()}
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
        said = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: tracker for name, tracker in said.items() if tracker is not None}


if TYPE_CHECKING:
    Trackers = _Trackers
else:
    _OFF: dict[str, Any] = {name: (made | None, None) for name, made in TRACKERS.items()}
    Trackers = create_model("Trackers", __base__=_Trackers, __doc__=_Trackers.__doc__, **_OFF)


class Recipe(Strict):
    """Everything that makes a run: teacher, student, data, and how they are trained."""

    name: str
    summary: str = ""
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1, description="CPU threads; part of a run's digest")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: Data
    teacher: TeacherRole
    student: StudentRole
    teachers: Annotated[dict[str, PlainDict], AfterValidator(_names)] = Field(
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
    arms: Annotated[dict[str, Arm], AfterValidator(_names)] = Field(
        default_factory=dict, description="rows of a comparison"
    )
