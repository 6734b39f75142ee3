from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from frugalkd.data import Augmentation, ImageData, data_digest, probe, randomness
from frugalkd.data.probe import digests_kept
from frugalkd.errors import FrugalKDWarning, OutOfMemory, UnsupportedData


@dataclass
class Point:
    x: int


class Samples(Dataset):
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


def count_reads(make, length):
    read = []
    data_digest(Samples(lambda id: read.append(id) or make(id), length))
    return read


def test_every_sample_is_read_and_64_of_them_before():
    read = count_reads(lambda id: torch.zeros(8), 5000)
    assert read[128:] == list(range(5000))
    assert sorted(set(read[:128])) == sorted(read[:128:2])
    assert (read[0], read[127]) == (0, 4999)


def test_beyond_the_limit_evenly_spaced_samples_are_read(monkeypatch):
    monkeypatch.setattr(probe, "WHOLE", 1 << 17)
    assert len(count_reads(lambda id: id, 5000)) == 128 + 128  # 1 KiB each at the least
    read = count_reads(lambda id: bytes(2000), 5000)[128:]
    assert len(read) == (1 << 17) // 2012
    assert (read[0], read[-1]) == (0, 4999)
    assert np.ptp(np.diff(read)) == 1
    assert len(count_reads(lambda id: bytes(2**16), 5000)) == 128 + 64


@pytest.mark.parametrize("changed", [1, 450, 899])
def test_one_sample_of_900_matters(changed):
    def make(id, other=-1):
        return torch.full((3,), float(id + 0.5 * (id == other))), 1

    whole = data_digest(Samples(make, 900))
    assert data_digest(Samples(lambda id: make(id, changed), 900)) != whole
    assert data_digest(Samples(make, 900)) == whole


def test_a_data_set_is_read_once_for_all_digests():
    read = []
    data = Samples(lambda id: read.append(id) or id)
    with digests_kept():
        first = data_digest(data)
        with digests_kept():
            assert data_digest(data) == first
        assert data_digest(data) == first
        assert data_digest(Samples(lambda id: id)) == first
    assert len(read) == 30
    data.make = lambda id: id + 1
    assert data_digest(data) != first


def test_what_differs_between_readings_is_left_out_and_warned():
    def digest(label):
        own = np.random.default_rng()
        drawing = Samples(lambda id: (own.random(4, dtype=np.float32), label(id)), 300)
        with pytest.warns(FrugalKDWarning, match=r"not in its digest.*give it a method digest\(\)"):
            return data_digest(drawing)

    one = digest(lambda id: id % 3)
    assert one == digest(lambda id: id % 3)
    assert one != digest(lambda id: id % 3 + (id == 299))


def test_a_long_reading_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(probe, "_LONG", -1.0)
    data_digest(Samples(lambda id: id, 300))
    (line,) = caplog.messages
    assert line.startswith("reading 300 samples of this Samples for its digest takes about ")
    monkeypatch.setattr(probe, "_LONG", 10.0)
    data_digest(Samples(lambda id: id + 1, 300))
    assert len(caplog.messages) == 1


def test_memory_that_runs_out_in_a_sample_is_one_line():
    def read(id):
        raise MemoryError("Unable to allocate 7.28 TiB")

    with pytest.raises(OutOfMemory, match=r"^out of memory for the digest of this Samples: "):
        data_digest(Samples(read))


def test_subsets_are_what_they_hold():
    data = TensorDataset(torch.arange(20.0), torch.arange(20))
    some = data_digest(Subset(data, [3, 4]))
    assert some == data_digest(TensorDataset(torch.tensor([3.0, 4.0]), torch.tensor([3, 4])))
    assert some == data_digest(Subset(Subset(data, range(2, 10)), [1, 2]))
    assert some != data_digest(Subset(data, [4, 3]))
    own = Samples(lambda id: id, 20)
    assert data_digest(Subset(own, [3, 4])) == data_digest(Samples(lambda id: id + 3, 2))


def test_tensors_and_arrays_enter_whole():
    images, labels = torch.zeros(1000, 4), torch.zeros(1000, dtype=torch.int64)
    before = data_digest(TensorDataset(images, labels)), data_digest(images.numpy())
    images[501, 3] = 1
    after = data_digest(TensorDataset(images, labels)), data_digest(images.numpy())
    assert not set(before) & set(after)
    assert data_digest(images) != data_digest(images.double())
    assert data_digest(images) != data_digest(images.reshape(1000, 2, 2))


def test_beyond_the_limit_a_mapped_array_is_sampled(tmp_path, monkeypatch):
    array = np.memmap(tmp_path / "x", dtype=np.uint8, mode="w+", shape=(1 << 20,))
    monkeypatch.setattr(probe, "WHOLE", 1 << 20)
    one = data_digest(array)
    array[12345] = 1
    assert data_digest(array) != one
    monkeypatch.setattr(probe, "WHOLE", 1 << 18)  # the first and the last block, two between
    one = data_digest(array)
    array[-1] = 1
    assert data_digest(array) != one


class Known(Samples):
    said: Any = "one"

    def digest(self):
        return self.said


def test_a_data_set_may_say_itself_what_it_holds():
    def never(id):
        raise AssertionError("is not read")

    data = Known(never)
    assert data_digest(data) == "one"
    assert data_digest(Subset(data, [1])) != data_digest(Subset(data, [2]))
    data.said = 2
    with pytest.raises(UnsupportedData, match=r"Known\.digest\(\) returns a int"):
        data_digest(data)


def test_a_digest_that_is_passed_on_is_not_the_wrappers():
    class Doubled(Samples):
        inner: Any = None

        def __getattr__(self, name):
            return getattr(self.inner, name)

    data = Doubled(lambda id: 2 * id, 3)
    data.inner = Known(lambda id: id, 3)
    assert data.digest() == "one"
    assert data_digest(data) == data_digest(Samples(lambda id: 2 * id, 3))


def test_torchvisions_folders_are_their_files(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    for name in ("a/1.txt", "a/2.txt", "b/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def folder(transform=len):
        return torchvision.datasets.DatasetFolder(
            str(tmp_path), lambda path: Path(path).read_text(), (".txt",), transform
        )

    one = data_digest(folder())
    assert one == data_digest(folder())
    assert one != data_digest(folder(str.upper))
    assert data_digest(Subset(folder(), [0])) != data_digest(Subset(folder(), [2]))
    (tmp_path / "a/2.txt").write_text("a/3.txt")
    assert one != data_digest(folder())


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
            [["a", "b"]],
            np.array(["a", "b"], dtype=object),
            {"a", "b"},
            Path("a"),
            Point(1),
            Point(2),
        )
    }
    assert len(digests) == 17


def test_empty_and_tensor_data():
    assert data_digest(Samples(lambda id: id, length=0))
    assert not randomness(TensorDataset(torch.arange(3)))
    assert not randomness(torch.arange(12).reshape(6, 2))  # a tensor's own view() is not called
