"""Models by name, frugalkd's and those of timm and torchvision: of images float32 (B, C, H, W), or
of texts as token ids. All return logits (B, num_classes), but for ``EMBEDDERS``: embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from frugalkd.errors import ModelError, UnknownName
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line
from frugalkd.models.initial import PRETRAINED, init_from
from frugalkd.models.libraries import (
    EMBEDDERS,
    ENCODERS,
    build_from_library,
    check_of_library,
)
from frugalkd.models.origin import name_classes, reorder_classes
from frugalkd.models.text import SentenceEncoder, StaticEmbedding, TextCNN, TextEncoder
from frugalkd.models.vision import MLP, RESNETS, FashionConv, lenet5, lenet5_half
from frugalkd.runtime.imports import check_options

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet5": lenet5,
    "lenet5-half": lenet5_half,
    "fashion-conv": FashionConv,
    **RESNETS,
}

TEXT_MODELS: dict[str, Callable[..., nn.Module]] = {
    "text-cnn": TextCNN,
    "text-encoder": TextEncoder,
    "sentence-encoder": SentenceEncoder,
    "static-embedding": StaticEmbedding,
}

# Not options: what build_model gives every model, and what makes a ResNet the one its name says.
FIXED = frozenset({"num_classes", "in_channels", "image_size", "depth", "filters", "vocabulary"})


def check_model_name(
    name: str,
    options: Collection[str],
    more: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> None:
    """Check the name and the options' names of a model of images or texts, or of ``more`` makers
    by their names; builds nothing.

    Raises:
        UnknownName: neither frugalkd nor a library has it; the message has the nearest names.
        ModelError: it takes no such option, or its library is not installed.
    """
    if "/" in name:
        check_of_library(name, options)
        return
    known = {**MODELS, **TEXT_MODELS, **more}
    if name not in known:
        raise UnknownName("model", name, [*known, "timm/NAME", "torchvision/NAME"])
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
        num_classes, in_channels: of the images.
        image_size: (height, width), or one number for both.
        init_weights: initial weights in place of drawn ones: a file, see
            :func:`frugalkd.models.initial.init_from`, or ``pretrained``: those that timm or
            torchvision download, with a new head.
        options: the model's own, such as ``width``.

    Raises:
        UnknownName: there is no such model; the message has the nearest names.
        ModelError: options, sizes or weights that do not fit, or the library is not installed.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if name in TEXT_MODELS:
        raise ModelError(
            f"model {name!r} reads token ids: frugalkd.models.build_text_model({name!r}, "
            "num_classes=..., vocabulary=data.train.tokens.vocabulary) makes one"
        )
    check_model_name(name, options)
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    _refuse_below_one(name, **sizes, **{"image size": height, "image width": width})
    pretrained = init_weights == PRETRAINED
    if "/" in name:
        build = partial(build_from_library, name, pretrained)
    elif pretrained:
        raise ModelError(f"model {name!r} is frugalkd's and has no pretrained weights: name a file")
    else:
        build = MODELS[name]
    model = _build(name, build, num_classes, in_channels, (height, width), **options)
    if init_weights is not None and not pretrained:
        init_from(model, init_weights)
    return model


def build_text_model(name: str, *, num_classes: int, vocabulary: int, **options: Any) -> nn.Module:
    """A new model ``name`` (a key of ``TEXT_MODELS``) of token ids below ``vocabulary``; the rest
    is as in :func:`build_model`."""
    if name not in TEXT_MODELS:
        raise UnknownName("model of texts", name, TEXT_MODELS)
    check_model_name(name, options)
    if name in EMBEDDERS:  # texts alone have no classes, and these models need none
        num_classes = 1
    _refuse_below_one(name, num_classes=num_classes, vocabulary=vocabulary)
    return _build(name, TEXT_MODELS[name], num_classes, vocabulary, **options)


def _refuse_below_one(name: str, **sizes: int) -> None:
    for what, value in sizes.items():
        if value < 1:
            raise ModelError(f"model {name!r} with {what} {value}: give 1 or more")


def _build(name: str, build: Callable[..., nn.Module], *sizes: Any, **options: Any) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element", UserWarning)
            return build(*sizes, **options)
    except NotImplementedError:  # some cannot be built on the meta device: see saved.py
        raise
    except (AssertionError, TypeError, ValueError, RuntimeError, UserWarning) as error:
        raise ModelError(
            f"model {name!r} cannot be built with {one_line(options)}: {one_line(error)}"
        ) from error


__all__ = [
    "EMBEDDERS", "ENCODERS", "MODELS", "TEXT_MODELS", "build_model", "build_text_model",
    "name_classes", "reorder_classes",
]  # fmt: skip
