"""Transforms of torchvision by name, as functions of one picture's random bits."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import DataError, SettingError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import check_options, require_extra
from frugalkd.runtime.settings import Settings

Name = Literal[
    "AugMix",
    "AutoAugment",
    "ColorJitter",
    "ElasticTransform",
    "GaussianBlur",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "TrivialAugmentWide",
]


@dataclass(frozen=True)
class Transform(Settings):
    """A transform of ``torchvision.transforms.v2``, of pictures uint8 (C, H, W) that keep their
    size.

    Attributes:
        name: of its class.
        options: its keyword arguments, plain values; the ``size`` of RandomResizedCrop is the
            pictures' own.

    Raises:
        SettingError: a name that is not among these.
    """

    name: Name
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:  # as a recipe has them, so that equal ones are written the same
            plain = json.loads(json.dumps(dict(self.options)))
        except (TypeError, ValueError) as error:
            raise SettingError(f"options of {self.name} must be plain values ({error})") from None
        vars(self).update(options=plain)  # a frozen dataclass refuses assignments

    def __hash__(self) -> int:
        return hash(_key((self,)))


def check_transforms(transforms: Sequence[Transform], shape: tuple[int, int, int]) -> None:
    """Raises DataError unless they can be made, and keep a grey picture of ``shape`` (C, H, W) in
    its form."""
    if transforms:
        seed = torch.zeros(1, dtype=torch.uint64).numpy()
        transformed(torch.full((1, *shape), 128, dtype=torch.uint8), transforms, seed)


def transformed(pixels: Tensor, transforms: Sequence[Transform], bits: NDArray[Any]) -> Tensor:
    """``pixels`` uint8 (B, C, H, W), each picture changed by the ``transforms`` in turn, whose
    draws are those of its uint64 ``bits`` (B,). torch's random stream does not change. Raises
    DataError: a transform cannot be made, fails, or gives pictures of another form."""
    steps = _made(_key(transforms), tuple(pixels.shape[1:]))
    stream = torch.default_generator
    before, found = stream.get_state(), []
    try:
        for picture, seed in zip(pixels, bits.tolist(), strict=True):
            stream.manual_seed(seed >> 1)
            changed = picture
            for name, step in steps:
                changed = _applied(name, step, changed)
            found.append(changed)
    finally:
        stream.set_state(before)
    return torch.stack(found) if found else pixels


def _applied(name: str, step: Any, picture: Tensor) -> Tensor:
    try:
        changed = step(picture)
    except Exception as error:
        raise DataError(
            f"{name} fails on a picture {tuple(picture.shape)}: {one_line(error)}"
        ) from None
    if changed.shape != picture.shape or changed.dtype != picture.dtype:
        raise DataError(
            f"{name} makes {changed.dtype} {tuple(changed.shape)} of {picture.dtype} "
            f"{tuple(picture.shape)}: transforms have to keep size and type"
        )
    return changed


def _key(transforms: Sequence[Transform]) -> str:
    return json.dumps([[each.name, dict(each.options)] for each in transforms], sort_keys=True)


@lru_cache(maxsize=16)
def _made(key: str, shape: tuple[int, int, int]) -> list[tuple[str, Any]]:
    require_extra("torchvision", "transforms need torchvision", DataError, "torchvision")
    from torchvision.transforms import v2

    made = []
    for name, options in json.loads(key):
        kind = getattr(v2, name)
        if "size" in inspect.signature(kind).parameters:
            options = {"size": shape[1:], **options}
        check_options(kind, options, fixed=(), what=name, error=DataError)
        try:
            made.append((name, kind(**options)))
        except Exception as error:
            raise DataError(
                f"{name} cannot be made of {one_line(options)}: {one_line(error)}"
            ) from None
    return made


NAMES: tuple[str, ...] = get_args(Name)
