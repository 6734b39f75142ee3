"""Models from what a recipe, or the card of a run folder, says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from frugalkd.data import Pictures
from frugalkd.errors import ModelError
from frugalkd.models import build_model
from frugalkd.models.origin import note_origin
from frugalkd.models.reuse import put_projector
from frugalkd.models.seen import Seen
from frugalkd.models.settings import InputTransform, ModelSettings
from frugalkd.runtime.imports import make_object

Normalisation = tuple[Sequence[float], Sequence[float]]
"""mean and std, a number a channel, of pixels in [0, 1]."""


def build_for(
    spec: ModelSettings, classes: int, shape: Sequence[int], *, init_weights: str | None = None
) -> nn.Module:
    """The named model of pictures of ``shape`` (C, H, W), for what it sees of them."""
    channels, height, width = shape
    input_transform = spec.input_transform or InputTransform()
    return build_model(
        spec.name or "",
        num_classes=classes,
        in_channels=channels if input_transform.mean is None else len(input_transform.mean),
        image_size=_size(input_transform) or (height, width),
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
    """``model``, made ready for the teacher's classifier where the ``spec`` says so."""
    if spec.reuse_classifier_dim is not None:
        put_projector(model, spec.reuse_classifier_dim)
    return model


def note_spec(model: nn.Module, spec: ModelSettings) -> None:
    """Note on ``model`` how it was built, which is part of its identity."""
    said = spec.model_dump(mode="json", exclude_none=True, exclude={"init_weights"})
    note_origin(model, spec=said)


def see(
    model: nn.Module, input_transform: InputTransform, mean: Sequence[float], std: Sequence[float]
) -> None:
    """From now on ``model`` sees pictures that the data normalise by ``mean`` and ``std`` as it was
    trained to."""
    wanted = (input_transform.mean or mean, input_transform.std or std)
    if len(wanted[0]) < len(mean):
        raise ModelError(
            f"model.input_transform: the pictures have {len(mean)} channels, mean and std 1"
        )
    model.register_forward_pre_hook(Seen.between(_size(input_transform), (mean, std), wanted))


def see_as_trained(model: nn.Module, trained: Normalisation, given: Normalisation) -> None:
    """From now on ``model`` sees pictures that are normalised by ``given``, (mean, std), by
    ``trained``, before all else that it makes of them. Raises ModelError."""
    if len(given[0]) not in (1, len(trained[0])):
        raise ModelError(
            f"the model was trained on pictures of {len(trained[0])} channels, and these have "
            f"{len(given[0])}"
        )
    hook = Seen.between(None, given, trained)
    model.register_forward_pre_hook(hook, prepend=True)


def refuse_reduced(
    input_transform: InputTransform | None, trained: Sequence[int] | None, data: object
) -> None:
    """Refuse pictures that were made smaller, as they were read, than a model sees them: what it
    could see of them is lost, and enlarging them does not bring it back.

    Args:
        input_transform: of the model.
        trained: (height, width) of the pictures that it was trained on, where that is known.
        data: of pictures, or none that are known to be some.

    Raises:
        ModelError: they were.
        DataError: they cannot be read.
    """
    wanted = (input_transform and _size(input_transform)) or trained
    if wanted is None or not isinstance(data, Pictures):
        return
    height, width = data.shape[1:]
    if wanted[0] <= height and wanted[1] <= width:
        return
    there = data.original_size()
    if there is not None and (there[0] > height or there[1] > width):
        raise ModelError(
            f"pictures of up to {there[0]} x {there[1]} are read as {height} x {width}, and the "
            f"model was made to see {wanted[0]} x {wanted[1]}: set data.options.size to "
            f"{list(wanted)}, and the sees.size of a model of smaller ones to [{height}, {width}]"
        )


def _size(input_transform: InputTransform) -> tuple[int, int] | None:
    return (
        (input_transform.size, input_transform.size)
        if isinstance(input_transform.size, int)
        else input_transform.size
    )
