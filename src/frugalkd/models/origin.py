"""What is known of a model beside its weights: how it was built, and on what it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from frugalkd.data.class_names import Match, class_names, class_order
from frugalkd.data.samples import Pictures
from frugalkd.data.text import TextData
from frugalkd.errors import TargetsError

_ATTRIBUTE = "frugalkd_origin"


@final
@dataclass(frozen=True)
class Origin:
    """Where a model comes from. What is not known is empty.

    Attributes:
        spec: how it was built, plain values: its name or import path, its options.
        classes: the names of its outputs, in their order.
        mean, std: by which the pictures are normalised that it takes, a number a channel.
        tokenizer, vocabulary: of the texts that it takes.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str = ""
    vocabulary: int = 0


def origin_of(model: nn.Module) -> Origin:
    """What :func:`note_origin` noted."""
    return getattr(model, _ATTRIBUTE, None) or Origin()


def note_origin(model: nn.Module, **known: Any) -> None:
    """Note fields of :class:`Origin` on ``model``; the others stay. Copies of it have them too."""
    setattr(model, _ATTRIBUTE, replace(origin_of(model), **known))


def trained_on(data: Any) -> dict[str, Any]:
    """What a data set says of the samples that a model learns from, as fields of
    :class:`Origin`."""
    known: dict[str, Any] = {"classes": class_names(data)}
    if isinstance(data, Pictures):
        known |= {"mean": data.mean, "std": data.std}
    if isinstance(data, TextData):
        known |= {"tokenizer": data.tokens.tokenizer, "vocabulary": data.tokens.vocabulary}
    return known


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Say what the outputs of ``model`` are called, in their order. A training on data whose
    classes have other names, or another order, is then refused."""
    note_origin(model, classes=tuple(map(str, names)))


def reorder_classes(model: nn.Module, names: Sequence[str]) -> None:
    """From now on ``model`` gives its outputs in the order of ``names``, those that it has already:
    the run's that it was loaded from, or what :func:`name_classes` said. Modules inside it, and
    their features, stay as they are.

    Raises:
        TargetsError: they are other names, or the model's are not known.
    """
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


def reordering(model: nn.Module) -> list[Reordered]:
    """What :func:`reorder_classes` has put behind ``model``, in order."""
    return [hook for hook in model._forward_hooks.values() if isinstance(hook, Reordered)]


@final
@dataclass(frozen=True)
class Reordered:
    """After a model's forward pass: its outputs (rows, classes) in another order, ``order[i]``
    being the place of what is to be class i. Of an object with ``logits``, those."""

    order: tuple[int, ...]

    def __call__(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        """A forward hook of torch. Raises TargetsError for another number of classes."""
        if isinstance(output, Tensor):
            return self.columns(output)
        if isinstance(getattr(output, "logits", None), Tensor):
            output.logits = self.columns(output.logits)
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
