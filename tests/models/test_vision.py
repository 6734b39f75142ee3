from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.errors import ModelError
from frugalkd.models.vision import MLP, WIDE, FashionConv, ResNet, lenet5


@pytest.mark.parametrize("kind", [MLP, FashionConv])
def test_dropout_acts_in_training_only(kind):
    torch.manual_seed(0)
    model = kind(10, 1, (8, 8), dropout=0.5)
    x = torch.randn(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def linear_layers(model: MLP) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]


def test_mlp_layers():
    assert linear_layers(MLP(10, 1, (8, 8))) == [(64, 64), (64, 10)]
    assert linear_layers(MLP(10, 3, (2, 4), hidden=[5, 6])) == [(24, 5), (5, 6), (6, 10)]
    assert linear_layers(MLP(10, 1, (8, 8), hidden=())) == [(64, 10)]


def test_fashion_conv_takes_17_megaflops():
    model = FashionConv(10, 1, (28, 28)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 28, 28))
    assert 16e6 < counter.get_total_flops() < 17e6


def test_fashion_conv_takes_any_size_from_eight():
    assert FashionConv(10, 3, (8, 9), width=2).eval()(torch.zeros(1, 3, 8, 9)).shape == (1, 10)


def test_lenet_pads_28_pixels_to_32():
    small, large = lenet5(10, 1, (28, 28)), lenet5(10, 1, (32, 32))
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(small(x), large(pad(x, (2, 2, 2, 2))))


def test_lenet_needs_12_pixels():
    assert lenet5(10, 1, (12, 12))(torch.zeros(1, 1, 12, 12)).shape == (1, 10)
    with pytest.raises(ModelError, match="at least 12x12"):
        lenet5(10, 1, (11, 12))


@pytest.mark.parametrize("depth", [8, 20])
def test_resnet_depth_counts_the_layers_with_weights(depth):
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


def test_resnet_halves_the_image_twice():
    model = ResNet(10, 3, (32, 32), depth=8)
    assert model.stages(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 8, 8)
