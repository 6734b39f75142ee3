"""Models from their settings: the ``model:`` section of a recipe, or of a saved model's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from frugalkd.data import Pictures, TableData, TextData
from frugalkd.data.table import Columns
from frugalkd.data.text import from_transformers
from frugalkd.errors import ModelError, few
from frugalkd.models import MODELS, TEXT_MODELS, build_model, build_text_model
from frugalkd.models.initial import init_from, put_projector
from frugalkd.models.origin import InputTransformHook, note_origin
from frugalkd.runtime.imports import make_object
from frugalkd.runtime.sections import NamedOrPath, Strict


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

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class ModelSettings(NamedOrPath):
    """A model: ``name`` one of frugalkd's, timm's or torchvision's, or ``path`` a callable that
    returns a torch module."""

    name: str | None = Field(
        None,
        description=f"one of {', '.join([*MODELS, *TEXT_MODELS])}, causal-lm, llama; or timm/NAME, "
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


def input_sizes_of(data: object) -> dict[str, Any]:
    """What a model's card holds of the inputs and outputs that its training ``data`` require; {}
    for data sets of your own."""
    if isinstance(data, Pictures):
        return {
            "num_classes": data.num_classes,
            **{name: list(getattr(data, name)) for name in ("shape", "mean", "std")},
        }
    if isinstance(data, TextData):
        names = ("vocabulary", "tokenizer", "max_length")
        sizes = {name: getattr(data.tokens, name) for name in names}
        return {"num_classes": data.num_classes, **sizes}
    if isinstance(data, TableData):
        columns = data.columns.card()
        return {"num_classes": data.num_classes, "columns": columns, "label": data.label}
    return {}


def build(
    spec: ModelSettings, inputs: Mapping[str, Any], init_weights: str | None = None
) -> nn.Module:
    """The model of ``spec`` for ``inputs``, as of :func:`input_sizes_of`, ready for the teacher's
    classifier where ``spec`` reuses that. Raises UnknownName, ModelError: it cannot be made, or is
    no torch module."""
    if spec.name is None:
        model = make_object(spec.path or "", spec.options)
        if not isinstance(model, nn.Module):
            raise ModelError(f"{spec.path} made a {type(model).__name__}, not a torch module")
        if init_weights is not None:
            init_from(model, init_weights)
    elif "vocabulary" in inputs:
        if init_weights is not None:
            raise ModelError(
                f"model.init_weights: a {spec.name} begins with the weights of its own path"
            )
        sizes = {name: inputs[name] for name in ("num_classes", "vocabulary")}
        model = build_text_model(spec.name, **sizes, **spec.options)
    elif "columns" in inputs:
        if spec.name != "mlp":
            raise ModelError(f"model {spec.name!r} takes no rows of a table: set model.name to mlp")
        model = build_model(
            spec.name,
            num_classes=inputs["num_classes"],
            in_channels=1,
            image_size=(1, Columns.of_card(inputs["columns"]).width),
            init_weights=init_weights,
            **spec.options,
        )
    else:
        channels, height, width = inputs["shape"]
        transform = spec.input_transform or InputTransform()
        model = build_model(
            spec.name,
            num_classes=inputs["num_classes"],
            in_channels=channels if transform.mean is None else len(transform.mean),
            image_size=transform.height_width or (height, width),
            init_weights=init_weights,
            **spec.options,
        )
    if spec.reuse_classifier_dim is not None:
        put_projector(model, spec.reuse_classifier_dim)
    return model


def causal_from(place: str, **options: Any) -> Any:
    """A causal language model of transformers with all of its weights; ``place`` and ``options`` as
    of :func:`frugalkd.data.text.from_transformers`. Raises ModelError: some are missing, and would
    be random."""
    options["output_loading_info"] = True
    model, found = from_transformers("AutoModelForCausalLM", place, **options)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{place!r} lacks weights of a language model: {few(missing)}")
    return model


def note_spec(model: nn.Module, spec: ModelSettings) -> None:
    """Note on ``model`` how it was built, which is part of its identity."""
    plain = spec.model_dump(mode="json", exclude_none=True, exclude={"init_weights"})
    note_origin(model, spec=plain)


def add_input_transform(
    model: nn.Module, transform: InputTransform, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Apply ``transform`` to the images that ``model`` receives from now on, normalised by ``mean``
    and ``std``. Raises ModelError: they have other channels."""
    wanted = (transform.mean or mean, transform.std or std)
    hook = InputTransformHook.between(transform.height_width, (mean, std), wanted)
    model.register_forward_pre_hook(hook)


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
