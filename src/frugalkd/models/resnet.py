"""Residual networks for small images (He, Zhang, Ren and Sun, 2016, section 4.2).

Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B of that paper,
in all of them; the paper's own CIFAR networks use option A, zero padding, and so have a few
thousand parameters fewer). The wide "x4" networks are those of the distillation literature (Tian,
Krishnan and Isola, 2020): a stem of 32 channels, then 64, 128 and 256.
"""

from __future__ import annotations

from functools import partial
from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


@final
class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


@final
class ResNet(nn.Module):
    """A stem, three stages of ``(depth - 2) / 6`` blocks, the mean over the picture, a linear head.

    ``filters``: channels of the stem and of the stages. In: float32 (B, in_channels, H, W), any
    size; out: logits (B, num_classes).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        depth: int,
        filters: tuple[int, int, int, int] = NARROW,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv3x3(in_channels, filters[0], 1), nn.BatchNorm2d(filters[0]), nn.ReLU()
        )
        blocks = (depth - 2) // 6
        self.stages = nn.Sequential(
            _stage(filters[0], filters[1], blocks, stride=1),
            _stage(filters[1], filters[2], blocks, stride=2),
            _stage(filters[2], filters[3], blocks, stride=2),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(filters[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(x))))


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


resnet8 = partial(ResNet, depth=8)
resnet20 = partial(ResNet, depth=20)
resnet32 = partial(ResNet, depth=32)
resnet56 = partial(ResNet, depth=56)
resnet8x4 = partial(ResNet, depth=8, filters=WIDE)
resnet32x4 = partial(ResNet, depth=32, filters=WIDE)
