"""What is learned about a data set by reading it: its digest, its randomness, names of samples."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset, TensorDataset

from frugalkd.data.samples import Samples
from frugalkd.data.source import Collate, is_view_indexed, open_source
from frugalkd.errors import DataError, FrugalKDWarning, UnsupportedData
from frugalkd.files.parsing import one_line
from frugalkd.runtime.failures import blame, memory_for

WHOLE = 1 << 30
"""Bytes of a data set that are all read for its digest; of a larger one, about as many are."""

_BLOCK, _AT_ONCE = 1 << 16, 1 << 20
_COARSE = 2_000_000_000  # ns in which a file system's clock may miss a second change of a file
_PROBED = 64
_LEAST = 1 << 10  # bytes that a sample counts as at least: of small ones about a million are read
_TABLE_ROWS = 1024
_RANDOM_SAMPLES, _RANDOM_DRAWS = 8, 4
_LONG = 10.0  # seconds of reading after which a line is logged
_CURE = "give it a method digest() that returns text which changes with its samples"

_log = logging.getLogger(__name__)

_known: dict[bytes, str] = {}  # digests of files, in this process, by what stat says of them
_kept: ContextVar[dict[int, tuple[Any, str]] | None] = ContextVar("digests", default=None)


@contextmanager
def digests_kept() -> Iterator[None]:
    """Inside, a data set is read once for all its digests: nothing may change it there."""
    kept = _kept.get()
    token = _kept.set({} if kept is None else kept)
    try:
        yield
    finally:
        _kept.reset(token)


def data_digest(dataset: Any) -> str:
    """SHA-256 (hex) that differs between data sets: their own ``digest()`` where they have one
    (frugalkd's data sets do); else of tensors, arrays, tables of Hugging Face and files of
    torchvision's folders; else of samples as they are read, in view 0 where there are views.

    What lies in memory is covered in full. Of files, tables and samples all bytes are, up to 1 GiB;
    of more, evenly spaced parts, about 1 GiB together, and of files all names and sizes. A sample
    counts as at least 1 KiB. Samples are read with fixed random streams; parts of them that differ
    between two readings are left out, with a FrugalKDWarning. Reading samples for more than 10 s is
    logged.

    Raises:
        DataError: a file, or a sample, cannot be read.
        OutOfMemory: reading a sample takes more memory than there is.
    """
    kept = _kept.get()
    kept = {} if kept is None else kept
    if id(dataset) not in kept:
        name = type(dataset).__name__
        try:
            with memory_for(f"the digest of this {name}", f"read less at once in it, or {_CURE}"):
                kept[id(dataset)] = dataset, _digest(dataset)
        except Exception as error:
            blame(error, DataError, f"this {name} cannot be read for its digest")
    return kept[id(dataset)][1]


def randomness(dataset: Any) -> bool:
    """Whether reading a sample again gives something else: the data set draws by itself.

    Reads up to 8 samples 4 times (view 0 where the data set takes views); a rarer randomness is
    not seen. The random streams of torch, numpy and Python are restored.
    """
    read, seen = _reader(dataset), set()
    with streams_restored():
        for draw in range(_RANDOM_DRAWS):
            _seed(draw)
            content = hashlib.sha256()
            for id in _spaced(len(dataset), _RANDOM_SAMPLES):
                _feed_all(content, _bytes_of(read, id, id))
            seen.add(content.digest())
    return len(seen) > 1


def batch_digests(dataset: Any, collate_fn: Collate | None = None) -> list[str] | None:
    """Of each tensor in the batches that ``collate_fn`` (default: torch's) makes of each of up to 8
    samples, in view 0, sorted; None where it makes others of the same samples: it draws. Empty
    where it makes none of one sample."""
    rows, found = np.array(_spaced(len(dataset), _RANDOM_SAMPLES))[:, None], []
    try:
        with streams_restored(), open_source(dataset, collate_fn=collate_fn) as source:
            for draw in range(2):
                _seed(draw)
                batches = source.batches([(ids, np.zeros_like(ids)) for ids in rows])
                tensors = (each for batch in batches for each in _tensors(batch))
                parts = (b"".join(_leaves_of_array(each)) for each in tensors)
                found.append(sorted({hashlib.sha256(part).hexdigest()[:16] for part in parts}))
    except DataError:
        return []
    return found[0] if found[0] == found[1] else None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def names_of(dataset: Any, ids: Sequence[int]) -> list[str] | None:
    """The names of the samples ``ids``: those that Samples have, the paths of torchvision's
    folders; None where they are not known."""
    if isinstance(dataset, Samples):
        return dataset.names(ids)
    if _is_folder(dataset):
        return [str(dataset.samples[id][0]) for id in ids]
    return None


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
            _feed_all(digest, _leaves_of_array(tensor if rows is None else tensor[rows]))
    elif isinstance(dataset, torch.Tensor | np.ndarray):
        about, content = _leaves_of_array(dataset if rows is None else dataset[rows])
        most = WHOLE if isinstance(dataset, np.memmap) else len(content)
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


def is_digested(dataset: object) -> bool:
    """Whether the class of ``dataset`` has a method ``digest()``; one that it passes on from a data
    set inside does not cover what the outer one does."""
    method = getattr(type(dataset), "digest", None)
    return callable(method) and list(inspect.signature(method).parameters) == ["self"]


def _own_digest(dataset: Any) -> str:
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
    """Adds samples as they are read: 64 of them, or (``whole``) as many as 1 GiB has room for."""
    read, name = _reader(dataset), type(dataset).__name__
    places, size, moving = _spaced(samples, _PROBED), 0, set[int]()

    def parts(place: int) -> Iterator[bytes | memoryview]:
        return _bytes_of(read, place if rows is None else int(rows[place]), place)

    with streams_restored():
        for place in places:
            readings = []
            for _ in range(2):
                _seed(0)
                readings.append([bytes(part) for part in parts(place)])
            size += sum(map(len, readings[0]))
            pairs = enumerate(zip_longest(*readings))
            moving |= {number for number, (one, other) in pairs if one != other}
        if moving:
            warnings.warn(
                f"samples of this {name} differ from one reading to the next, and what differs is "
                f"not in its digest: a change there is not noticed: {_CURE}",
                FrugalKDWarning,
                stacklevel=2,
            )
        if whole and places:
            each = max(_LEAST, size // len(places))
            places = _spaced(samples, max(_PROBED, WHOLE // each))
        _seed(0)
        begun, logged = time.monotonic(), False
        for done, place in enumerate(places, 1):
            _feed_all(digest, (p for number, p in enumerate(parts(place)) if number not in moving))
            spent = time.monotonic() - begun
            if spent > _LONG and not logged:
                logged = True
                _log.warning(
                    f"reading {len(places):,} samples of this {name} for its digest takes about "
                    f"{spent * len(places) / done:,.0f} s: to avoid that, {_CURE}"
                )


def _is_table(dataset: Any) -> bool:
    """Whether this is a data set of Hugging Face whose columns hold everything: no code of the
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
    for start, length in spans(len(table), max(1, WHOLE // each), _TABLE_ROWS):
        for first in range(start, start + length, _TABLE_ROWS):
            part = arrow[first : min(first + _TABLE_ROWS, start + length)]
            # A copy holds its own rows alone, laid out the same way wherever they come from.
            for batch in part.take(np.arange(len(part))).combine_chunks().to_batches():
                digest.update(batch.serialize())


def _is_folder(dataset: Any) -> bool:
    """Whether this is torchvision's folder of files, with its own way to read them."""
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
    try:
        yield from leaves(read(id))
    except Exception as error:
        blame(error, DataError, f"sample {place} cannot be read")


def _seed(draw: int) -> None:
    """Seeds what samples draw from. Without an accelerator only the CPU's stream: for those of
    others, torch.manual_seed formats the call stack, which takes longer than to read a sample."""
    random.seed(draw)
    np.random.seed(draw)
    available = torch.accelerator.is_available()
    (torch.manual_seed if available else torch.default_generator.manual_seed)(draw)


@contextmanager
def streams_restored() -> Iterator[None]:
    """Restores the random streams of torch, numpy and Python at the end."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def share(total: int, count: int) -> int:
    """Bytes to read of each of ``count`` pieces of ``total`` bytes together."""
    return WHOLE if total <= WHOLE else WHOLE // count


def spans(size: int, most: int, block: int = _BLOCK) -> list[tuple[int, int]]:
    """``(start, length)`` of the parts to read of ``size`` where ``most`` may be: all of it, or
    evenly spaced blocks, the first and the last included."""
    if size <= most:
        return [(0, size)]
    count = max(2, most // block)
    length = max(1, min(block, most // count))
    return [(int(start), length) for start in np.linspace(0, size - length, count)]


def feed(digest: Any, piece: bytes | memoryview, most: int) -> None:
    """Adds the length of a piece, and of its bytes up to ``most``, to ``digest``."""
    digest.update(b"%d:" % len(piece))
    for start, length in spans(len(piece), most):
        digest.update(memoryview(piece)[start : start + length])


def files_digest(folder: str, names: Sequence[str]) -> str:
    """SHA-256 (hex) of files in ``folder``: their names, sizes and bytes, in order. Of more than 1
    GiB together, each file has the same share of that.

    A process reads files again only where one's size, times or inode changed. Raises DataError."""
    about, changed, begun = [], 0, time.time_ns()
    for name in names:
        with _readable(folder, name) as path:
            found = os.stat(path)
        changed = max(changed, found.st_mtime_ns, found.st_ctime_ns)
        about.append((name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    key = hashlib.sha256(repr((os.path.abspath(folder), about)).encode()).digest()
    if key not in _known:
        digest, most = hashlib.sha256(), share(sum(size for _, size, *_ in about), len(about))
        for name, size, *_ in about:
            digest.update(repr((name, size)).encode())
            feed_file(digest, folder, name, size, most)
        if changed > begun - _COARSE:
            return digest.hexdigest()
        _known[key] = digest.hexdigest()
    return _known[key]


def feed_file(digest: Any, folder: str, name: str, size: int, most: int) -> None:
    """Adds the bytes of a file of ``size`` bytes, up to ``most``, to ``digest``. Raises DataError
    where it cannot be read, or has another size."""
    with _readable(folder, name) as path, open(path, "rb") as file:
        for start, length in spans(size, most):
            file.seek(start)
            for left in range(length, 0, -_AT_ONCE):
                digest.update(file.read(min(left, _AT_ONCE)))
        if os.fstat(file.fileno()).st_size != size:
            raise OSError(0, "it changes while it is read")


@contextmanager
def _readable(folder: str, name: str) -> Iterator[str]:
    path = os.path.join(folder, name)
    try:
        yield path
    except OSError as error:
        raise DataError(f"{one_line(path, 1000)} cannot be read: {error.strerror}") from None


def leaves(value: Any) -> Iterator[bytes | memoryview]:
    """The bytes of a sample, part by part, each with its type and size, so that no two parts run
    together. What is neither a number, text, an array nor made of those counts by its text."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        yield from _leaves_of_array(value)
    elif isinstance(value, Mapping | list | tuple):
        yield f"<{kind} {len(value)}>".encode()
        pairs = isinstance(value, Mapping)
        for part in (part for key in value for part in (key, value[key])) if pairs else value:
            yield from leaves(part)
    elif isinstance(value, str | bytes):
        said = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        yield f"<{kind} {len(said)}>".encode() + said
    elif value is None or isinstance(value, bool | int | float):
        yield f"<{kind}>{value!r}".encode()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"<{kind}>".encode()
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    else:
        array = np.asarray(value)  # images convert themselves to one
        if not array.dtype.hasobject:
            yield from _leaves_of_array(array)
        elif array.ndim:
            yield f"<{kind}>".encode()
            yield from leaves(array.tolist())
        else:
            said = sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)
            yield f"<{kind}>{re.sub(r' at 0x[0-9a-f]+', '', str(said))}".encode()


def _leaves_of_array(value: torch.Tensor | np.ndarray) -> Iterator[bytes | memoryview]:
    """The type and shape of a tensor or an array, and its bytes."""
    yield f"<{type(value).__name__} {value.dtype} {tuple(value.shape)}>".encode()
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().to_dense().resolve_conj()
        value = plain.reshape(-1).contiguous().view(torch.uint8).numpy()
    yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
