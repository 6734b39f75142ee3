"""How ids become batches. Whatever structure the samples have passes through untouched."""

from __future__ import annotations

import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, default_collate

from frugalkd.data.probe import data_digest, randomness
from frugalkd.data.protocols import (
    BatchIndexed,
    ViewIndexed,
    is_batch_indexed,
    is_view_indexed,
)
from frugalkd.errors import DataError, SelectionMisuse, UnsupportedData

Request = tuple[NDArray[np.int64], NDArray[np.int64]]
Collate = Callable[[list[Any]], Any]


class Source(ABC):
    """Reads batches of a data set by the ids and views of their rows.

    Attributes:
        phase: of the meters, where the time of a read goes: ``load`` in this process, ``wait`` for
            others.
        row_bytes: of one row of a batch, where a large batch may be read and cut into smaller ones
            without changing a row; None where nobody has said so.
    """

    phase = "load"
    row_bytes: int | None = None

    @abstractmethod
    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The batch of each ``(ids, views)``, both int64 (B,), one after another, in order."""

    @abstractmethod
    def close(self) -> None:
        """Ends the worker processes, where there are any; the source can be used again."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class MemorySource(Source):
    """Batches made at once by the data set itself, in this process."""

    def __init__(self, dataset: BatchIndexed) -> None:
        self._dataset = dataset
        self.row_bytes = getattr(dataset, "row_bytes", None)

    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        return (self._dataset.batch(ids, views) for ids, views in requests)

    def close(self) -> None:
        pass


@final
class LoaderSource(Source):
    """Batches made sample by sample by torch's DataLoader, in ``num_workers`` processes.

    ``collate`` (default: torch's) gets the list of the samples, without their ids, and must keep
    all of them, in order. The workers are spawned once, kept between calls, and read ahead; data
    set and ``collate`` must therefore be picklable. torch's global random stream is not touched;
    ``seed`` seeds the workers, for data sets that draw by themselves. One loop at a time may read:
    a new call of ``batches`` ends the one before, which then raises SelectionMisuse.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        self._dataset = _WithIds(dataset)
        self._collate = _CollateWithIds(collate or default_collate)
        self._num_workers = num_workers
        self.phase = "wait" if num_workers else "load"
        # Asking for pinned memory where there is no accelerator only brings a warning.
        self._pin_memory = pin_memory and torch.accelerator.is_available()
        self._seed = seed
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = None
        self._reading: Iterator[Any] | None = None
        self._calls = 0

    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        self._calls += 1
        return self._read(requests, self._calls)

    def _read(self, requests: Sequence[Request], call: int) -> Iterator[Any]:
        if not len(requests):
            return
        for index, (ids, _) in enumerate(requests):
            if call != self._calls:
                raise SelectionMisuse(
                    "a later call of batches(), or close(), ended this loop: read one at a time"
                )
            if index == 0:
                self._reading = self._start(requests)
            # Held by the source alone, so that close() lets go of the workers.
            assert self._reading is not None
            got, data = next(self._reading)
            if not np.array_equal(got, ids):
                raise DataError(f"batch {index} came with other ids than it was asked for")
            yield data

    def _start(self, requests: Sequence[Request]) -> Iterator[Any]:
        self._requests.pending = requests
        if self._loader is None:
            self._loader = DataLoader(
                self._dataset,
                batch_sampler=self._requests,
                collate_fn=self._collate,
                num_workers=self._num_workers,
                pin_memory=self._pin_memory,
                generator=torch.Generator().manual_seed(self._seed),
                multiprocessing_context="spawn" if self._num_workers else None,
                persistent_workers=self._num_workers > 0,
            )
        try:
            with warnings.catch_warnings():
                # torch warns before it raises; the error below says it once.
                warnings.filterwarnings("ignore", "Got pickle error", UserWarning)
                return iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedData(
                f"data set or collate cannot be sent to worker processes ({reason}): define them "
                "at the top level of a module, or set num_workers to 0"
            ) from error

    def close(self) -> None:
        self._calls += 1
        self._reading = None
        self._loader = None


def open_source(
    dataset: Any,
    *,
    collate: Collate | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    seed: int = 0,
) -> Source:
    """The source for a map-style data set: MemorySource where it gives whole batches and there is
    no ``collate`` of the user's, else LoaderSource. Raises UnsupportedData.
    """
    check_map_style(dataset)
    if is_batch_indexed(dataset) and collate is None:
        return MemorySource(dataset)
    return LoaderSource(dataset, collate, num_workers, pin_memory, seed=seed)


def check_map_style(dataset: Any) -> None:
    """Raises UnsupportedData unless ``dataset`` has a length and gives samples by id."""
    if isinstance(dataset, IterableDataset):
        raise UnsupportedData(
            f"{type(dataset).__name__} is iterable: samples need ids, give a map-style data set"
        )
    if isinstance(dataset, DataLoader):
        raise UnsupportedData(
            "a DataLoader is no data set: give its .dataset, batches are made here"
        )
    if not isinstance(dataset, Sized):
        raise UnsupportedData(f"{type(dataset).__name__} has no length: give a map-style data set")
    if not hasattr(dataset, "__getitem__"):
        raise UnsupportedData(
            f"{type(dataset).__name__} does not give samples by id: give a map-style data set"
        )
    if isinstance(dataset, Subset) and is_view_indexed(dataset.dataset):
        raise UnsupportedData(
            "torch's Subset hides the views of the data set inside: use its own subset(ids)"
        )


@final
class _WithIds(Dataset[tuple[int, Any]]):
    """Sample ``(id, view)`` of the data set, as ``(id, sample)``."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._takes_views = is_view_indexed(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        id, view = key
        return id, self._dataset.view(id, view) if self._takes_views else self._dataset[id]


@final
class _CollateWithIds:
    """A list of ``(id, sample)`` becomes ``(ids, collated samples)``."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, rows: list[tuple[int, Any]]) -> tuple[NDArray[np.int64], Any]:
        ids = np.array([id for id, _ in rows], dtype=np.int64)
        return ids, self._collate([sample for _, sample in rows])


@final
class _Requests(Sampler[list[tuple[int, int]]]):
    """The batch sampler of a loader that outlives its epochs: what is pending can be replaced."""

    def __init__(self) -> None:
        self.pending: Sequence[Request] = ()

    def __len__(self) -> int:
        return len(self.pending)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for ids, views in self.pending:
            yield list(zip(ids.tolist(), views.tolist(), strict=True))


__all__ = [
    "BatchIndexed",
    "LoaderSource",
    "MemorySource",
    "Source",
    "ViewIndexed",
    "check_map_style",
    "data_digest",
    "open_source",
    "randomness",
]
