"""Pictures as a model was trained to see them, where the data give them otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
@dataclass(frozen=True)
class Seen:
    """Before a model's forward pass: float32 (B, C, H, W), as the data normalise it, to what the
    model sees.

    ``size``: (height, width), bilinear and antialiased, or None for that of the data. ``scale``
    and ``shift``, a number a channel, turn the data's normalisation into the model's; grey pictures
    become as many channels as there are numbers.
    """

    size: tuple[int, int] | None
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def between(
        cls,
        size: tuple[int, int] | None,
        data: tuple[Sequence[float], Sequence[float]],
        model: tuple[Sequence[float], Sequence[float]],
    ) -> Seen:
        """From the (mean, std) of the data to the model's, each a number a channel of pixels in
        [0, 1]."""
        rows = [torch.tensor(row, dtype=torch.float64) for row in (*data, *model)]
        mean, std, wanted_mean, wanted_std = rows
        scale, shift = std / wanted_std, (mean - wanted_mean) / wanted_std
        return cls(size, tuple(scale.tolist()), tuple(shift.tolist()))

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook of torch: the model's weights keep their names."""
        return self.pictures(inputs[0]), *inputs[1:]

    def pictures(self, x: Tensor) -> Tensor:
        scale, shift = (x.new_tensor(row)[:, None, None] for row in (self.scale, self.shift))
        x = x * scale + shift
        if self.size is None or self.size == tuple(x.shape[2:]):
            return x
        return F.interpolate(x, self.size, mode="bilinear", antialias=True)
