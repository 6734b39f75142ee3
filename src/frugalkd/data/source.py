"""How ids become batches. Whatever structure the samples have passes through untouched."""

from __future__ import annotations

import inspect
import pickle
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    default_collate,
    get_worker_info,
)

from frugalkd.data.batches import form, type_name
from frugalkd.data.class_names import attribute_of
from frugalkd.errors import DataError, FrugalKDError, SelectionMisuse, UnsupportedData, few
from frugalkd.files.parsing import one_line
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.failures import blame, reason, refuse_worker_gone

Request = tuple[NDArray[np.int64], NDArray[np.int64]]
Collate = Callable[[list[Any]], Any]

_STREAM = draws.stream("buckets")


def is_view_indexed(dataset: object) -> bool:
    """Whether ``dataset`` has ``view(id, view)``: its augmentation is a pure function of sample and
    view. A tensor's ``view`` is another method."""
    return _second_parameter(dataset, "view") == ["view"]


def is_batch_indexed(dataset: object) -> bool:
    """Whether ``dataset`` has ``batch(ids, views)`` (both int64 (B,)), which gives a collated batch
    at once. A Hugging Face data set's ``batch`` is another method.

    With ``row_bytes``, the bytes of a row of a batch, it promises that a row does not depend on its
    batch (no padding to the longest, no draws); several batches are then read at once. Where a
    batch is padded to its longest row, ``join(batches)`` makes one of several, and ``lengths``,
    integers (N,), are those of the samples (see :func:`bucketed`). Of samples that are sequences of
    tokens, ``row_counts(ids)``, int64 (B,), says how many tokens of each are learned.
    """
    return _second_parameter(dataset, "batch") == ["views"]


def mixed_of(dataset: object) -> Callable[[Ids, Ids], NDArray[np.bool_]] | None:
    """What says which views of samples are mixed with other samples, ``dataset.mixed(ids, views)``,
    bool (rows,); None where none are."""
    found: Any = attribute_of(dataset, "mixed")
    return cast("Any", found) if callable(found) else None


def refuse_mixed(dataset: object) -> None:
    """Raises UnsupportedData where views are mixed with other samples, and have no label."""
    if mixed_of(dataset) is not None:
        raise UnsupportedData(
            "views of these data are mixed with other samples, and have no label of their own: "
            "give the samples as they are (data.without_augmentation())"
        )


def _second_parameter(dataset: object, method: str) -> list[str]:
    try:
        return list(inspect.signature(attribute_of(dataset, method)).parameters)[1:2]
    except (TypeError, ValueError):  # there is none, or a built-in one
        return []


class Source(AbstractContextManager[Any], ABC):
    """Reads batches of a data set by the ids and views of their rows.

    ``phase`` of the meters: where the time of a read goes, ``load`` in this process, ``wait`` for
    others. ``row_bytes``: as in :func:`is_batch_indexed`, or None.
    """

    phase = "load"
    row_bytes: int | None = None

    @abstractmethod
    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The batch of each ``(ids, views)``, both int64 (B,), in order. Raises DataError, which
        names the samples that cannot be read or put into a batch, or that a batch lacks."""

    def close(self) -> None:
        """Ends the worker processes, where there are any; the source can be used again."""

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class MemorySource(Source):
    """Batches made at once by the data set itself, in this process."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, size = dataset, attribute_of(dataset, "row_bytes")
        if size is not None and not (isinstance(size, int | np.integer) and size > 0):
            raise UnsupportedData(
                f"{type(dataset).__name__}.row_bytes is {one_line(repr(size), 40)}: a whole number "
                "above 0, or None, is needed"
            )
        self.row_bytes = None if size is None else int(size)

    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        for ids, views in requests:
            try:
                data = self._dataset.batch(ids, views)
            except Exception as error:
                blame(error, DataError, f"samples {few(ids.tolist())} cannot be read")
            yield checked_batch(data, ids)


