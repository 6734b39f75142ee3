"""A small convolutional network with BatchNorm, sized for Fashion-MNIST."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class FashionConv(nn.Module):
    """Four 3x3 convolutions of ``width``, 2, 4 and 4 times ``width`` channels, max-pooled by 2 in
    the first, second and fourth block, and a linear head on what is left of the picture.

    A block pools before BatchNorm and ReLU, which then work on a quarter of the values. In:
    float32 (B, in_channels, H, W), any size from 8x8; out: logits (B, num_classes). ``dropout`` is
    the probability before the head. A forward pass takes 17 MFLOPs (2 a multiply-add) at 28x28
    for width 24, and 29 for 32.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        width: int = 24,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, width, pool=True),
            *_block(width, 2 * width, pool=True),
            *_block(2 * width, 4 * width, pool=False),
            *_block(4 * width, 4 * width, pool=True),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        height, breadth = (side // 8 for side in image_size)
        self.head = nn.Linear(4 * width * height * breadth, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))


def _block(inputs: int, outputs: int, *, pool: bool) -> list[nn.Module]:
    # BatchNorm's shift makes the convolution's own bias idle.
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if pool else []
    return [convolution, *pooling, nn.BatchNorm2d(outputs), nn.ReLU()]
