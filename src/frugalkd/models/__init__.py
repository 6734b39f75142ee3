"""Models by name, ours and those of timm and torchvision: of pictures float32 (B, C, H, W), or of
texts as token ids. All return logits (B, num_classes)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from frugalkd.errors import ModelError, UnknownName
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line
from frugalkd.models import resnet
from frugalkd.models.beginning import PRETRAINED, begin
from frugalkd.models.fashion import FashionConv
from frugalkd.models.lenet import lenet5, lenet5_half
from frugalkd.models.libraries import (
    Wanted,
    build_from_library,
    check_of_library,
    is_of_a_library,
)
from frugalkd.models.mlp import MLP
from frugalkd.models.origin import name_classes, reorder_classes
from frugalkd.models.text import TextCNN, TextEncoder
from frugalkd.runtime.imports import check_options

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet5": lenet5,
    "lenet5-half": lenet5_half,
    "fashion-conv": FashionConv,
    "resnet8": resnet.resnet8,
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet56": resnet.resnet56,
    "resnet8x4": resnet.resnet8x4,
    "resnet32x4": resnet.resnet32x4,
}

TEXT_MODELS: dict[str, Callable[..., nn.Module]] = {
    "text-cnn": TextCNN,
    "text-encoder": TextEncoder,
}

# Not options: what build_model gives every model, and what makes a ResNet the one its name says.
FIXED = frozenset({"num_classes", "in_channels", "image_size", "depth", "filters", "vocabulary"})


def check_model(
    name: str,
    options: Collection[str],
    known: Mapping[str, Callable[..., nn.Module]] = MODELS | TEXT_MODELS,
) -> None:
    """What every use of a model's name comes by: recipes, dry runs, building. Builds nothing.

    Raises:
        UnknownName: neither ``known`` nor a library has it; the message has the nearest names.
        ModelError: it takes no such option, or its library is not installed.
    """
    if is_of_a_library(name):
        check_of_library(name, options)
    elif name not in known:
        raise UnknownName("model", name, [*known, "timm/NAME", "torchvision/NAME"])
    else:
        check_options(known[name], options, fixed=FIXED, what=f"model {name!r}", error=ModelError)


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    init_weights: StrPath | None = None,
    **options: Any,
) -> nn.Module:
    """A new model ``name``, its weights drawn from torch's random stream.

    Args:
        name: a key of ``MODELS``, or ``timm/NAME``, ``torchvision/NAME`` (extras of those names).
        num_classes, in_channels: of the pictures.
        image_size: (height, width), or one number for both.
        init_weights: weights to begin with in place of those drawn: a file, see
            :func:`frugalkd.models.beginning.begin`, or ``pretrained``, those that timm or
            torchvision fetch, with a new head.
        options: the model's own, such as ``width``.

    Raises:
        UnknownName: there is no such model; the message has the nearest names.
        ModelError: options, sizes or weights that do not fit, or the library is not installed.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_model(name, options, MODELS)
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image size": height}
    for what, value in (sizes | {"image width": width}).items():
        if value < 1:
            raise ModelError(f"model {name!r} with {what} {value}: give 1 or more")
    if is_of_a_library(name):
        wanted = Wanted(num_classes, in_channels, (height, width), init_weights == PRETRAINED)
        model = build_from_library(name, wanted, options)
    else:
        model = _ours(name, num_classes, in_channels, (height, width), options)
        if init_weights == PRETRAINED:
            raise ModelError(f"model {name!r} is ours, and has no pretrained weights: name a file")
    if init_weights is not None and init_weights != PRETRAINED:
        begin(model, init_weights)
    return model


def _ours(
    name: str, classes: int, channels: int, size: tuple[int, int], options: dict[str, Any]
) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element", UserWarning)
            return MODELS[name](classes, channels, size, **options)
    except (TypeError, ValueError, RuntimeError, UserWarning) as error:
        raise ModelError(
            f"model {name!r} cannot be built with {one_line(options)}: {one_line(error)}"
        ) from error


def build_text_model(name: str, *, num_classes: int, vocabulary: int, **options: Any) -> nn.Module:
    """A new model ``name`` (a key of ``TEXT_MODELS``) of token ids below ``vocabulary``; the rest
    is as in :func:`build_model`."""
    if name not in TEXT_MODELS:
        raise UnknownName("model of texts", name, TEXT_MODELS)
    builder = TEXT_MODELS[name]
    check_options(builder, options, fixed=FIXED, what=f"model {name!r}", error=ModelError)
    for what, value in {"num_classes": num_classes, "vocabulary": vocabulary}.items():
        if value < 1:
            raise ModelError(f"model {name!r} with {what} {value}: give 1 or more")
    try:
        return builder(num_classes, vocabulary, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model {name!r} cannot be built with {one_line(options)}: {one_line(error)}"
        ) from error


__all__ = [
    "MODELS",
    "TEXT_MODELS",
    "build_model",
    "build_text_model",
    "name_classes",
    "reorder_classes",
]
