"""Small networks for images. In: float32 (B, in_channels, H, W); out: logits (B, num_classes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

from frugalkd.errors import ModelError


@final
class MLP(nn.Module):
    """Flatten, linear layers of ``hidden`` units with ReLU and ``dropout`` (none: a linear
    classifier), a linear head."""

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


@final
class FashionConv(nn.Module):
    """Four 3x3 convolutions of ``width``, 2, 4 and 4 times ``width`` channels with BatchNorm and
    ReLU, max-pooled by 2 in the first, second and fourth block, and a linear head.

    A block pools before BatchNorm and ReLU, which then run on a quarter of the values. Images of
    any size from 8x8. ``dropout``: before the head. A forward pass takes 17 MFLOPs at 28x28.
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
    # BatchNorm's shift makes the convolution's own bias redundant.
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if pool else []
    return [convolution, *pooling, nn.BatchNorm2d(outputs), nn.ReLU()]


@final
class LeNet(nn.Module):
    """LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998) with ReLU and max-pooling: two 5x5
    convolutions, each pooled by 2, and three linear layers.

    ``filters``: channels of the convolutions, units of the first two layers. Images below 32 pixels
    are padded by 2 on each side, so that 28x28 gives the network of 32x32. Raises ModelError for
    images too small for both poolings.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        filters: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        padding = 2 if min(image_size) < 32 else 0
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in image_size)
        if height < 1 or width < 1:
            raise ModelError(f"a LeNet needs images of at least 12x12, not {image_size}")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, filters[0], 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(filters[0], filters[1], 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(filters[1] * height * width, filters[2]),
            nn.ReLU(),
            nn.Linear(filters[2], filters[3]),
            nn.ReLU(),
            nn.Linear(filters[3], num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


lenet5 = partial(LeNet, filters=(6, 16, 120, 84))
lenet5_half = partial(LeNet, filters=(3, 8, 60, 42))


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
    """Residual network for small images (He, Zhang, Ren and Sun, 2016, section 4.2): a stem, three
    stages of ``(depth - 2) / 6`` blocks, the mean over the image, a linear head.

    Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B of that
    paper; its own CIFAR networks use option A, zero padding, and so have a few thousand parameters
    fewer). ``filters``: channels of the stem and of the stages; ``WIDE`` are the "x4" networks of
    the distillation literature (Tian, Krishnan and Isola, 2020). Images of any size.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        depth: int,
        filters: tuple[int, int, int, int] = (16, 16, 32, 64),
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


WIDE = (32, 64, 128, 256)
RESNETS = {
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in (8, 20, 32, 56)},
    **{f"resnet{depth}x4": partial(ResNet, depth=depth, filters=WIDE) for depth in (8, 32)},
}
