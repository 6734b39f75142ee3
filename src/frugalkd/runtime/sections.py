"""Sections of a recipe: strictness, plain values, things by name or by import path."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


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


class Strict(BaseModel):
    """A section of a recipe: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NamedOrPath(Strict):
    """One of frugalkd's by ``name``, or your own by import ``path``."""

    name: str | None = Field(None, description="one of frugalkd's")
    path: str | None = Field(None, description="your own: package.module:Name")
    options: PlainDict = Field(default_factory=dict, description="its keyword arguments")

    @model_validator(mode="after")
    def _one_of_both(self) -> NamedOrPath:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name or path")
        return self
