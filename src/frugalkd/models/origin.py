"""What is known of a model beside its weights, and the hooks that fit its inputs and outputs to the
data: how it was built, on what it was trained, what it does to images, the order of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.data.batches import unwrapped
from frugalkd.data.class_names import Match, class_names, class_order
from frugalkd.data.images import Pictures
from frugalkd.data.table import Columns, TableData
from frugalkd.data.text import TextData
from frugalkd.errors import ModelError, TargetsError

_ATTRIBUTE = "frugalkd_origin"
Normalisation = tuple[Sequence[float], Sequence[float]]
"""mean and std, a number per channel, of pixels in [0, 1]."""


@final
@dataclass(frozen=True)
class Origin:
    """Where a model comes from. What is not known is empty.

    Attributes:
        spec: how it was built, plain values: its name or import path, its options.
        classes: the names of its outputs, in their order.
        mean, std: by which its input images are normalised, a number per channel.
        tokenizer, vocabulary: of its input texts.
        columns: of a table, as they become its inputs.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str = ""
    vocabulary: int = 0
    columns: Columns = field(default_factory=partial(Columns, ()))


def origin_of(model: nn.Module) -> Origin:
    """What :func:`note_origin` noted."""
    return getattr(model, _ATTRIBUTE, None) or Origin()


def label_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a transformers model's outputs, as ``config.id2label`` gives them; () where
    there are none but the defaults (``LABEL_0``)."""
    given = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(given, Mapping):
        return ()
    names = tuple(str(given[index]) for index in sorted(given))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def note_origin(model: nn.Module, **known: Any) -> None:
    """Note fields of :class:`Origin` on ``model``; the others stay. Copies of it have them too."""
    setattr(model, _ATTRIBUTE, replace(origin_of(model), **known))


def trained_on(data: Any) -> dict[str, Any]:
    """What is known of a training set, as fields of :class:`Origin`."""
    known: dict[str, Any] = {"classes": class_names(data)}
    if isinstance(data, Pictures):
        known |= {"mean": data.mean, "std": data.std}
    if isinstance(data, TextData):
        known |= {"tokenizer": data.tokens.tokenizer, "vocabulary": data.tokens.vocabulary}
    if isinstance(data, TableData):
        known["columns"] = data.columns
    return known


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Name the outputs of ``model``, in their order. A training on data whose classes have other
    names, or another order, is then refused."""
    note_origin(model, classes=tuple(map(str, names)))


def reorder_classes(model: nn.Module, names: Sequence[str]) -> None:
    """From now on ``model`` gives its outputs in the order of ``names``, which it has already: from
    the run that it was loaded from, ``config.id2label``, or :func:`name_classes`. Features do not
    change. Raises TargetsError: they are other names, or the model's are not known."""
    if not origin_of(model).classes:
        name_classes(model, label_names(model))
    if not origin_of(model).classes:
        raise TargetsError(
            "the names of the model's classes are not known: call name_classes first"
        )
    match_classes(model, names, "by-name", "the model")


def match_classes(
    model: nn.Module, names: Sequence[str], match: Match, what: str = "the teacher"
) -> None:
    """Make the classes of ``model`` those of the data, ``names``, where both have names. Raises
    TargetsError where they do not ``match``."""
    own = origin_of(model).classes
    order = class_order(own, names, match, what)
    if order is not None:
        model.register_forward_hook(Reordered(tuple(order.tolist())))
    if own and names:
        name_classes(model, names)


