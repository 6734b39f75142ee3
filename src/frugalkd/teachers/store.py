"""The folder that keeps soft targets: a header, and rows by (id, view) in shards. Format:
docs/store.md."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    PathRefused,
    TargetsError,
    few,
)
from frugalkd.files import headers
from frugalkd.files.lock import FILE as LOCK
from frugalkd.files.lock import Lock, flock
from frugalkd.files.opening import entered, list_folder, open_file, remove
from frugalkd.files.parsing import one_line
from frugalkd.files.writing import allocate, sweep, sync_folder, write_at, writing
from frugalkd.models.identity import TORCH, differences
from frugalkd.policies.policy import Ids
from frugalkd.teachers.encodings import Encoding, Format, Logits, make_encoding

BATCH = "batch"
"""In a header: digests of the tensors in batches of some samples."""

FILE = "header.json"
FORMAT, SCHEMA = "frugalkd-store", 2
BLOCK = 256
"""Rows of one block, the unit of checksums."""
RECORD = 64
"""Bytes of a block's record in the presence file."""
SYNC_ROWS = 1 << 16
"""Rows between two syncs: at most so many are computed again after a process is killed."""

_MOST = {"samples": 1 << 40, "views": 1 << 16, "classes": 1 << 24, "shards": 1 << 16}

Bytes = NDArray[np.uint8]

