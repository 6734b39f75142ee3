"""Models from their settings: those of a recipe, or of the card of a saved model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from frugalkd.data import Pictures
from frugalkd.errors import ModelError
from frugalkd.models import build_model
from frugalkd.models.initial import put_projector
from frugalkd.models.origin import Normalisation, Seen, note_origin
from frugalkd.models.settings import InputTransform, ModelSettings
from frugalkd.runtime.imports import make_object


def build_for(
    spec: ModelSettings, classes: int, shape: Sequence[int], *, init_weights: str | None = None
) -> nn.Module:
    """The named model for images of ``shape`` (C, H, W), after its input transform."""
    channels, height, width = shape
    transform = spec.input_transform or InputTransform()
    return build_model(
        spec.name or "",
        num_classes=classes,
        in_channels=channels if transform.mean is None else len(transform.mean),
        image_size=transform.height_width or (height, width),
        init_weights=init_weights,
        **spec.options,
    )


def make_module(path: str, options: Mapping[str, Any]) -> nn.Module:
    """The torch module that an import path makes. Raises ModelError."""
    model = make_object(path, options)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path} made a {type(model).__name__}, not a torch module")
    return model


def finish(model: nn.Module, spec: ModelSettings) -> nn.Module:
    """``model``, ready for the teacher's classifier where ``spec`` reuses that."""
    if spec.reuse_classifier_dim is not None:
        put_projector(model, spec.reuse_classifier_dim)
    return model


def note_spec(model: nn.Module, spec: ModelSettings) -> None:
    """Note on ``model`` how it was built, which is part of its identity."""
    plain = spec.model_dump(mode="json", exclude_none=True, exclude={"init_weights"})
    note_origin(model, spec=plain)


def see(
    model: nn.Module, transform: InputTransform, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Apply ``transform`` to the images that ``model`` receives from now on, normalised by ``mean``
    and ``std``."""
    wanted = (transform.mean or mean, transform.std or std)
    if len(wanted[0]) < len(mean):
        raise ModelError(
            f"model.input_transform: the pictures have {len(mean)} channels, mean and std 1"
        )
    model.register_forward_pre_hook(Seen.between(transform.height_width, (mean, std), wanted))


def see_as_trained(model: nn.Module, trained: Normalisation, given: Normalisation) -> None:
    """Convert the images that ``model`` receives from now on, normalised by ``given``, to the
    normalisation ``trained``, before any other transform. Raises ModelError."""
    if len(given[0]) not in (1, len(trained[0])):
        raise ModelError(
            f"the model was trained on pictures of {len(trained[0])} channels, and these have "
            f"{len(given[0])}"
        )
    model.register_forward_pre_hook(Seen.between(None, given, trained), prepend=True)


def refuse_reduced(
    transform: InputTransform | None, trained: Sequence[int] | None, data: object
) -> None:
    """Refuse images that were read smaller than the model's input, or than its training images,
    ``trained`` (height, width): enlarging them again does not bring back what was lost.

    Raises ModelError, or DataError where they cannot be read.
    """
    wanted = (transform and transform.height_width) or trained
    if wanted is None or not isinstance(data, Pictures):
        return
    height, width = data.shape[1:]
    if wanted[0] <= height and wanted[1] <= width:
        return
    original = data.original_size()
    if original is not None and (original[0] > height or original[1] > width):
        raise ModelError(
            f"pictures of up to {original[0]} x {original[1]} are read as {height} x {width}, and "
            f"the model's input is {wanted[0]} x {wanted[1]}: set data.options.size to "
            f"{list(wanted)}, and the input_transform.size of a model of smaller ones to "
            f"[{height}, {width}]"
        )
