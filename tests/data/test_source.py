"""The data sets and collates are at the top level, so that spawned workers can import them."""

from __future__ import annotations

import gc
import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from frugalkd.data import Augmentation, ImageData
from frugalkd.data.source import (
    LoaderSource,
    MemorySource,
    Source,
    is_batch_indexed,
    is_view_indexed,
    open_source,
)
from frugalkd.errors import DataError, SelectionMisuse, UnsupportedData
from frugalkd.runtime.draws import order

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Numbered(Dataset):
    """Carries its own id in the sample."""

    def __len__(self):
        return 100

    def __getitem__(self, id):
        return torch.full((2,), float(id)), id


class Viewed(Numbered):
    def view(self, id, view):
        return id, view


class Random(Numbered):
    def __getitem__(self, id):
        return id, torch.rand(())


class Broken(Numbered):
    def __getitem__(self, id):
        if id == 7:
            raise OSError("sample 7 is gone")
        return id, 0


def marked(samples):
    """A collate of the user's: it sees the samples alone."""
    assert all(len(sample) == 2 for sample in samples)
    return {"mark": "mine", "ids": [int(sample[1]) for sample in samples]}


def shuffled(epochs=3, rows=100, size=7):
    """The requests of each epoch: a shuffle, and views that differ by row and epoch."""
    for epoch in range(epochs):
        ids = order(np.arange(rows), 0, epoch)
        yield [
            (ids[start : start + size], ids[start : start + size] % 5 + epoch)
            for start in range(0, rows, size)
        ]


def images(augmentation: Augmentation | None = None) -> ImageData:
    return ImageData(
        torch.randint(0, 256, (100, 1, 6, 6), dtype=torch.uint8),
        torch.arange(100) % 4,
        tuple("abcd"),
        mean=(0.5,),
        std=(0.5,),
        augmentation=augmentation,
    )


@pytest.fixture(autouse=True)
def forked(request, monkeypatch):
    """Workers are forked, which takes no time, but where a test is about spawned ones."""
    if "spawned" in request.fixturenames:
        return

    class Forking(DataLoader):
        def __init__(self, *args, **settings):
            if settings.get("num_workers"):
                settings["multiprocessing_context"] = "fork"
            super().__init__(*args, **settings)

    monkeypatch.setattr("frugalkd.data.source.DataLoader", Forking)


@pytest.fixture
def spawned():
    """Workers are spawned, as outside the tests."""


