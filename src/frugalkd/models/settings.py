"""How a model is named, built and fed: the ``model:`` section of a recipe, and of a model card."""

from __future__ import annotations

from pydantic import Field, model_validator

from frugalkd.models import MODELS, TEXT_MODELS
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
        description=f"one of {', '.join([*MODELS, *TEXT_MODELS])}; or timm/NAME, torchvision/NAME",
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