@final
class LoaderSource(Source):
    """Batches made sample by sample by torch's DataLoader, in ``num_workers`` processes.

    ``collate_fn`` (default: torch's) gets the list of the samples, without their ids, and must keep
    all of them, in order. The workers are started once, by ``start_method`` of multiprocessing,
    kept between calls, and read ahead; unless they are forked, data set and ``collate_fn`` must be
    picklable. torch's global random stream is not touched;
    ``seed`` seeds the workers, for data sets that draw by themselves. One loop at a time may read:
    a new call of ``batches`` ends the one before, which then raises SelectionMisuse.
    """

    def __init__(
        self,
        dataset: Any,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        *,
        start_method: str = "spawn",
        seed: int = 0,
    ) -> None:
        self._read_batch = _ReadBatch(dataset, collate_fn)
        self._num_workers, self._seed, self._start_method = num_workers, seed, start_method
        self.phase = "wait" if num_workers else "load"
        # torch warns of pinned memory where there is no accelerator.
        self._pin_memory = pin_memory and torch.accelerator.is_available()
        self._requests: list[Request] = []
        self._loader: DataLoader[Any] | None = None
        self._reading: Iterator[Any] | None = None
        self._calls = 0

    def batches(self, requests: Sequence[Request]) -> Iterator[Any]:
        self._calls += 1
        return self._read(requests, self._calls)

    def _read(self, requests: Sequence[Request], call: int) -> Iterator[Any]:
        for index, (ids, _) in enumerate(requests):
            if call != self._calls:
                raise SelectionMisuse(
                    "a later call of batches(), or close(), ended this loop: read one at a time"
                )
            if index == 0:
                self._reading = self._start(requests)
            # Held by the source alone, so that close() ends the workers.
            assert self._reading is not None
            try:
                got = next(self._reading)
            except RuntimeError as error:
                self.close()
                refuse_worker_gone(error, f" while samples {few(ids.tolist())} were read")
                raise
            if isinstance(got, DataError):
                raise got
            yield checked_batch(got, ids)

    def _start(self, requests: Sequence[Request]) -> Iterator[Any]:
        self._requests[:] = requests  # the loader outlives its epochs
        if self._loader is None:
            self._loader = DataLoader(
                self._read_batch,
                batch_size=None,
                sampler=self._requests,
                collate_fn=_as_read,
                num_workers=self._num_workers,
                pin_memory=self._pin_memory,
                generator=torch.Generator().manual_seed(self._seed),
                multiprocessing_context=self._start_method if self._num_workers else None,
                persistent_workers=self._num_workers > 0,
            )
        try:
            with warnings.catch_warnings():
                # torch warns before it raises; the error below says it once.
                warnings.filterwarnings("ignore", "Got pickle error", UserWarning)
                return iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UnsupportedData(
                f"data set or collate cannot be sent to worker processes ({reason(error)}): define "
                "them at the top level of a module, or set num_workers to 0"
            ) from error

    def close(self) -> None:
        self._calls += 1
        self._reading = self._loader = None


def open_source(
    dataset: Any,
    *,
    collate_fn: Collate | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: str = "spawn",
    seed: int = 0,
) -> Source:
    """The source for a map-style data set: MemorySource where it gives whole batches and there is
    no ``collate_fn`` of the user's, else LoaderSource. Raises UnsupportedData."""
    check_map_style(dataset)
    if is_batch_indexed(dataset) and collate_fn is None:
        return MemorySource(dataset)
    return LoaderSource(
        dataset, collate_fn, num_workers, pin_memory, start_method=start_method, seed=seed
    )


def check_map_style(dataset: Any) -> None:
    """Raises UnsupportedData unless ``dataset`` has a length and gives samples by id."""
    name, wrong = type(dataset).__name__, ""
    by_id = isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")
    if isinstance(dataset, DataLoader):
        wrong = "a DataLoader is not a data set: give its .dataset, batches are made here"
    elif isinstance(dataset, Subset) and is_view_indexed(dataset.dataset):
        wrong = "torch's Subset hides the views of the data set inside: use its own subset(ids)"
    elif isinstance(dataset, Subset) and hasattr(dataset.dataset, "join"):
        wrong = "torch's Subset hides how samples are padded: use the data set's own subset(ids)"
    elif not by_id or isinstance(dataset, IterableDataset | type | str | bytes | Mapping):
        what = f"class {dataset.__name__}" if isinstance(dataset, type) else name
        wrong = f"{what} is not map-style: give a data set with a length and samples by id"
    if wrong:
        raise UnsupportedData(wrong)
    try:
        len(dataset)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        blame(error, UnsupportedData, f"the length of this {name} is not known")


def _as_read(data: Any) -> Any:
    return data


@final
class _ReadBatch(Dataset[Any]):
    """The batch of a request. A worker returns a DataError, because torch would make many lines of
    one that is raised."""

    def __init__(self, dataset: Any, collate_fn: Collate | None) -> None:
        self._dataset, self._by_view = dataset, is_view_indexed(dataset)
        self._collate, self._own = collate_fn or default_collate, collate_fn is not None

    def __getitem__(self, request: Request) -> Any:
        ids, views = request
        try:
            rows = zip(ids.tolist(), views.tolist(), strict=True)
            return self._collated([self._sample(id, view) for id, view in rows], ids)
        except FrugalKDError as error:
            if get_worker_info() is None:
                raise
            return error if isinstance(error, DataError) else DataError(str(error))

    def _sample(self, id: int, view: int) -> Any:
        try:
            return self._dataset.view(id, view) if self._by_view else self._dataset[id]
        except Exception as error:
            blame(error, DataError, f"sample {id} cannot be read")

    def _collated(self, samples: list[Any], ids: NDArray[np.int64]) -> Any:
        if not self._own:
            _refuse_mixed(samples, ids)
        try:
            return self._collate(samples)
        except Exception as error:
            if self._own:
                blame(error, DataError, f"collate fails on samples {few(ids.tolist())}")
            _refuse_odd(samples, ids, [form(sample) for sample in samples])
            which = f"samples {few(ids.tolist())}, each of the form {form(samples[0])},"
            blame(error, DataError, f"{which} cannot be put into a batch")


