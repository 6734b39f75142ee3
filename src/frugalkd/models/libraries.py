"""Models of other libraries by name: ``timm/mobilenetv3_small_100``, ``torchvision/resnet18``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from frugalkd.errors import ModelError, UnknownName
from frugalkd.files.parsing import one_line
from frugalkd.models.beginning import head_of_name
from frugalkd.runtime.imports import require_extra


class Wanted(NamedTuple):
    """What a model is to be, whoever builds it; ``size`` is (height, width)."""

    classes: int
    channels: int
    size: tuple[int, int]
    pretrained: bool


LIBRARIES = ("timm", "torchvision")

_OURS = frozenset({"num_classes", "in_chans", "cache_dir", "checkpoint_path", "progress"})


def library_of(name: str) -> list[str]:
    """The packages that build the model of a ``name`` or import path, where we know them."""
    if name == "text-encoder":
        return ["transformers"]
    found = name.replace(".", "/").replace(":", "/").partition("/")[0]
    return [found] if found in (*LIBRARIES, "transformers") else []


def is_of_a_library(name: str) -> bool:
    """Whether ``name`` has the form LIBRARY/MODEL."""
    return "/" in name


def check_of_library(name: str, options: Collection[str]) -> Any:
    """The package of ``name``, LIBRARY/MODEL, imported.

    ``options`` are those of the library's own function. None of them may say where weights come
    from: a run folder names its model, and reading one must fetch nothing.

    Raises:
        UnknownName: no such library, or it has no such model; with the nearest names.
        ModelError: the library is not installed, or an option is not the recipe's to set.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES:
        raise UnknownName("library of models", library, LIBRARIES)
    for option in options:
        if option in _OURS or option.startswith(("pretrained", "weights")):
            raise ModelError(
                f"model {name!r} takes no option {option!r}: classes and channels are those of the "
                "data, and weights are named by model.init_weights"
            )
    require_extra(library, f"model {name!r} needs {library}", ModelError, library)
    package = import_module(library)
    known = _timms if library == "timm" else _torchvisions
    names = known(package, model)
    if model not in names:
        raise UnknownName("model", name, [f"{library}/{each}" for each in names])
    return package


def build_from_library(name: str, wanted: Wanted, options: Mapping[str, Any]) -> nn.Module:
    """A new model of a library, with a head for ``wanted.classes``.

    Raises:
        UnknownName, ModelError: as :func:`check_of_library`; or the model cannot be built, or its
            pretrained weights cannot be had.
    """
    package, (library, _, model) = check_of_library(name, options), name.partition("/")
    build = _from_timm if library == "timm" else _from_torchvision
    try:
        return build(package, name, model, wanted, dict(options))
    except NotImplementedError:  # some cannot be built without memory: see claims.py
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"model {name!r} cannot be built with {one_line(options)}: {one_line(error)}"
        ) from error
    except OSError as error:
        raise ModelError(
            f"the pretrained weights of {name!r} cannot be had ({one_line(error)[:200]}): name a "
            "file that you have with model.init_weights"
        ) from error


def _timms(timm: Any, model: str) -> Collection[str]:
    """Its models; where ``model`` names pretrained weights too (``resnet18.a1_in1k``), those of
    that architecture."""
    architecture, tag, _ = model.partition(".")
    if not timm.is_model(architecture):
        return timm.list_models()
    return timm.list_pretrained(architecture) if tag else [architecture]


def _torchvisions(torchvision: Any, model: str) -> Collection[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _from_timm(
    timm: Any, name: str, model: str, wanted: Wanted, options: dict[str, Any]
) -> nn.Module:
    """By ``timm.create_model``, which takes any number of channels; a model that is made for one
    size of pictures is told theirs."""
    made_for = timm.get_pretrained_cfg(model)
    if made_for is not None and made_for.fixed_input_size:
        options.setdefault("img_size", wanted.size)
    return timm.create_model(
        model,
        pretrained=wanted.pretrained,
        num_classes=wanted.classes,
        in_chans=wanted.channels,
        **options,
    )


def _from_torchvision(
    torchvision: Any, name: str, model: str, wanted: Wanted, options: dict[str, Any]
) -> nn.Module:
    """By ``torchvision.models.get_model``, of colour pictures."""
    models = torchvision.models
    if wanted.channels != 3:
        raise ModelError(
            f"model {name!r} takes colour pictures, and these have {wanted.channels} channels: "
            "take one of timm, or give model.input_transform a mean and std of three numbers each"
        )
    if not wanted.pretrained:
        return models.get_model(model, weights=None, num_classes=wanted.classes, **options)
    built = models.get_model(model, weights="DEFAULT", progress=False, **options)
    head = head_of_name(built)
    if head is None:
        raise ModelError(f"model {name!r} has no linear head to replace: draw its weights")
    width: Any = built.get_submodule(head).in_features
    built.set_submodule(head, nn.Linear(width, wanted.classes))
    return built
