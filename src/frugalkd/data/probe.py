"""What can be learned of a data set by reading its samples: its digest, its randomness."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset, TensorDataset

from frugalkd.data import hashing
from frugalkd.data.hashing import feed, files_digest, leaves, leaves_of_array, spans
from frugalkd.data.protocols import Digested, is_digested, is_view_indexed
from frugalkd.data.samples import Samples
from frugalkd.errors import DataError, UnsupportedData
from frugalkd.runtime.failures import blame

_PROBED = 64
_LEAST = 1 << 10
"""Bytes that a sample counts as at the least: of small ones about a million are read."""
_TABLE_ROWS = 1024
_RANDOM_SAMPLES = 8
_RANDOM_DRAWS = 4

_kept: ContextVar[dict[int, tuple[Any, str]] | None] = ContextVar("digests", default=None)


@contextmanager
def digests_kept() -> Iterator[None]:
    """Inside, a data set is read once for all its digests: nothing may change it there."""
    if _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def data_digest(dataset: Any) -> str:
    """SHA-256 (hex) that tells data sets apart: their own ``digest()`` where they have one (data
    sets of ours do); else of tensors, arrays, tables of Hugging Face and files of torchvision's
    folders; else of samples as they are read, in view 0 where there are views.

    What lies in memory enters whole. Of files, tables and samples all bytes do, up to 1 GiB; of
    more, evenly spaced parts, about 1 GiB together, and of files all names and sizes. A sample
    counts as 1 KiB at the least. Samples are read with fixed random streams; parts of them that
    differ all the same from one reading to the next do not enter.

    Raises:
        DataError: a file, or a sample, cannot be read.
    """
    kept = _kept.get()
    if kept is not None and id(dataset) in kept:
        return kept[id(dataset)][1]
    try:
        found = _digest(dataset)
    except Exception as error:
        blame(error, DataError, f"this {type(dataset).__name__} cannot be read for its digest")
    if kept is not None:
        kept[id(dataset)] = dataset, found
    return found


def randomness(dataset: Any) -> bool:
    """Whether reading a sample again gives something else: the data set draws by itself.

    Reads up to 8 samples 4 times (view 0 where the data set takes views); a rarer randomness is
    not seen. The random streams of torch, numpy and Python are put back.
    """
    read = _reader(dataset)
    with streams_restored():
        seen = set()
        for draw in range(_RANDOM_DRAWS):
            _seed_streams(draw)
            content = hashlib.sha256()
            for id in _spaced(len(dataset), _RANDOM_SAMPLES):
                for part in _bytes_of(read, id, id):
                    content.update(part)
            seen.add(content.digest())
    return len(seen) > 1


def _digest(dataset: Any) -> str:
    if is_digested(dataset):
        return _own_digest(dataset)
    rows: NDArray[np.int64] | None = None
    while type(dataset) is Subset:
        inner = np.asarray(dataset.indices, dtype=np.int64)
        rows = inner if rows is None else inner[rows]
        dataset = dataset.dataset
    samples = len(dataset) if rows is None else len(rows)
    digest = hashlib.sha256(b"%d" % samples)
    if is_digested(dataset):
        _feed_all(digest, leaves((_own_digest(dataset), rows)))
    elif type(dataset) is TensorDataset:
        for tensor in dataset.tensors:
            _feed_all(digest, leaves_of_array(tensor if rows is None else tensor[rows]))
    elif isinstance(dataset, torch.Tensor | np.ndarray):
        about, content = leaves_of_array(dataset if rows is None else dataset[rows])
        most = hashing.WHOLE if isinstance(dataset, np.memmap) else len(content)
        digest.update(about)
        feed(digest, content, most)
    elif _is_table(dataset):
        _feed_table(digest, dataset if rows is None else dataset.select(rows))
    else:
        if _is_folder(dataset):
            listed = dataset.samples
            listed = listed if rows is None else [listed[row] for row in rows.tolist()]
            names = [os.path.relpath(path, dataset.root) for path, _ in listed]
            _feed_all(digest, leaves([files_digest(dataset.root, names), [y for _, y in listed]]))
        _feed_samples(digest, dataset, samples, rows, whole=not _is_folder(dataset))
    return digest.hexdigest()


def names_of(dataset: Any, ids: Sequence[int]) -> list[str] | None:
    """What the samples ``ids`` are called where they lie: what Samples say of themselves, the paths
    of torchvision's folders; None where that is not known."""
    if isinstance(dataset, Samples):
        return dataset.names(ids)
    if _is_folder(dataset):
        return [str(dataset.samples[id][0]) for id in ids]
    return None


