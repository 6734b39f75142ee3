"""Models of other libraries by name: ``timm/mobilenetv3_small_100``, ``torchvision/resnet18``."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Any

from torch import nn

from frugalkd.errors import ModelError, UnknownName
from frugalkd.files.parsing import one_line
from frugalkd.models.initial import head_of_name
from frugalkd.runtime.imports import require_extra

LIBRARIES = ("timm", "torchvision")

EMBEDDERS = frozenset({"sentence-encoder", "static-embedding"})
"""Of frugalkd's models of texts those that give embeddings and no logits."""

ENCODERS = frozenset({"text-encoder", *EMBEDDERS})
"""Those that may begin with an encoder of transformers, of their option ``path``."""

_FIXED = frozenset({"num_classes", "in_chans", "cache_dir", "checkpoint_path", "progress"})


def library_of(name: str) -> list[str]:
    """The packages that build the model of a ``name`` or import path, where they are known."""
    if name in (*ENCODERS, "causal-lm", "llama"):
        return ["transformers"]
    found = name.replace(".", "/").replace(":", "/").partition("/")[0]
    return [found] if found in (*LIBRARIES, "transformers") else []


def check_of_library(name: str, options: Collection[str]) -> None:
    """Check LIBRARY/MODEL and the names of its options, which are those of the library's own
    function. None of them may say where weights come from: reading a run folder, which names its
    model, must download nothing.

    Raises UnknownName (with the nearest names), or ModelError: the library is not installed, or an
    option is not the recipe's to set.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES:
        raise UnknownName("library of models", library, LIBRARIES)
    for option in options:
        if option in _FIXED or option.startswith(("pretrained", "weights")):
            raise ModelError(
                f"model {name!r} takes no option {option!r}: classes and channels are those of the "
                "data, and weights are named by model.init_weights"
            )
    require_extra(library, f"model {name!r} needs {library}", ModelError, library)
    package = import_module(library)
    if library == "timm":
        names = _timm_names(package, model)
    else:
        names = package.models.list_models(module=package.models)
    if model not in names:
        raise UnknownName("model", name, [f"{library}/{each}" for each in names])


def build_from_library(
    name: str,
    pretrained: bool,
    classes: int,
    channels: int,
    size: tuple[int, int],
    /,
    **options: Any,
) -> nn.Module:
    """A new model of a library, with a head for ``classes``, of pictures of ``size`` (height,
    width). Raises ModelError: it needs colour, or its pretrained weights cannot be downloaded."""
    library, _, model = name.partition("/")
    package = import_module(library)
    try:
        if library == "timm":
            made_for = package.get_pretrained_cfg(model)
            if made_for is not None and made_for.fixed_input_size:
                options.setdefault("img_size", size)
            sizes = {"num_classes": classes, "in_chans": channels}
            return package.create_model(model, pretrained=pretrained, **sizes, **options)
        if channels != 3:
            raise ModelError(
                f"model {name!r} needs colour images, and these have {channels} channels: choose "
                "one of timm, or give model.input_transform a mean and std of three numbers each"
            )
        if not pretrained:
            return package.models.get_model(model, weights=None, num_classes=classes, **options)
        built = package.models.get_model(model, weights="DEFAULT", progress=False, **options)
    except OSError as error:
        raise ModelError(
            f"the pretrained weights of {name!r} cannot be downloaded ({one_line(error)[:200]}): "
            "name a file that you have with model.init_weights"
        ) from error
    head = head_of_name(built)
    if head is None:
        raise ModelError(f"model {name!r} has no linear head to replace: draw its weights")
    built.set_submodule(head, nn.Linear(built.get_submodule(head).in_features, classes))
    return built


def _timm_names(timm: Any, model: str) -> Collection[str]:
    """Its models; of one with pretrained weights' tag (``resnet18.a1_in1k``), those of its
    architecture."""
    architecture, tag, _ = model.partition(".")
    if not timm.is_model(architecture):
        return timm.list_models()
    return timm.list_pretrained(architecture) if tag else [architecture]
