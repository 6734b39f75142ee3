"""mixup and CutMix: functions of seed, id and view, whatever is beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frugalkd.data import Augmentation, ImageData, Mix
from frugalkd.errors import SettingError

NAMES = ("mixup", "cutmix")


def pictures(rows=12, side=16):
    """Each of one shade of its own, so that what is pasted can be recognised."""
    images = torch.arange(rows, dtype=torch.uint8)[:, None, None, None] * 20
    images = images.expand(rows, 3, side, side).contiguous()
    return ImageData(images, torch.arange(rows) % 2, ("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3)


def mixing(name: Any = "mixup", part=0.5, seed=0, **more) -> Any:
    return pictures().with_augmentation(Augmentation(mix=Mix(name, part), **more), seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_the_same_alone_and_in_a_batch(name):
    data, ids = mixing(name, crop=2, flip=True), [4, 1, 4, 0, 9]
    views = [7, 7, 8, 2, 3]
    together, labels = data.rendered(ids, views)
    alone = torch.stack([data.view(id, view)[0] for id, view in zip(ids, views, strict=True)])
    assert torch.equal(together, alone)
    assert labels.tolist() == [0, 1, 0, 0, 1]
    other = mixing(name, seed=1, crop=2, flip=True).rendered(ids, views)[0]
    assert not torch.equal(together, other)


@given(part=st.floats(0.01, 0.95), seed=st.integers(0, 2**40), begin=st.integers(0, 60_000))
def test_mixed_views_are_spread_evenly(part, seed, begin):
    """Any successive views have as many mixed ones as their part, rounded up or down; so one of
    1 / (1 - part), rounded up, is plain."""
    mix, many = Mix("mixup", part), 40
    views = begin + np.arange(many)
    for id in range(5):
        found = mix.mixed(seed, np.full(many, id), views)
        for count in (math.ceil(1 / (1 - part) - 1e-9), many):
            sums = np.convolve(found, np.ones(count), mode="valid")
            assert np.abs(sums - part * count).max() < 1 + 1e-6
            assert sums.max() < count or count == many


def test_about_the_part_of_all_first_views_is_mixed():
    for part in (0.2, 0.5, 0.8):
        found = Mix("mixup", part).mixed(3, np.arange(20_000), np.zeros(20_000, dtype=np.int64))
        assert abs(found.mean() - part) < 0.02


def test_partners_are_any_other_sample():
    ids, views = np.repeat(np.arange(6), 2000), np.tile(np.arange(2000), 6)
    found = Mix("mixup").partners(0, ids, views, 6)
    assert (found != ids).all()
    for id in range(6):
        counts = np.bincount(found[ids == id], minlength=6)
        assert counts[id] == 0
        assert np.abs(np.delete(counts, id) - 400).max() < 80
    assert (
        Mix("mixup").partners(0, np.zeros(3, dtype=np.int64), np.arange(3), 1).tolist() == [0] * 3
    )


def shades(x):
    """Of pictures that are normalised: the shades that :func:`pictures` have."""
    return (x * 0.5 + 0.5) * 255 / 20


@pytest.mark.parametrize("name", NAMES)
def test_at_least_half_of_a_picture_is_the_samples_own(name):
    data, views = mixing(name), np.arange(300)
    ids = views % 12
    x, _ = data.rendered(ids, views)
    mixed = torch.from_numpy(data.mixed(ids, views))
    partners = data.augmentation.mix.partners(0, ids, views, 12)
    found = shades(x)
    own = torch.from_numpy(ids).float()[:, None, None, None]
    assert torch.allclose(found[~mixed], own[~mixed].expand_as(found[~mixed]), atol=1e-3)
    other = torch.from_numpy(partners).float()[:, None, None, None]
    part = ((found - own) / (other - own))[mixed]  # of the partner, at each pixel
    if name == "mixup":
        assert (part - part[:, :1, :1, :1]).abs().max() < 1e-3
    else:
        assert torch.minimum(part.abs(), (part - 1).abs()).max() < 1e-3
        inside = part[:, 0].round().bool()
        rectangle = inside.any(2)[:, :, None] & inside.any(1)[:, None, :]
        assert torch.equal(inside, rectangle)
    shares = part.mean(dim=(1, 2, 3))
    assert shares.max() <= 0.5
    assert 0.1 < shares.mean() < 0.3
    assert shares.std() > 0.1


def test_a_subset_and_no_augmentation():
    data = mixing()
    assert data.mixed is not None
    assert data.without_augmentation().mixed is None
    assert data.subset([3, 4, 5]).mixed(np.arange(3), np.zeros(3, dtype=np.int64)).shape == (3,)
    assert str(Augmentation(crop=4)) == "Augmentation(crop=4, flip=False)"
    assert "mixup" in str(Augmentation(mix=Mix("mixup")))
    assert str(Augmentation(mix=Mix("mixup"))) != str(Augmentation(mix=Mix("mixup", 0.4)))


@pytest.mark.parametrize("wrong", [("mixup", 0), ("mixup", 1), ("mixed", 0.5), ("mixup", "a")])
def test_other_settings_are_refused(wrong):
    with pytest.raises(SettingError):
        Mix(*wrong)
