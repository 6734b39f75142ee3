from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from frugalkd.data import Augmentation, ImageData, data_digest, randomness


class Samples:
    """A data set whose sample ``id`` is ``make(id)``."""

    def __init__(self, make, length=10):
        self.make, self.length = make, length

    def __len__(self):
        return self.length

    def __getitem__(self, id):
        return self.make(id)


class Viewed(Samples):
    def view(self, id, view):
        return id, view

    def __getitem__(self, id):
        raise AssertionError("view 0 is what counts")


GENERATOR = np.random.default_rng(0)
DRAWS = {
    "torch": lambda id: torch.rand(2),
    "numpy": lambda id: np.random.rand(2),
    "python": lambda id: random.random(),
    "a flip": lambda id: torch.arange(4).flip(0) if torch.rand(()) < 0.5 else torch.arange(4),
    "generator of its own": lambda id: GENERATOR.random(),
}
STEADY = {
    "tensors": lambda id: (torch.full((2, 2), id), id % 2),
    "dict": lambda id: {"text": str(id), "ids": np.arange(id), "none": None, "raw": b"x"},
    "bfloat16": lambda id: torch.full((2,), id, dtype=torch.bfloat16),
    "objects": lambda id: (id, object()),
}


@pytest.mark.parametrize("make", DRAWS.values(), ids=DRAWS)
def test_randomness_is_seen(make):
    assert randomness(Samples(make))


@pytest.mark.parametrize("make", STEADY.values(), ids=STEADY)
def test_steady_data_have_none(make):
    assert not randomness(Samples(make))
    assert data_digest(Samples(make)) == data_digest(Samples(make))
    assert data_digest(Samples(make)) != data_digest(Samples(make, length=11))
    assert data_digest(Samples(make)) != data_digest(Samples(lambda id: make(id + 1)))


@pytest.mark.parametrize("name", ["torch", "numpy", "python", "a flip"])
def test_global_streams_are_restored_and_do_not_reach_the_digest(name):
    data = Samples(DRAWS[name])
    first = data_digest(data)
    for draw in (torch.rand, np.random.rand):
        draw(1)
    random.random()
    before = streams()
    assert data_digest(data) == first
    assert streams() == before
    randomness(data)
    assert streams() == before


def streams() -> tuple[bytes, bytes, object]:
    of_numpy = np.random.get_state(legacy=False)["state"]
    numbers = np.append(of_numpy["key"], of_numpy["pos"]).tobytes()
    return torch.get_rng_state().numpy().tobytes(), numbers, random.getstate()


def test_views_are_probed_where_there_are_views():
    assert not randomness(Viewed(None))
    assert data_digest(Viewed(None)) == data_digest(Viewed(None))


def test_image_data_have_their_own_digest():
    data = ImageData(
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.tensor([0, 1]),
        ("a", "b"),
        mean=(0.0,),
        std=(1.0,),
        augmentation=Augmentation(crop=2, flip=True),
    )
    assert data_digest(data) == data.digest()
    assert not randomness(data)


def test_large_data_are_sampled_over_their_whole_length():
    read = []
    data_digest(Samples(lambda id: read.append(id) or id, length=10_000))
    assert len(read) == 64
    assert (read[0], read[-1]) == (0, 9_999)


def test_types_and_borders_matter():
    digests = {
        data_digest(Samples(lambda id, value=value: value, length=1))
        for value in (
            1,
            1.0,
            True,
            "1",
            b"1",
            [1],
            (1,),
            {"1": 1},
            ["a", "b"],
            ["ab"],
            [["a"], "b"],
        )
    }
    assert len(digests) == 11


def test_empty_and_tensor_data():
    assert data_digest(Samples(lambda id: id, length=0))
    assert not randomness(TensorDataset(torch.arange(3)))
    assert not randomness(torch.arange(12).reshape(6, 2))  # a tensor's own view() is not asked