def _refuse_mixed(samples: list[Any], ids: NDArray[np.int64]) -> None:
    """Raise DataError where torch would convert the types of a column into one without a message:
    tensors of several types, a floating-point number among whole ones."""
    first, columns = samples[0], [samples]
    if len(set(map(type, samples))) > 1:
        columns = []  # collation fails
    elif isinstance(first, tuple | list):
        columns = list(zip(*samples, strict=False))
    elif isinstance(first, Mapping):
        columns = [[sample.get(key) for sample in samples] for key in first]
    for column in columns:
        # Most columns are of one type, and nothing else is read of them.
        types = {value.dtype if type(value) is Tensor else type(value) for value in column}
        if len(types) > 1:
            _refuse_odd(samples, ids, ["int" if _whole(v) else type_name(v) for v in column])


def _whole(value: Any) -> bool:
    """Whole numbers of any size are of one kind."""
    if isinstance(value, Tensor):
        return torch.can_cast(value.dtype, torch.int64)
    return isinstance(value, int | np.integer)


def _refuse_odd(samples: list[Any], ids: NDArray[np.int64], kinds: list[str]) -> None:
    """Raise DataError for the first sample whose kind is not that of most."""
    most = Counter(kinds).most_common(1)[0][0]
    place = next((place for place, kind in enumerate(kinds) if kind != most), None)
    if place is not None:
        raise DataError(
            f"sample {ids[place]} has the form {form(samples[place])} and the others of its "
            f"batch {form(samples[kinds.index(most)])}: give all the same, or a collate that "
            "makes them so"
        )


def checked_batch(data: Any, ids: NDArray[np.int64]) -> Any:
    """``data`` themselves. Raises DataError where they visibly lack the rows of ``ids``."""
    part, tensors = data, data if isinstance(data, tuple | list) else (data,)
    if isinstance(data, Mapping):
        part = data.get("labels", data.get("label"))
    elif len(tensors) == 2:
        part = tensors[1]
    found = "is None" if data is None else ""
    if any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors):
        found = "has no data (device meta)"
    if isinstance(part, Tensor) and part.ndim and len(part) != len(ids):
        found = f"has {len(part)} rows, not {len(ids)}"
    if found:
        raise DataError(
            f"the batch of samples {few(ids.tolist())} {found}: each sample has to have its row "
            "there, in order"
        )
    return data


def bucketed(
    ids: Ids, lengths: NDArray[np.int64], batch_size: int, window: int, seed: int, epoch: int
) -> Ids:
    """``ids`` regrouped into batches of rows of similar length, which need little padding.

    Within each ``window`` batches (1 or less changes nothing), rows are sorted by length (those of
    one length stay in their order) and cut into batches, and the batches come in a random order. A
    last batch that is short stays as it is, so that the same rows are left out where it is dropped.

    Args:
        ids: int64 (rows,), the epoch's plan in its random order.
        lengths: int64 (samples,), of every sample of the data set.
        seed, epoch: of the order of batches.
    """
    if window <= 1:
        return ids
    full = len(ids) // batch_size * batch_size
    parts = []
    for start in range(0, full, window * batch_size):
        rows = ids[start : min(start + window * batch_size, full)]
        batches = by_length(rows, lengths).reshape(-1, batch_size)
        turn = draws.order(np.arange(len(batches)), seed, _STREAM, epoch, start // batch_size)
        parts.append(batches[turn].reshape(-1))
    return np.concatenate([*parts, ids[full:]])


def by_length(ids: Ids, lengths: NDArray[np.int64]) -> Ids:
    """``ids`` from the shortest to the longest; those of one length stay in their order."""
    return ids[np.argsort(lengths[ids], kind="stable")]


def lengths_of(
    dataset: object, read: Callable[[Any], NDArray] | None = None
) -> NDArray[np.int64] | None:
    """``dataset.lengths``, or else ``read(dataset)``, int64 (samples,), where the lengths of the
    data set's samples are known. Raises UnsupportedData, DataError where ``read`` fails."""
    given = getattr(dataset, "lengths", None)
    if given is None or callable(given):
        if read is None:
            return None
        try:
            given = read(dataset)
        except Exception as error:
            blame(error, DataError, "the function given as lengths fails on the data set")
    lengths, samples = np.asarray(given), len(dataset)  # pyright: ignore[reportArgumentType]
    if lengths.dtype.kind not in "iu" or lengths.shape != (samples,):
        raise UnsupportedData(
            f"the data set's lengths are {lengths.dtype} {lengths.shape} for {samples} samples: "
            "one integer a sample is needed"
        )
    return lengths.astype(np.int64, copy=False)
