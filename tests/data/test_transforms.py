"""Transforms of torchvision: functions of seed, id and view, whatever is beside them."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd import KD, StoredTargets, Training, distill
from frugalkd.data import Augmentation, ImageData, Transform
from frugalkd.data.transforms import NAMES
from frugalkd.errors import DataError, SettingError
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.digest import run_digest
from toys import net

pytest.importorskip("torchvision", reason="needs the extra torchvision")

NEEDED = {
    "ColorJitter": {"brightness": 0.4}, "GaussianBlur": {"kernel_size": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 2.0}, "RandomAffine": {"degrees": 20},
    "RandomPosterize": {"bits": 3}, "RandomRotation": {"degrees": 20},
    "RandomSolarize": {"threshold": 99.0}, "ElasticTransform": {"alpha": 9.0, "sigma": 1.0},
}  # fmt: skip
"""Options without a default."""


def transform(name):
    return Transform(name, NEEDED.get(name, {}))


def pictures(channels=3, side=24, rows=6):
    stream = torch.Generator().manual_seed(0)
    shape = (rows, channels, side, side)
    images = torch.randint(0, 128, shape, generator=stream, dtype=torch.int64).to(torch.uint8)
    half = (0.5,) * channels
    return ImageData(images, torch.arange(rows) % 2, ("a", "b"), mean=half, std=half)


def changed(*names, seed=0, data=None):
    augmentation = Augmentation(crop=2, transforms=tuple(map(transform, names)))
    return (pictures() if data is None else data).with_augmentation(augmentation, seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_the_same_alone_and_in_a_batch(name):
    data, ids = changed(name), [4, 1, 4, 0]
    views = [7, 7, 8, 2]
    together, _ = data.rendered(ids, views)
    alone = torch.stack([data.view(id, view)[0] for id, view in zip(ids, views, strict=True)])
    assert torch.equal(together, alone)
    assert together.shape == (4, 3, 24, 24)


@pytest.mark.parametrize("name", NAMES)
def test_a_transform_changes_some_views(name):
    plain, data = changed(), changed(name)
    ids, views = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
    assert not torch.equal(plain.rendered(ids, views)[0], data.rendered(ids, views)[0])
    first = data.rendered(np.zeros(20, np.int64), np.arange(20))[0]
    assert len({bytes(view.numpy()) for view in first}) > 1


def test_another_seed_is_another_draw():
    one, other = (
        changed("RandAugment", seed=seed).rendered([0] * 9, range(9))[0] for seed in (0, 1)
    )
    assert not torch.equal(one, other)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), min_size=1, max_size=5))
@settings(max_examples=20)
def test_no_stream_of_the_users_changes(rows):
    data, ids, views = changed("RandAugment", "RandomErasing"), *zip(*rows, strict=True)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore
    first = data.rendered(list(ids), list(views))[0]
    torch.manual_seed(sum(ids))
    again = data.rendered(list(ids), list(views))[0]
    assert torch.equal(first, again)
    torch.set_rng_state(before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore


def test_crops_have_the_size_of_the_pictures():
    data = changed("RandomResizedCrop", data=pictures(channels=1, side=9))
    assert data.view(0, 3)[0].shape == (1, 9, 9)


def test_a_store_of_views_is_of_these_transforms():
    """Each stored view is the teacher's output of that view, and another transform is refused."""
    data, teacher = pictures(1, 6, 37), net().eval()
    data = changed("RandomErasing", data=data)
    kept = StoredTargets.fill(teacher, data, views=3)
    ids, views = np.arange(37), np.full(37, 2)
    stored = kept.fetch(ids, views, None).softmax(1)
    assert torch.allclose(stored, teacher(data.rendered(ids, views)[0]).softmax(1), atol=2e-3)
    other = changed("RandomRotation", data=data)
    with pytest.raises(Exception, match="augmentation"):
        distill(net(), other, teacher=kept, objective=KD(), training=Training(epochs=1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RandomRotation", {}, "RandomRotation cannot be made of"),
        ("RandomResizedCrop", {"size": 8}, "have to keep size and type"),
        ("ColorJitter", {"brigtness": 1}, "takes no option 'brigtness': did you mean brightness"),
        ("RandomErasing", {"p": 1.0, "value": [1.0, 2.0]}, "RandomErasing"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, message):
    with pytest.raises(DataError, match=message) as raised:
        pictures().with_augmentation(Augmentation(transforms=(Transform(name, options),)))
    assert "\n" not in str(raised.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(SettingError, match="RandAugment"):
        Transform("RandAugmnt")  # type: ignore


def test_torchvision_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"transforms need torchvision: pip install 'frugalkd\[tor"):
        changed("GaussianBlur", data=pictures(side=13))


def test_a_recipe_names_them():
    said = "student.augment={flip: true, transforms: [{name: RandomErasing, options: {p: 0.5}}]}"
    recipe = load_recipe("digits", [said])
    assert recipe.student.augment.transforms == (Transform("RandomErasing", {"p": 0.5}),)
    plain = load_recipe("digits", ["student.augment={flip: true}"])
    digests = {run_digest("distill", each, None) for each in (recipe, plain)}
    assert len(digests) == 2
