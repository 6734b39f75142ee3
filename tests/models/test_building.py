"""Input transforms: the images that the data would give in the model's size and normalisation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frugalkd.data import Augmentation, ImageData
from frugalkd.errors import ModelError, RecipeError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.experiments.runs.from_recipe import make_data, make_model, make_teacher
from frugalkd.models.building import InputTransform, add_input_transform
from frugalkd.models.identity import _structure, build_digest
from frugalkd.models.origin import InputTransformHook

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, channels, 6, 5), dtype=torch.uint8, generator=generator)
    data = ImageData(pixels, torch.zeros(4, dtype=torch.int64), ("a",), mean=mean, std=std)
    return data.batch(range(4), [0] * 4)[0]


def test_the_normalisation_is_that_of_the_model():
    ours = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    seen = InputTransformHook.between(None, ours, (MEAN, STD)).pictures(pictures(3, *ours))
    torch.testing.assert_close(seen, pictures(3, MEAN, STD), atol=1e-5, rtol=1e-5)


def test_grey_becomes_colour():
    grey = pictures(1, (0.3,), (0.2,))
    seen = InputTransformHook.between(None, ((0.3,), (0.2,)), (MEAN, STD)).pictures(grey)
    pixel = grey * 0.2 + 0.3
    for channel in range(3):
        expected = (pixel[:, 0] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(seen[:, channel], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(9, 7), (3, 5), (6, 5)])
def test_the_size_is_that_of_the_model(size):
    x = pictures(3, MEAN, STD)
    seen = InputTransformHook.between(size, (MEAN, STD), (MEAN, STD)).pictures(x)
    expected = x if size == (6, 5) else F.interpolate(x, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_a_transformed_model_keeps_its_names_and_can_be_copied():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    names = list(model.state_dict())
    add_input_transform(model, InputTransform(size=9, mean=[0.5] * 3, std=[0.5] * 3), MEAN, STD)
    x = torch.randn(2, 3, 6, 5)
    assert list(model.state_dict()) == names
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(copied(x), model(x))


def test_another_input_transform_is_another_teacher():
    digests = []
    for size in (None, 9, 12):
        model = nn.Flatten()
        add_input_transform(model, InputTransform(size=size), MEAN, STD)
        digests.append(build_digest(model))
        # Digests of earlier runs have the hook's earlier name.
        assert next(line for line in _structure(model) if "shift=" in line).startswith("Seen(size=")
    assert len({build_digest(nn.Flatten()), *digests}) == 4


@pytest.mark.parametrize("in_memory", [False, True])
def test_images_that_were_read_smaller_are_refused(tmp_path, in_memory):
    """The student's 6 pixels are all that is left for a teacher of 9."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for row in range(4):
            image.new("RGB", (12, 8), (9, 60 * row, 99)).save(tmp_path / kind / f"{row}.png")
    options = {"path": str(tmp_path), "test": 0.5, "in_memory": in_memory}

    def recipe_of(size, input_transform):
        data = {"name": "image-folder", "options": {**options, "size": size}}
        model = {"name": "mlp", "input_transform": {"size": input_transform}}
        return override(load_recipe("digits"), {"data": data, "teacher.model": model})

    def made(recipe):
        data = make_data(recipe, Augmentation(), 0).train
        return make_model(recipe.teacher.model, data, 0), data

    with pytest.raises(ModelError, match=r"of up to 8 x 12 are read as 6 x 6, and the model.s"):
        made(recipe_of(6, 9))
    made(recipe_of(6, 5))  # smaller still
    made(recipe_of([8, 12], 20))  # nothing was lost
    # What the message advises.
    recipe = recipe_of(9, 6)
    assert made(recipe)[0](torch.zeros(1, 3, 9, 9)).shape == (1, 2)
    # A teacher of larger pictures, in a folder.
    teacher = tmp_path.parent / f"{tmp_path.name}-teacher"
    few = {"teacher.training.epochs": 1, "teacher.model": {"name": "resnet8"}}
    teach(override(recipe, few), teacher)
    smaller = recipe_of(6, 6)
    data = make_data(smaller, Augmentation(), 0).train
    with pytest.raises(ModelError, match=r"set data.options.size to \[9, 9\]"):
        make_teacher(smaller, teacher, data)
    make_teacher(recipe, teacher, made(recipe)[1])


def test_impossible_transforms_are_refused():
    with pytest.raises(ModelError, match="takes pictures of 1 channels, and these have 3"):
        add_input_transform(nn.Flatten(), InputTransform(mean=[0.5], std=[0.5]), MEAN, STD)
    recipe = load_recipe("digits")
    for input_transform, message in (
        ({"size": 0}, "size is in 1 .. 4096"),
        ({"mean": [0.5]}, "both mean and std"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "one number, or three"),
        ({"mean": [0.5], "std": [0.0]}, "std above 0"),
        ({"sise": 3}, "sise"),
    ):
        with pytest.raises(RecipeError, match=message):
            override(recipe, {"student.model.input_transform": input_transform})