def check_ids(source: Source, read_ids) -> None:
    for requests in shuffled():
        batches = list(source.batches(requests))
        assert len(batches) == len(requests)
        for (ids, _), data in zip(requests, batches, strict=True):
            assert list(map(int, read_ids(data))) == ids.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_under_shuffling_over_epochs(workers):
    with open_source(Numbered(), num_workers=workers) as source:
        check_ids(source, lambda data: data[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_with_a_collate_of_the_users(workers):
    with open_source(Numbered(), collate_fn=marked, num_workers=workers) as source:
        check_ids(source, lambda data: data["ids"])


@pytest.mark.parametrize("workers", [0, 1])
def test_views_reach_the_data_set(workers):
    with open_source(Viewed(), num_workers=workers) as source:
        for requests in shuffled(epochs=2):
            for (ids, views), (got, seen) in zip(requests, source.batches(requests), strict=True):
                assert got.tolist() == ids.tolist()
                assert seen.tolist() == views.tolist()


@pytest.mark.heavy
def test_workers_stay_read_ahead_and_end_with_close(spawned):
    source = open_source(Numbered(), num_workers=1)
    requests = next(shuffled())
    list(source.batches(requests))
    first = {child.pid for child in multiprocessing.active_children()}
    assert len(first) == 1
    reading = source.batches(requests)
    next(reading)  # abandoned here, with batches read ahead
    again = [data[1].tolist() for data in source.batches(requests)]
    assert again == [ids.tolist() for ids, _ in requests]
    assert {child.pid for child in multiprocessing.active_children()} == first
    source.close()
    gc.collect()
    assert not multiprocessing.active_children()
    with pytest.raises(SelectionMisuse):
        next(reading)
    source.close()  # twice does no harm


def test_a_closed_source_can_be_used_again():
    source = LoaderSource(Numbered())
    requests = next(shuffled())
    list(source.batches(requests))
    source.close()
    assert len(list(source.batches(requests))) == len(requests)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_stream_does_not_move(workers):
    requests = next(shuffled())
    with open_source(Numbered(), num_workers=workers) as source:
        before = torch.get_rng_state()
        for _ in range(2):
            list(source.batches(requests))
        assert torch.equal(torch.get_rng_state(), before)


def test_workers_of_a_random_data_set_are_seeded():
    requests = next(shuffled())
    drawn = []
    for seed in (0, 0, 1):
        with open_source(Random(), num_workers=1, seed=seed) as source:
            drawn.append(torch.cat([values for _, values in source.batches(requests)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("dataset", "collate_fn"),
    [
        ([{"x": torch.tensor(i), "more": {"id": i}} for i in range(10)], None),
        ([torch.tensor([i]) for i in range(10)], None),
        (torch.arange(10), None),
        (list(range(10)), None),
        ([str(i) for i in range(10)], list),
        ([None] * 10, lambda samples: samples),
    ],
)
def test_any_structure_passes_through(dataset, collate_fn):
    requests = [(np.array([3, 1]), np.array([0, 0])), (np.array([9]), np.array([4]))]
    with open_source(dataset, collate_fn=collate_fn) as source:
        batches = list(source.batches(requests))
    by_hand = collate_fn or torch.utils.data.default_collate
    expected = [by_hand([dataset[i] for i in ids]) for ids in ([3, 1], [9])]
    assert repr(batches) == repr(expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_and_loader_sources_give_the_same_pixels(workers):
    data = images(Augmentation(crop=2, flip=True))
    memory, loader = open_source(data), LoaderSource(data, num_workers=workers)
    assert isinstance(memory, MemorySource)
    for requests in shuffled(epochs=2):
        pairs = zip(memory.batches(requests), loader.batches(requests), strict=True)
        for (x, y), (x_loaded, y_loaded) in pairs:
            assert torch.equal(x, x_loaded)
            assert torch.equal(y, y_loaded)
    memory.close()
    loader.close()


def test_a_collate_turns_batches_off():
    with open_source(images(), collate_fn=marked) as source:
        assert isinstance(source, LoaderSource)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_requests(workers):
    with open_source(Numbered(), num_workers=workers) as source:
        assert list(source.batches([])) == []
    assert not multiprocessing.active_children()


def test_one_loop_at_a_time():
    source = LoaderSource(Numbered())
    requests = next(shuffled())
    outer = source.batches(requests)
    next(outer)
    next(source.batches(requests))
    with pytest.raises(SelectionMisuse, match="one at a time"):
        next(outer)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_set_names_the_sample(workers):
    with (
        open_source(Broken(), num_workers=workers) as source,
        pytest.raises(DataError) as caught,
    ):
        list(source.batches([(np.array([7]), np.array([0]))]))
    assert str(caught.value) == "sample 7 cannot be read (OSError: sample 7 is gone)"
    assert isinstance(caught.value.__cause__, OSError) == (workers == 0)


def test_what_cannot_be_sent_to_workers(spawned):
    with (
        open_source(Numbered(), collate_fn=lambda samples: samples, num_workers=1) as source,
        pytest.raises(UnsupportedData, match="top level of a module") as caught,
    ):
        list(source.batches(next(shuffled())))
    assert "\n" not in str(caught.value)


def test_pinning_without_an_accelerator_brings_no_warning():
    with open_source(Numbered(), pin_memory=not torch.accelerator.is_available()) as source:
        list(source.batches(next(shuffled())))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Endless(Dataset):
    def __getitem__(self, id):
        return id


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "Stream is not map-style"),
        (Endless(), "give a data set with a length and samples by id"),
        (iter(range(3)), "range_iterator is not map-style"),
        (Subset(images(), [1, 2]), r"use its own subset\(ids\)"),
    ],
)
def test_refused(dataset, message):
    with pytest.raises(UnsupportedData, match=message):
        open_source(dataset)


def test_an_ordinary_subset_is_welcome():
    with open_source(Subset(Numbered(), [5, 6])) as source:
        (batch,) = source.batches([(np.array([1]), np.array([0]))])
    assert batch[1].tolist() == [6]


class HubLike(Numbered):
    """Like a Hugging Face data set, whose batch() is another thing."""

    def batch(self, batch_size, drop_last_batch=False):
        raise AssertionError


def test_namesakes_are_not_taken_for_views_and_batches():
    assert is_view_indexed(images())
    assert is_batch_indexed(images())
    assert is_view_indexed(Viewed())
    assert not is_view_indexed(torch.arange(3))
    assert not is_view_indexed(np.arange(3))
    assert not is_batch_indexed(HubLike())
    assert isinstance(open_source(HubLike()), LoaderSource)
    assert not is_view_indexed(Numbered())


def test_a_data_set_says_whether_its_rows_may_be_read_in_blocks():
    data = images()
    x, y = data.batch([0, 1], [0, 0])
    source = open_source(data)
    assert source.row_bytes == (x.nbytes + y.nbytes) / 2
    assert open_source(Pair()).row_bytes is None
    assert open_source(Numbered()).row_bytes is None


class Pair(Numbered):
    """Gives whole batches, and promises nothing."""

    def batch(self, ids, views):
        return torch.from_numpy(ids), torch.from_numpy(views)


def test_waiting_for_workers_is_a_phase_of_its_own():
    assert open_source(images()).phase == open_source(Numbered()).phase == "load"
    assert open_source(Numbered(), num_workers=1).phase == "wait"