@final
@dataclass(frozen=True)
class Reordered:
    """A forward hook: output class i (of an object or dict with ``logits``, of those) is the
    model's class ``order[i]``. Raises TargetsError for another number of classes."""

    order: tuple[int, ...]

    def __call__(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        logits = unwrapped(output)
        if not isinstance(logits, Tensor):
            return output
        logits = self.columns(logits)
        if isinstance(output, Tensor):
            return logits
        if not hasattr(output, "logits"):
            return {**output, "logits": logits}
        output.logits = logits
        return output

    def columns(self, logits: Tensor) -> Tensor:
        """``logits`` (rows, classes) in this order."""
        if logits.shape[-1] != len(self.order):
            raise TargetsError(
                f"the teacher gives {logits.shape[-1]} classes and has names for "
                f"{len(self.order)}: correct its model.json, or what name_classes was given"
            )
        return self.reordered(logits, -1)

    def reordered(self, values: Tensor, axis: int) -> Tensor:
        """``values`` whose ``axis`` counts the classes, in this order."""
        return values.index_select(axis, torch.tensor(self.order, device=values.device))


@final
@dataclass(frozen=True)
class InputTransformHook:
    """A forward pre-hook: float32 images (B, C, H, W), as the data normalise them, to what the
    model was trained on: to ``size`` (height, width), bilinear and antialiased, where that is set,
    and by ``scale`` and ``shift``, a number per channel; grey images become as many channels."""

    size: tuple[int, int] | None
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def between(
        cls, size: tuple[int, int] | None, data: Normalisation, model: Normalisation
    ) -> InputTransformHook:
        """From the normalisation of the data to the model's. Raises ModelError: they have other
        channels."""
        if len(data[0]) not in (1, len(model[0])):
            raise ModelError(
                f"the model takes pictures of {len(model[0])} channels, and these have "
                f"{len(data[0])}: give model.input_transform a mean and std of as many numbers"
            )
        rows = [torch.tensor(row, dtype=torch.float64) for row in (*data, *model)]
        mean, std, wanted_mean, wanted_std = rows
        scale, shift = std / wanted_std, (mean - wanted_mean) / wanted_std
        return cls(size, tuple(scale.tolist()), tuple(shift.tolist()))

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.pictures(inputs[0]), *inputs[1:]

    def pictures(self, x: Tensor) -> Tensor:
        scale, shift = (x.new_tensor(row)[:, None, None] for row in (self.scale, self.shift))
        x = x * scale + shift
        if self.size is None or self.size == tuple(x.shape[2:]):
            return x
        return F.interpolate(x, self.size, mode="bilinear", antialias=True)


@final
@dataclass(frozen=True)
class InputColumnsHook:
    """A forward pre-hook: rows of a table (B, width), as the data standardise them, to what the
    model was trained on: the inputs at ``places`` (width for an input of 0), by ``scale`` and
    ``shift``, a number for each of the model's inputs."""

    places: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    _made: dict[Any, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """These as tensors, by device and dtype: a forward copies none to the device again."""

    @classmethod
    def between(cls, data: Columns, model: Columns, what: str) -> InputColumnsHook:
        """From the columns of the data to those of the model ``what``. Raises TargetsError where
        the data lack one, or have its logarithm alone."""
        starts = np.cumsum([0, *(column.width for column in data.columns)]).tolist()
        own = dict(zip([column.name for column in data.columns], starts, strict=False))
        places, scale, shift = [], [], []
        for column in model.columns:
            found = next((each for each in data.columns if each.name == column.name), None)
            if found is None or (found.log, bool(found.texts)) != (column.log, bool(column.texts)):
                how = (
                    "as a logarithm" if column.log else "as texts" if column.texts else "as numbers"
                )
                raise TargetsError(
                    f"{what} was trained on column {column.name!r}, {how}, and the data have no "
                    "such feature: set data.options features and log as for its training"
                )
            first = own[column.name]
            if column.texts:
                known = {text: first + place for place, text in enumerate(found.texts)}
                places += [known.get(text, data.width) for text in column.texts]
                scale, shift = scale + [1.0] * column.width, shift + [0.0] * column.width
            else:
                places.append(first)
                scale.append(found.std / column.std)
                shift.append((found.mean - column.mean) / column.std)
        if other := sorted(own.keys() - {column.name for column in model.columns}):
            raise TargetsError(
                f"{what} was trained without column {other[0]!r}, a feature of the data: set "
                "data.options.features as for its training"
            )
        return cls(tuple(places), tuple(scale), tuple(shift))

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.rows(inputs[0]), *inputs[1:]

    def rows(self, x: Tensor) -> Tensor:
        key = x.device, x.dtype
        if key not in self._made:
            places = torch.tensor(self.places, device=x.device)
            self._made[key] = places, x.new_tensor(self.scale), x.new_tensor(self.shift)
        places, scale, shift = self._made[key]
        return F.pad(x, (0, 1)).index_select(1, places) * scale + shift


OWN_HOOKS = InputTransformHook, InputColumnsHook, Reordered
"""frugalkd's hooks: their ``repr`` says all that they do."""
