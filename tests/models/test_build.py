"""Every model in the registry, and the parameter counts that are published."""

from __future__ import annotations

import pytest
import torch

from frugalkd.errors import ModelError, UnknownName
from frugalkd.models import MODELS, build_model


def build(name, num_classes=10, in_channels=3, image_size=32, **options):
    return build_model(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        **options,
    )


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (2, (20, 24))])
@pytest.mark.heavy
def test_every_model_gives_logits_that_train(name, channels, size):
    torch.manual_seed(0)
    model = build(name, 7, channels, size)
    height, width = (size, size) if isinstance(size, int) else size
    logits = model(torch.randn(2, channels, height, width))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(name).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


# LeNet-5: LeCun et al. 1998 with full connections. ResNets on 100 classes: the tables of Tian et
# al. 2020 (0.28 M, 0.47 M, 0.86 M, 1.23 M, 7.43 M). ResNet-20 on 10 classes: 0.27 M in He et al.
# 2016, here with option-B shortcuts.
@pytest.mark.parametrize(
    ("name", "classes", "channels", "size", "count"),
    [
        ("lenet5", 10, 1, 28, 61_706),
        ("lenet5", 10, 1, 32, 61_706),
        ("lenet5-half", 10, 1, 28, 15_738),
        ("fashion-conv", 10, 1, 28, 144_178),
        ("resnet8", 10, 3, 32, 78_042),
        ("resnet20", 10, 3, 32, 272_474),
        ("resnet20", 100, 3, 32, 278_324),
        ("resnet32", 100, 3, 32, 472_756),
        ("resnet56", 100, 3, 32, 861_620),
        ("resnet8x4", 100, 3, 32, 1_233_540),
        ("resnet32x4", 100, 3, 32, 7_433_860),
    ],
)
def test_parameter_counts(name, classes, channels, size, count):
    assert parameters(build(name, classes, channels, size)) == count


def test_options_reach_the_model():
    assert parameters(build("fashion-conv", width=16)) < parameters(build("fashion-conv"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fashion-conv", {"widht": 3}, "takes no option 'widht': did you mean width"),
        ("lenet5", {"width": 3}, "takes no option 'width': it takes none"),
        ("resnet20", {"depth": 8}, "takes no option 'depth'"),
        ("fashion-conv", {"width": -1}, "cannot be built with"),
        ("fashion-conv", {"dropout": 2.0}, "cannot be built with"),
        ("mlp", {"hidden": 3}, "cannot be built with"),
        ("mlp", {"hidden": [0]}, "cannot be built with"),
        ("mlp", {"hidden": [[10**3000]]}, "cannot be built with"),
        ("mlp", {"a" * 3000: 1}, "takes no option 'aaa"),
        ("lenet5", {"image_size": 8}, "at least 12x12"),
        ("mlp", {"num_classes": 0}, "num_classes 0"),
        ("mlp", {"image_size": (3, 0)}, "image width 0"),
    ],
)
def test_refused_in_one_line(name, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_unknown_name():
    with pytest.raises(UnknownName, match="did you mean resnet20"):
        build("resnet-20")
