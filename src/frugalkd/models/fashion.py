"""A small convolutional network with BatchNorm, sized for Fashion-MNIST."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class FashionConv(nn.Module):
    """Three 3x3 convolutions of ``width``, 2 and 4 times ``width`` channels, each with BatchNorm
    and ReLU; max-pooling by 2 after the first two, the mean over the picture after the third.

    In: float32 (B, in_channels, H, W), any size from 4x4; out: logits (B, num_classes). A forward
    pass takes about 15 MFLOPs (2 a multiply-add) at 28x28 for width 32. ``dropout`` is the
    probability before the linear head.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        width: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(in_channels, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # BatchNorm's shift makes the convolution's own bias idle.
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
