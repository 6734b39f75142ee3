"""Policies and objectives in a recipe: from a registry, sums of them, and your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)

from frugalkd.errors import ModelError
from frugalkd.objectives import OBJECTIVES, Objective, Ramp, Scheduled, WeightedSum
from frugalkd.policies import POLICIES
from frugalkd.runtime.imports import make_object
from frugalkd.runtime.sections import PlainDict, Strict

_RAMP = TypeAdapter(Ramp)


def _number_or_ramp(said: Any, number: Callable[[Any], float]) -> float | Ramp:
    if isinstance(said, Ramp):
        return said
    if not isinstance(said, Mapping):
        return number(said)
    try:
        return _RAMP.validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "a schedule"
        raise ValueError(
            f"{where}: {first['msg']}; a schedule has start, end and shape (linear or cosine)"
        ) from None


def _plain(value: float | Ramp) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Ramp) else value


if TYPE_CHECKING:
    Changing = float | Ramp
else:
    Changing = Annotated[
        float,
        WrapValidator(_number_or_ramp),
        PlainSerializer(_plain),
        WithJsonSchema({"anyOf": [{"type": "number"}, _RAMP.json_schema()]}),
    ]


class Spec(Strict):
    """Something from a registry: its ``name`` and its own settings."""

    made_of: ClassVar[type]

    @property
    def imports(self) -> tuple[str, ...]:
        """The import paths that it names."""
        return ()

    def build(self) -> Any:
        """The object itself."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        settings.pop("name")
        ramps = {name: value for name, value in settings.items() if isinstance(value, Ramp)}
        settings |= {name: ramp.start for name, ramp in ramps.items()}
        made = self.made_of(**settings)
        return Scheduled(made, tuple(ramps.items())) if ramps else made

    @model_validator(mode="after")
    def _possible(self) -> Spec:
        if not self.imports:
            self.build()  # raises ValueError for impossible values
        return self


class OwnSpec(Spec):
    """Your own objective, by import path: a callable that makes a frugalkd Objective."""

    name: Literal["own"] = "own"
    path: str = Field(description="your own: package.module:Name")
    options: PlainDict = Field(default_factory=dict, description="its keyword arguments")

    @property
    def imports(self) -> tuple[str, ...]:
        return (self.path,)

    def build(self) -> Any:
        """Imports it. Raises ModelError."""
        made = make_object(self.path, self.options)
        if not isinstance(made, Objective):
            raise ModelError(
                f"{self.path} made a {type(made).__name__}: an objective is a "
                "frugalkd.objectives.Objective"
            )
        return made


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
        spec = create_model(f"{made_of.__name__}Spec", __base__=Spec, **fields)
        spec.__doc__ = (made_of.__doc__ or "").split("\n")[0]
        spec.made_of = made_of
        specs.append(spec)
    return specs


def _one_of(specs: list[type[Spec]]) -> Any:
    """A union of them, discriminated by ``name``."""
    return Annotated[reduce(or_, specs), Field(discriminator="name")]


def _own_by_path(said: Any) -> Any:
    """A path without a name is your own objective."""
    if isinstance(said, Mapping) and "path" in said and "name" not in said:
        return {"name": "own", **said}
    return said


if TYPE_CHECKING:  # a checker cannot follow a union that is made at run time
    PolicySpec = _TermSpec = Spec
else:
    PolicySpec = _one_of(_specs_of(POLICIES))
    _OBJECTIVES = [*_specs_of(OBJECTIVES, Changing), OwnSpec]
    _TermSpec = Annotated[_one_of(_OBJECTIVES), BeforeValidator(_own_by_path)]


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
    ObjectiveSpec = Annotated[_one_of([*_OBJECTIVES, SumSpec]), BeforeValidator(_own_by_path)]