def _own_digest(dataset: Digested) -> str:
    said = dataset.digest()
    if not isinstance(said, str):
        raise UnsupportedData(
            f"{type(dataset).__name__}.digest() returns a {type(said).__name__}: return text that "
            "changes with what the samples hold"
        )
    return said


def _feed_samples(
    digest: Any, dataset: Any, samples: int, rows: NDArray[np.int64] | None, *, whole: bool
) -> None:
    """Adds samples as they are read: 64 of them, or (``whole``) all that 1 GiB has room for. What
    of one is not the same when it is read twice is left out: it draws from a stream of its own."""
    read = _reader(dataset)
    places, size, moving = _spaced(samples, _PROBED), 0, set[int]()

    def parts(place: int) -> Iterator[bytes | memoryview]:
        return _bytes_of(read, place if rows is None else int(rows[place]), place)

    with streams_restored():
        for place in places:
            readings = []
            for _ in range(2):
                _seed_streams(0)
                readings.append([bytes(part) for part in parts(place)])
            size += sum(map(len, readings[0]))
            pairs = enumerate(zip_longest(*readings))
            moving |= {number for number, (one, other) in pairs if one != other}
        if whole and places:
            each = max(_LEAST, size // len(places))
            places = _spaced(samples, max(_PROBED, hashing.WHOLE // each))
        _seed_streams(0)
        for place in places:
            for number, part in enumerate(parts(place)):
                if number not in moving:
                    digest.update(part)


def _is_table(dataset: Any) -> bool:
    """Whether this is a data set of Hugging Face that says all in its columns: no code of the
    user's makes its samples, and no files beside it."""
    datasets = sys.modules.get("datasets")
    if datasets is None or type(dataset) is not datasets.Dataset:
        return False

    def plain(feature: Any) -> bool:
        if isinstance(feature, dict | list):
            return all(map(plain, feature.values() if isinstance(feature, dict) else feature))
        inner = getattr(feature, "feature", None)
        return isinstance(feature, datasets.Value | datasets.ClassLabel) or (
            inner is not None and plain(inner)
        )

    return dataset.format["type"] != "custom" and plain(dict(dataset.features))


def _feed_table(digest: Any, table: Any) -> None:
    form = table.format
    columns = None if form["output_all_columns"] else form["columns"]
    _feed_all(digest, leaves([str(form), str(table.features)]))
    arrow = table.with_format("arrow", columns=columns)
    each = max(1, table.data.nbytes // max(1, table.data.num_rows))
    for start, length in spans(len(table), max(1, hashing.WHOLE // each), _TABLE_ROWS):
        for first in range(start, start + length, _TABLE_ROWS):
            part = arrow[first : min(first + _TABLE_ROWS, start + length)]
            # A copy holds its own rows alone, laid out the same way wherever they come from.
            for batch in part.take(np.arange(len(part))).combine_chunks().to_batches():
                digest.update(batch.serialize())


def _is_folder(dataset: Any) -> bool:
    """Whether this is torchvision's folder of files, read as it reads them."""
    torchvision = sys.modules.get("torchvision.datasets.folder")
    return (
        torchvision is not None
        and isinstance(dataset, torchvision.DatasetFolder)
        and type(dataset).__getitem__ is torchvision.DatasetFolder.__getitem__
    )


def _feed_all(digest: Any, parts: Iterator[bytes | memoryview]) -> None:
    for part in parts:
        digest.update(part)


def _spaced(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(count, length)).astype(int).tolist()))


def _reader(dataset: Any) -> Callable[[int], Any]:
    """How to get a sample, in view 0 where there are views."""
    return (lambda id: dataset.view(id, 0)) if is_view_indexed(dataset) else dataset.__getitem__


def _bytes_of(read: Callable[[int], Any], id: int, place: int) -> Iterator[bytes | memoryview]:
    """The bytes of a sample, part by part. Raises DataError, which names its ``place``."""
    try:
        yield from leaves(read(id))
    except Exception as error:
        blame(error, DataError, f"sample {place} cannot be read")


def _seed_streams(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def streams_restored() -> Iterator[None]:
    """What is drawn inside from the random streams of torch, numpy and Python leaves no trace."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
