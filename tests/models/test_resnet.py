from __future__ import annotations

import pytest
import torch
from torch import nn

from frugalkd.models.resnet import WIDE, ResNet


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_depth_counts_the_layers_with_weights(depth):
    model = ResNet(10, 3, (32, 32), depth=depth)
    on_the_path = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(on_the_path) == depth


def test_shortcuts_are_convolutions_only_where_the_shape_changes():
    def shortcuts(model):
        return [
            (m.in_channels, m.out_channels, m.stride[0])
            for name, m in model.named_modules()
            if isinstance(m, nn.Conv2d) and "shortcut" in name
        ]

    assert shortcuts(ResNet(10, 3, (32, 32), depth=20)) == [(16, 32, 2), (32, 64, 2)]
    wide = shortcuts(ResNet(10, 3, (32, 32), depth=8, filters=WIDE))
    assert wide == [(32, 64, 1), (64, 128, 2), (128, 256, 2)]


def test_the_picture_is_halved_twice():
    model = ResNet(10, 3, (32, 32), depth=8)
    assert model.stages(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 8, 8)
