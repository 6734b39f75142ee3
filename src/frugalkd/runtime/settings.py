"""Settings as dataclasses whose values have the types that they are declared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from frugalkd.errors import SettingError
from frugalkd.files.parsing import one_line

STRICT = {"extra": "forbid", "allow_inf_nan": False}
"""pydantic's configuration of a dataclass in a recipe."""

MOST_SEED = 2**63 - 1
"""There is room to count up from it."""

MOST_ROWS = 2**31 - 1
"""Of a batch, and batches of a step."""

MOST_WORKERS = 1024
"""Processes that read data."""

Positive = Annotated[float, "positive"]
NotNegative = Annotated[float, "0 or more"]
Fraction = Annotated[float, "in [0, 1]"]
BelowOne = Annotated[float, "in [0, 1)"]
Share = Annotated[float, "in (0, 1]"]
Count = Annotated[int, "positive"]
Epochs = Annotated[int, "0 or more"]
Length = Annotated[float, "in (0, 60000]"]
"""Of a training, in epochs: the ledger counts in 16 bits."""

_BOUNDS = {
    "positive": lambda value: value > 0,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1)": lambda value: 0 < value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in (0, 60000]": lambda value: 0 < value <= 60_000,
    "in [1, 100]": lambda value: 1 <= value <= 100,
}

_CALLED = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}


class Settings:
    """Base of dataclasses of settings. Before their own ``__post_init__`` each value is compared
    with its declared type (numbers, text, classes, literals, tuples and unions), and with its
    bounds where it is a number. ``True`` is not a number; a whole number is also a float.

    Raises:
        SettingError: a value of another type or out of its bounds, or a number that is not finite.
    """

    __pydantic_config__: ClassVar = STRICT

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if (own := vars(cls).get("__post_init__")) is not None:

            @wraps(own)
            def checked(self: Settings) -> None:
                Settings.__post_init__(self)
                own(self)

            cls.__post_init__ = checked

    def __post_init__(self) -> None:
        kinds = types_of(type(self))
        check_types(**{name: (getattr(self, name), kinds[name]) for name in kinds})
        for name, bounds in _bounds(type(self)).items():
            if isinstance(getattr(self, name), Real):  # not None, nor a word in its place
                check_bounds(bounds, **{name: getattr(self, name)})

    def __repr__(self) -> str:
        """Its settings, which identify a training; dataclasses have a ``__repr__`` already."""
        settings = (f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__qualname__}({', '.join(settings)})"


def check_bounds(bounds: str, **values: float) -> None:
    """Raises SettingError where a value is not ``bounds``, such as "positive"."""
    for name, value in values.items():
        if not _BOUNDS[bounds](value):
            raise SettingError(f"{name} must be {bounds}, not {value}")


def check_types(**values: tuple[Any, Any]) -> None:
    """Raises SettingError where a value, each a pair with its type, is of another one."""
    for name, (value, kind) in values.items():
        if not _fits(value, kind):
            raise SettingError(f"{name} must be {_called(kind)}, not {shown(value)}")


def check_integer(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """:func:`check_number`, of a whole number."""
    check_number(name, value, least, most, int)


def check_number(
    name: str, value: Any, least: float, most: float = math.inf, kind: type = float
) -> None:
    """Raises SettingError unless ``value`` is finite, and from ``least`` to ``most``."""
    check_types(**{name: (value, kind)})
    if not least <= value <= most:
        first, last = (str(end) if kind is int else f"{end:g}" for end in (least, most))
        upto = "" if most == math.inf else f", at most {last}"
        raise SettingError(f"{name} must be {first} or more{upto}, not {shown(value)}")


def check_seed(seed: Any) -> int:
    """``seed`` itself. Raises SettingError unless it is one that every random stream takes."""
    check_integer("seed", seed, 0, MOST_SEED)
    return int(seed)


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    try:
        return one_line(repr(value), 60)
    except Exception:  # a number of too many digits, or what a user's class does
        return f"a {type(value).__name__}"


@cache
def types_of(cls: type) -> dict[str, Any]:
    """The settings of a dataclass with their types, bounds left out."""
    try:
        hints = get_type_hints(cls)
    except NameError:  # of a class within a function of the user's
        return {}
    return {field.name: hints[field.name] for field in fields(cls)}  # pyright: ignore


@cache
def _bounds(cls: type) -> dict[str, str]:
    """Which settings of a class are bounded, and how."""
    hints = get_type_hints(cls, include_extras=True) if types_of(cls) else {}
    return {name: one.__metadata__[0] for name, kind in hints.items()
            for one in (kind, *get_args(kind))
            if get_origin(one) is Annotated and one.__metadata__[0] in _BOUNDS}  # fmt: skip


def _fits(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = inside[:1] * len(value) if inside[1:] == (...,) else inside
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            return False
        try:
            return kind is int or math.isfinite(value)
        except OverflowError:  # more digits than a float has
            return False
    if not isinstance(kind, type) or kind in (Any,) or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(value, kind)


def _called(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType, Literal):
        *first, last = map(str, inside) if origin is Literal else map(_called, inside)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple:
        return f"a tuple of {', '.join('...' if one is ... else _called(one) for one in inside)}"
    name = getattr(kind, "__name__", str(kind))
    article = "an" if name[0] in "AEIOU" else "a"
    return "None" if kind is NoneType else _CALLED.get(kind, f"{article} {name}")
