"""What sections of a recipe are made of: strictness, plain values, things by name or path."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from frugalkd.models import MODELS, TEXT_MODELS


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


def folder_names(section: dict[str, Any]) -> dict[str, Any]:
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


class InputTransform(Strict):
    """Pictures as the model was trained to see them; the data stay as they are for the other one.

    On grey pictures, a ``mean`` and ``std`` of three numbers make them colour.
    """

    size: int | tuple[int, int] | None = Field(
        default=None, description="a side in pixels, or [height, width]; not set: that of the data"
    )
    mean: list[float] | None = Field(
        default=None,
        description="a number a channel, of pixels in [0, 1]; not set: that of the data",
    )
    std: list[float] | None = Field(default=None, description="as mean, above 0")

    @model_validator(mode="after")
    def _possible(self) -> InputTransform:
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
    init_weights: str | None = Field(
        None,
        description="weights to begin with: a file (.safetensors, or .pt without pickle), also "
        "package/folder/file inside an installed one, whose head is taken where it fits; or "
        "pretrained: those that timm or torchvision fetch",
    )
    input_transform: InputTransform | None = Field(
        None, description="resize and normalise pictures for this model alone"
    )
    reuse_classifier_dim: int | None = Field(
        None,
        ge=1,
        le=1 << 20,
        description="of a student, for the objective simkd: its classifier is the teacher's, which "
        "takes so many values, behind a linear layer",
    )