# A block's record: a bit for each of its rows, and the CRC-32 of these bits and of the stored rows.
# It lies within one disk sector, so that it is written completely or not at all.
_RECORD = np.dtype(
    [("bitmap", "u1", (BLOCK // 8,)), ("crc32", "<u4"), ("reserved", f"V{RECORD - BLOCK // 8 - 4}")]
)


@dataclass(frozen=True)
class Header:
    """What a store holds: a row of ``classes`` values for each of ``samples`` in each of ``views``,
    as ``encoding`` keeps it. ``about``: :meth:`frugalkd.teachers.ModelTeacher.describe`.
    ``shards``: parts of consecutive samples, each written by one process. A subclass has another
    registry of encodings, ``make_encoding``."""

    samples: int
    views: int
    classes: int
    encoding: Format
    about: dict[str, str]
    shards: int = 1

    make_encoding: ClassVar[Callable[..., Format]] = staticmethod(make_encoding)

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise TargetsError(f"{name} of a store: {str(value)[:20]}, give 1 .. {most}")
        if self.shards > self.samples:
            raise TargetsError(f"{self.shards} shards for {self.samples} samples: give fewer")

    @property
    def record(self) -> np.dtype[np.void]:
        """Of one row."""
        return self.encoding.record(self.classes)

    def samples_of(self, shard: int) -> tuple[int, int]:
        """The first sample of a shard, and the one after its last."""
        first, end = (self.samples * each // self.shards for each in (shard, shard + 1))
        return first, end

    def file_bytes(self, shard: int) -> tuple[int, int]:
        """Sizes of a shard's files: its rows, and their presence records."""
        first, end = self.samples_of(shard)
        rows = (end - first) * self.views
        return rows * self.record.itemsize, -(-rows // BLOCK) * RECORD

    @property
    def disk_bytes(self) -> int:
        """Of the complete store, without this header's few hundred bytes."""
        return sum(sum(self.file_bytes(shard)) for shard in range(self.shards))

    def refuse_other(self, wanted: Header, where: Path) -> None:
        """Raises TargetsError, naming what differs, unless this is the ``wanted`` header."""
        there, here = self.plain(), wanted.plain()
        about, other = there.pop("about"), here.pop("about")
        if not (BATCH in about and BATCH in other):  # not known of what first visits store
            for each in (about, other):
                each.pop(BATCH, None)
        others = [
            f"{name} ({_short(there[name])} there, {_short(here[name])} here)"
            for name in there
            if there[name] != here[name]
        ]
        unknown = about.keys() - other.keys() - {TORCH}
        others += sorted({*differences(about, other, str(where)), *unknown})
        if others:
            raise TargetsError(
                f"{where} holds other soft targets, which differ in {' and '.join(others)}: "
                "delete it, or name another folder"
            )

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "encoding": self.encoding.settings, "about": dict(self.about)}


def _short(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def shard_of(ids: Ids, samples: int, shards: int) -> Ids:
    """The shard that holds each of ``ids``."""
    firsts = samples * np.arange(1, shards) // shards
    return np.searchsorted(firsts, ids, side="right")


def write_header(folder: Path, header: Header) -> None:
    """Write ``header`` atomically; from then on the folder is a store."""
    headers.write_header(folder / FILE, FORMAT, SCHEMA, header.plain())


def read_header(folder: Path, kind: type[Header] = Header) -> Header:
    """The header of a store, of this ``kind``. Raises TargetsError: there is none, or it is
    damaged, or of another version."""
    path = folder / FILE
    if folder.is_file():
        raise TargetsError(f"{folder} is a file: a store of soft targets is a folder")
    try:
        path.stat()
    except OSError as error:
        raise TargetsError(
            f"{folder} holds no stored soft targets ({FILE}: {error.strerror}): make them with "
            "'frugalkd store RECIPE --teacher DIR --out DIR'"
        ) from None
    value = headers.read_header(
        path, FORMAT, SCHEMA, what="stored soft targets", error=TargetsError,
        again="delete the folder and fill it again",
    )  # fmt: skip
    try:
        header = kind(encoding=kind.make_encoding(**value.pop("encoding")), **value)
        _ = header.record  # raises where the encoding cannot have so many classes
        if not all(isinstance(text, str) for item in header.about.items() for text in item):
            raise TypeError("about")
    except (
        TypeError,
        KeyError,
        AttributeError,
        ValueError,
        RecursionError,
        FrugalKDError,
    ) as error:
        raise TargetsError(f"{path} is damaged: {one_line(error)}; delete the folder") from None
    return header


def shard_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    """A shard's rows, and their presence records."""
    return folder / f"rows-{shard:05d}.bin", folder / f"presence-{shard:05d}.bin"


def allocate_shard(folder: Path, shard: int, header: Header) -> None:
    """Allocate the space of a shard's files. Raises OSError, and then leaves no file."""
    for path, size in zip(shard_paths(folder, shard), header.file_bytes(shard), strict=True):
        allocate(path, size)


class Shard:
    """Rows ``0 .. rows - 1`` of one shard, as bytes, read through a read-only mapping. Written rows
    can be read at once, but count on disk only after :meth:`sync`. Of two processes that ``write``,
    the second is refused, or waits if ``wait``.

    Raises TargetsError: a file is missing or of the wrong size, or another process writes it; or
    PathRefused: a file is a link, lies behind one, or is to be written and has a second name.
    """

    def __init__(
        self, folder: Path, shard: int, header: Header, *, write: bool = False, wait: bool = False
    ):
        self.path, self.state_path = shard_paths(folder, shard)
        self._files: list[int] = []
        sizes = header.file_bytes(shard)
        try:
            self._open(sizes, write, wait)
            # Of its own descriptor: a mapping keeps one, and a lock with it.
            with os.fdopen(open_file(self.path), "rb") as file:
                rows = mmap.mmap(file.fileno(), sizes[0], access=mmap.ACCESS_READ)
            # Read after the lock: what another process has written by now is known.
            with open(self._files[1], "rb", closefd=False) as state:
                self._state = np.fromfile(state, _RECORD)
        except BaseException:
            self.close()
            raise
        if not write:
            self.close()
        self._rows: Bytes = np.frombuffer(rows, np.uint8).reshape(-1, header.record.itemsize)
        if len(self._state) * RECORD != sizes[1]:
            raise TargetsError(f"{self.state_path} has changed its size while it was read")
        torn = self._state["bitmap"].any(axis=1) != (self._state["crc32"] != 0)
        if torn.any():  # when they were first written: there is no checksum of their bits
            self._state[torn] = np.zeros((), _RECORD)
            self._warn(np.flatnonzero(torn)[0], "its rows count as missing")
        self._bits: Bytes = self._state["bitmap"].reshape(-1).copy()
        self._checked = np.zeros(len(self._state), dtype=bool)
        self._dirty = np.zeros(len(self._state), dtype=bool)
        self._lost = False  # a sync has failed
        self.pending = 0  # rows written since the last sync

    def _open(self, sizes: tuple[int, int], write: bool, wait: bool) -> None:
        for path, size in zip((self.path, self.state_path), sizes, strict=True):
            found = None
            with suppress(FileNotFoundError):
                self._files.append(open_file(path, write=write))
                found = os.fstat(self._files[-1]).st_size
            if found != size:
                what = "is missing" if found is None else f"is damaged: {found} bytes, not {size}"
                raise TargetsError(f"{path} {what}; delete {path.parent} and fill it again")
        if write:
            try:
                flock(self._files[0], self.path.parent, wait=wait)
            except BlockingIOError:
                raise TargetsError(
                    f"another process is filling {self.path}: wait for it, or name another folder"
                ) from None

    def _warn(self, block: int, what: str) -> None:
        warnings.warn(
            f"{self.state_path} was torn at rows {self._span(block)}: {what}",
            FrugalKDWarning,
            stacklevel=4,
        )

    @property
    def writable(self) -> bool:
        return bool(self._files)

    def present(self, rows: Ids) -> NDArray[np.bool_]:
        """Which of ``rows`` are stored."""
        return (self._bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1

    def count(self) -> int:
        """How many rows are stored."""
        return int.from_bytes(self._bits.tobytes(), "little").bit_count()

    def read(self, rows: Ids) -> Bytes:
        """The bytes (rows, row_bytes) of ``rows``, which must be stored. Raises TargetsError for a
        wrong checksum."""
        self._check(rows)
        if not self.present(rows).all():  # by a torn record alone
            raise TargetsError(f"{self.path} lacks rows: run the same command again")
        return self._rows[rows]

    def write(self, rows: Ids, content: Bytes) -> None:
        """Write ``content`` (rows, row_bytes) as ``rows``, none of which is stored yet. Raises
        OSError."""
        self._check(rows)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        content, width = np.ascontiguousarray(content), content.shape[1]
        for start, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            write_at(self._files[0], content[start:end].data, int(rows[start]) * width)
        np.bitwise_or.at(self._bits, rows >> 3, np.uint8(1) << (rows & 7).astype(np.uint8))
        self._dirty[rows // BLOCK] = True
        self.pending += len(rows)

    def sync(self) -> None:
        """Make what was written durable: the rows, then the bits and checksums.

        Raises OSError. Nothing written since the last sync then counts, even if a later fsync
        succeeds: it does not report what an earlier one lost.
        """
        dirty = np.flatnonzero(self._dirty).tolist()
        if not dirty or self._lost:
            return
        self._lost = True
        os.fsync(self._files[0])
        for block in dirty:
            bits, state = self._bits_of(block), self._state[block]
            state["bitmap"], state["crc32"] = bits, self._checksum(block, bits)
            write_at(self._files[1], state.tobytes(), block * RECORD)
        os.fsync(self._files[1])
        self._lost = False
        self._dirty[:] = False
        self.pending = 0

    def close(self) -> None:
        """Release the files and the lock, without a sync; what was opened can still be read."""
        for file in self._files:
            os.close(file)
        self._files = []

    def _check(self, rows: Ids) -> None:
        """Compare the checksums of the blocks of ``rows`` that were not compared before."""
        blocks = rows // BLOCK
        for block in np.unique(blocks[~self._checked[blocks]]).tolist():
            record = self._state[block]
            # An empty block's record is all zeros, as the file was made.
            written = record["bitmap"].any() or record["crc32"]
            if written and record["crc32"] != self._checksum(block, self._bits_of(block)):
                self._repair(block)
            self._checked[block] = True

    def _repair(self, block: int) -> None:
        """Rows are mostly written in ascending order, so a record that was torn between two writes
        has bits too few at its end, or too many: those that match the checksum are set. Without
        write access, which would inform other processes, no bits are removed. Raises TargetsError
        where none match."""
        there = np.unpackbits(self._bits_of(block), bitorder="little")
        for end in range(min(BLOCK, len(self._rows) - block * BLOCK) + 1):
            before = np.arange(BLOCK) < end
            for guess in (there | before, there & before)[: 1 + self.writable]:
                bits = np.packbits(guess, bitorder="little")
                if self._checksum(block, bits) == self._state[block]["crc32"]:
                    self._bits_of(block)[:] = bits
                    self._dirty[block] = self.writable
                    self._warn(block, "its checksum says which of them are there")
                    return
        raise TargetsError(
            f"{self.path} is damaged: the checksum of rows {self._span(block)} is wrong; delete "
            f"{self.path.parent} and fill it again"
        )

    def _span(self, block: int) -> str:
        return f"{block * BLOCK} .. {min((block + 1) * BLOCK, len(self._rows)) - 1}"

    def _bits_of(self, block: int) -> Bytes:
        """A view of the bits in memory."""
        return self._bits[block * BLOCK // 8 : (block + 1) * BLOCK // 8]

    def _checksum(self, block: int, bits: Bytes) -> int:
        """Of ``bits`` and of the rows that they mark as stored."""
        rows = self._rows[block * BLOCK : (block + 1) * BLOCK]
        there = np.unpackbits(bits, bitorder="little").astype(bool)[: len(rows)]
        rows = rows if there.all() else rows[there]
        return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(bits.data))


class Store:
    """An open store, made by :func:`create_store`. This process writes the shards ``write`` (None:
    all), and with ``wait`` waits for another one that writes one of them. ``kind``: of its header.

    Raises TargetsError: there is no store, it is damaged, or another process writes a shard; or
    PathRefused: a file of it is a link, or lies behind one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        write: Sequence[int] | None = (),
        wait: bool = False,
        kind: type[Header] = Header,
    ):
        self.folder = folder
        self.header = header = read_header(folder, kind)
        write = range(header.shards) if write is None else write
        self._shards: list[Shard] = []
        try:
            for index in range(header.shards):
                shard = Shard(folder, index, header, write=index in write, wait=wait)
                self._shards.append(shard)
        except (TargetsError, OSError) as error:
            self.close()
            if isinstance(error, TargetsError | PathRefused):
                raise
            if write and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise TargetsError(
                    f"{folder} lacks soft targets and cannot be written ({error.strerror}): fill "
                    "a store elsewhere (frugalkd store RECIPE --teacher DIR --out DIR) and name it "
                    "in targets.folder"
                ) from None
            raise TargetsError(f"cannot open {folder}: {error.strerror}") from None
        self._record = header.record

    def present(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which of the rows of ``ids`` in ``views``, both (rows,), are stored."""
        there = np.empty(len(ids), dtype=bool)
        for shard, which, rows in self._located(ids, views):
            there[which] = shard.present(rows)
        return there

    def count(self) -> int:
        """How many rows are stored, of samples x views."""
        return sum(shard.count() for shard in self._shards)

    def read(self, ids: Ids, views: Ids) -> Logits:
        """Decoded logits float32 (rows, classes). Raises as :meth:`records`."""
        return self._encoding.decode(self.records(ids, views), self.header.classes)

    def records(self, ids: Ids, views: Ids) -> NDArray[np.void]:
        """The records (rows,). Raises TargetsError: a row is not stored, or its block is
        damaged."""
        content = np.empty((len(ids), self._record.itemsize), dtype=np.uint8)
        for shard, which, rows in self._located(ids, views):
            there = shard.present(rows)
            if not there.all():
                first = np.arange(len(ids))[which][np.flatnonzero(~there)[0]]
                raise TargetsError(
                    f"{self.folder} holds no soft targets of sample {ids[first]} in view "
                    f"{views[first]}: fill it with 'frugalkd store'"
                )
            content[which] = shard.read(rows)
        return content.view(self._record).reshape(len(ids))

    def write(self, ids: Ids, views: Ids, logits: Logits) -> None:
        """Store rows that are not stored yet, except for shards of other processes. Raises
        TargetsError: logits that are not finite, or of another number of classes; WriteFailed."""
        if logits.shape != (len(ids), self.header.classes):
            raise TargetsError(
                f"the teacher gave {logits.shape[-1]} classes for {self.folder}, which holds "
                f"{self.header.classes}"
            )
        bad = ids[~np.isfinite(logits).all(axis=1)]
        if len(bad):
            raise TargetsError(
                f"the teacher's outputs for samples {few(bad.tolist())} are not finite: check "
                "these samples and its weights"
            )
        self.put(ids, views, self._encoding.encode(logits, ids, views))

    def put(self, ids: Ids, views: Ids, records: NDArray[np.void]) -> None:
        """:meth:`write`, of rows that are encoded. Raises WriteFailed."""
        content = records.view(np.uint8).reshape(len(ids), self._record.itemsize)
        with writing(self.folder):
            for shard, which, rows in self._located(ids, views):
                if shard.writable:
                    shard.write(rows, content[which])
        if self.pending >= SYNC_ROWS:
            self.sync()

    @property
    def _encoding(self) -> Encoding:
        encoding = self.header.encoding
        assert isinstance(encoding, Encoding), "a store of another kind has records alone"
        return encoding

    @property
    def pending(self) -> int:
        """Rows written since the last sync."""
        return sum(shard.pending for shard in self._shards)

    def sync(self) -> None:
        """Make all that was written durable. Raises WriteFailed."""
        with writing(self.folder):
            for shard in self._shards:
                shard.sync()

    def close(self) -> None:
        """Release the files without a sync; what was opened can still be read."""
        for shard in self._shards:
            shard.close()

    def _located(
        self, ids: Ids, views: Ids
    ) -> Iterator[tuple[Shard, NDArray[np.bool_] | slice, Ids]]:
        """For each shard that holds some of the rows: it, which they are, their positions in it."""
        if len(self._shards) == 1:
            yield self._shards[0], slice(None), views * self.header.samples + ids
            return
        shards = shard_of(ids, self.header.samples, self.header.shards)
        for index in np.unique(shards):
            which = shards == index
            first, end = self.header.samples_of(int(index))
            yield self._shards[index], which, views[which] * (end - first) + ids[which] - first


def create_store(folder: Path, header: Header) -> None:
    """Make an empty store with all its space allocated; one that exists already does not change.
    Processes may call this at the same time.

    Raises TargetsError: the disk is too full, or ``folder`` holds a store of other targets, or
    something else; or WriteFailed.
    """
    with writing(folder):
        with entered(folder, make=True):
            pass
        if _exists(folder, header):  # also where nothing could be written
            return
        with Lock(folder, wait=True):
            if _exists(folder, header):
                return
            sweep(folder)
            paths = [each for shard in range(header.shards) for each in shard_paths(folder, shard)]
            if not {LOCK, *(path.name for path in paths)}.issuperset(list_folder(folder)):
                raise TargetsError(f"{folder} is not empty and holds no store: name another folder")
            try:
                for shard in range(header.shards):
                    allocate_shard(folder, shard, header)
            except OSError as error:
                for path in paths:
                    remove(path)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                from rich import filesize  # no training loop needs it

                free = shutil.disk_usage(folder).free
                raise TargetsError(
                    f"soft targets in {folder} need {filesize.decimal(header.disk_bytes)}, "
                    f"{filesize.decimal(free)} are free: lower targets.views, choose another "
                    "targets.encoding, or name a folder on another disk"
                ) from None
            write_header(folder, header)
            sync_folder(folder.parent)


def _exists(folder: Path, header: Header) -> bool:
    """Whether ``folder`` is a store already. Raises TargetsError where it is of another header."""
    if not (folder / FILE).exists():
        return False
    read_header(folder, type(header)).refuse_other(header, folder)
    return True
