"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998) with ReLU and max-pooling, and a half of it."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from frugalkd.errors import ModelError


@final
class LeNet(nn.Module):
    """Two 5x5 convolutions, each pooled by 2, and three linear layers.

    In: float32 (B, in_channels, H, W); out: logits (B, num_classes). Images below 32 pixels are
    padded by 2 on each side, so that 28x28 gives the network of 32x32. Raises ModelError for
    images too small for both poolings.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        channels: tuple[int, int],
        hidden: tuple[int, int],
    ) -> None:
        super().__init__()
        padding = 2 if min(image_size) < 32 else 0
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in image_size)
        if height < 1 or width < 1:
            raise ModelError(f"a LeNet needs images of at least 12x12, not {image_size}")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels[0], channels[1], 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[1] * height * width, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def lenet5(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> LeNet:
    """LeNet-5: 6 and 16 channels, 120 and 84 units (61,706 parameters for 10 classes)."""
    return LeNet(num_classes, in_channels, image_size, channels=(6, 16), hidden=(120, 84))


def lenet5_half(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> LeNet:
    """Half of LeNet-5's channels and units, the usual student: 3 and 8, 60 and 42."""
    return LeNet(num_classes, in_channels, image_size, channels=(3, 8), hidden=(60, 42))
