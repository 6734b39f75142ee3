"""A multi-layer perceptron, for data as small as the digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class MLP(nn.Module):
    """Flatten, then linear layers of ``hidden`` units with ReLU and dropout, then a linear head.

    In: float32 (B, in_channels, H, W); out: logits (B, num_classes). ``hidden`` may be empty: a
    linear classifier. ``dropout`` is the probability after each hidden layer.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = in_channels * math.prod(image_size)
        for size in hidden:
            layers += [nn.Linear(units, size), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            units = size
        self.layers = nn.Sequential(*layers, nn.Linear(units, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
