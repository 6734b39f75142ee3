"""A store of soft targets: rows by (id, view) in a folder of shards."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import PathRefused, TargetsError, WriteFailed, few
from frugalkd.files.lock import FILE as LOCK
from frugalkd.files.lock import Lock
from frugalkd.files.opening import entered, list_folder, remove
from frugalkd.files.writing import sweep, sync_folder
from frugalkd.teachers.encodings._encoding import Ids, Logits
from frugalkd.teachers.store._header import FILE, Header, read_header, shard_of, write_header
from frugalkd.teachers.store._shard import Shard, allocate_shard, shard_paths

SYNC_ROWS = 1 << 16
"""Rows that a store takes between two syncs: what a killed process asks the teacher for again."""


class Store:
    """An open store.

    Args:
        folder: made by :func:`create_store`.
        write: shards that this process writes; None: all. One process writes a shard.
        wait: wait for another process that writes one of them, rather than be refused.

    Attributes:
        header: what the store holds.

    Raises:
        TargetsError: there is no store, it is damaged, or another process writes a shard.
        PathRefused: a file of it is a link, or lies behind one.
    """

    def __init__(self, folder: Path, *, write: Sequence[int] | None = (), wait: bool = False):
        self.folder = folder
        self.header = header = read_header(folder)
        write = range(header.shards) if write is None else write
        if any(not 0 <= shard < header.shards for shard in write):
            raise TargetsError(f"{folder} has shards 0 .. {header.shards - 1}: not {list(write)}")
        self._shards: list[Shard] = []
        try:
            for index in range(header.shards):
                mine = index in write
                self._shards.append(Shard(folder, index, header, write=mine, wait=wait))
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
        self._record = header.encoding.record(header.classes)

    def present(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which of the rows of ``ids`` in ``views``, both (rows,), are there."""
        there = np.empty(len(ids), dtype=bool)
        for shard, which, rows in self._located(ids, views):
            there[which] = shard.present(rows)
        return there

    def count(self) -> int:
        """How many rows are there, of samples x views."""
        return sum(shard.count() for shard in self._shards)

    def read(self, ids: Ids, views: Ids) -> Logits:
        """Decoded logits float32 (rows, classes).

        Raises:
            TargetsError: a row is not there, or its block is damaged.
        """
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
        records = content.view(self._record).reshape(len(ids))
        return self.header.encoding.decode(records, self.header.classes)

    def write(self, ids: Ids, views: Ids, logits: Logits) -> None:
        """Store rows that are not there yet. Rows of shards that this process does not write are
        passed over.

        Raises:
            TargetsError: logits that are not finite, or of another number of classes; a failing
                disk.
        """
        if logits.shape != (len(ids), self.header.classes):
            raise TargetsError(
                f"the teacher gave {logits.shape[-1]} classes for {self.folder}, which holds "
                f"{self.header.classes}"
            )
        bad = ids[~np.isfinite(logits).all(axis=1)]
        if len(bad):
            raise TargetsError(
                f"the teacher's outputs are not finite for samples {few(bad.tolist())}"
            )
        records = self.header.encoding.encode(logits, ids, views)
        content = records.view(np.uint8).reshape(len(ids), self._record.itemsize)
        with self._failing_disk():
            for shard, which, rows in self._located(ids, views):
                if shard.writable:
                    shard.write(rows, content[which])
        if self.pending >= SYNC_ROWS:
            self.sync()

    @property
    def pending(self) -> int:
        """Rows written since the last sync."""
        return sum(shard.pending for shard in self._shards)

    def sync(self) -> None:
        """Make all that was written durable. Raises TargetsError."""
        with self._failing_disk():
            for shard in self._shards:
                shard.sync()

    def close(self) -> None:
        """Sync nothing, let go of the files; what was opened can still be read."""
        for shard in self._shards:
            shard.close()

    def _located(
        self, ids: Ids, views: Ids
    ) -> Iterator[tuple[Shard, NDArray[np.bool_] | slice, Ids]]:
        """For each shard that holds some of the rows: it, which they are, where they lie in it."""
        if len(self._shards) == 1:
            yield self._shards[0], slice(None), views * self.header.samples + ids
            return
        shards = shard_of(ids, self.header.samples, self.header.shards)
        for index in np.unique(shards):
            which = shards == index
            first, end = self.header.samples_of(int(index))
            yield self._shards[index], which, views[which] * (end - first) + ids[which] - first

    @contextmanager
    def _failing_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetsError(
                f"cannot write soft targets in {self.folder}: {error.strerror}"
            ) from None


def create_store(folder: Path, header: Header) -> None:
    """Make an empty store with all its space set aside; one that is there already is left as it is.

    Processes may call this at the same time.

    Raises:
        TargetsError: the disk is too full, ``folder`` cannot be written, or it holds a store of
            other targets, or something else.
    """
    header.encoding.record(header.classes)
    try:
        with entered(folder, make=True):
            pass
        if _is_there(folder, header):  # also where nothing could be written
            return
        with Lock(folder, wait=True):
            if _is_there(folder, header):
                return
            sweep(folder)
            ours = {path.name for shard in range(header.shards)
                    for path in shard_paths(folder, shard)} | {LOCK}  # fmt: skip
            if any(name not in ours for name in list_folder(folder)):
                raise TargetsError(f"{folder} is not empty and holds no store: name another folder")
            _allocate(folder, header)
            write_header(folder, header)
            sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(folder).free
            raise TargetsError(
                f"soft targets in {folder} need {size_text(header.disk_bytes)}, "
                f"{size_text(free)} are free: lower targets.views, choose another "
                "targets.encoding, or name a folder on another disk"
            ) from None
        if isinstance(error, WriteFailed):
            raise
        raise TargetsError(f"cannot keep soft targets in {folder}: {error.strerror}") from None


def _is_there(folder: Path, header: Header) -> bool:
    """Whether ``folder`` is a store already. Raises TargetsError where it is of another header."""
    if not (folder / FILE).exists():
        return False
    read_header(folder).refuse_other(header, folder)
    return True


def size_text(size: int) -> str:
    """Bytes for a human: ``1.2 MB``."""
    value, unit = float(size), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def _allocate(folder: Path, header: Header) -> None:
    """All files, or none."""
    try:
        for shard in range(header.shards):
            allocate_shard(folder, shard, header)
    except OSError:
        for shard in range(header.shards):
            for path in shard_paths(folder, shard):
                remove(path)
        raise
