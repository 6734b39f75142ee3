"""Asking a teacher for what a store lacks, and storing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frugalkd.batches import rows_of
from frugalkd.bucketing import by_length, lengths_of
from frugalkd.data.source import Collate, check_map_style, open_source, randomness
from frugalkd.errors import TargetsError, few
from frugalkd.lock import FILE as LOCK
from frugalkd.lock import Lock
from frugalkd.memory import memory_for
from frugalkd.policies._policy import Ids
from frugalkd.teachers.about import describe_asking
from frugalkd.teachers.encodings import Dense, Encoding
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.store import FILE, Header, Store, create_store, shard_of

Announce = Callable[[Header], None]
"""Told of a store before its space is taken; ``header.disk_bytes`` says how much that is."""


@dataclass(frozen=True)
class Layout:
    """What a store is to look like.

    Attributes:
        views: of each sample.
        encoding: of a row.
        shards: how many parts, one process writing a part; None: as many as there are, 1 for a new
            store.
    """

    views: int = 1
    encoding: Encoding = field(default_factory=Dense)
    shards: int | None = None


class Filler:
    """A teacher and the store that keeps its answers.

    The store is made when the teacher has answered for the first time, which says how many classes
    there are. One that is there already must be of the same teacher, data, augmentation and layout.

    Args:
        live: the teacher.
        dataset: what it is asked about.
        folder: of the store.
        layout: what the store is to look like.
        write: shards that this process writes; None: all.
        wait: wait for another process that writes them, rather than be refused.
        announce: told of the store before its space is taken.

    Raises:
        TargetsError: the data set has a randomness of its own, or ``folder`` holds other targets.
    """

    def __init__(
        self,
        live: LiveTeacher,
        dataset: Dataset,
        folder: Path,
        layout: Layout,
        *,
        write: Sequence[int] | None = None,
        wait: bool = False,
        announce: Announce | None = None,
    ):
        check_map_style(dataset)
        if randomness(dataset):
            raise TargetsError(
                "this data set gives other pixels each time it is asked: give it a method "
                "view(id, view), or use a live teacher"
            )
        self.live, self.folder, self.layout = live, folder, layout
        self.samples = len(dataset)  # pyright: ignore[reportArgumentType]
        self.about = describe_asking(live, dataset)
        self._write = write
        self._wait, self._announce = wait, announce
        self.store: Store | None = None
        self._writing = False
        if (folder / FILE).exists():
            store = Store(folder)
            shards = layout.shards or store.header.shards
            store.header.refuse_other(self._header(store.header.classes, shards), folder)
            self.store = store

    def missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which rows the store lacks."""
        if self.store is None:
            return np.ones(len(ids), dtype=bool)
        return ~self.store.present(ids, views)

    def add(self, ids: Ids, views: Ids, data: Any) -> Store:
        """Ask the teacher for those rows of the batch ``data`` that the store lacks, store them,
        and return the store. Raises TargetsError."""
        missing = self.missing(ids, views)
        if self.store is not None and not self._writing and missing.any():
            self.store = self._open_to_write()
            missing = self.missing(ids, views)
        if self.store is not None and not missing.any():
            return self.store
        if not missing.all():
            ids, views = ids[missing], views[missing]
            data = rows_of(data, torch.from_numpy(np.flatnonzero(missing)))
        logits = self.live.fetch(ids, views, data).cpu().numpy()
        if self.store is None:
            self.store = self._create(logits.shape[1])
        self.store.write(ids, views, logits)
        return self.store

    def close(self) -> None:
        """Make all that was added durable and let other processes write. Raises TargetsError."""
        if self.store is not None and self._writing:
            self._writing = False
            try:
                self.store.sync()
            finally:
                self.store.close()

    def mine(self, ids: Ids) -> Ids:
        """Those of ``ids`` that are in shards which this process writes."""
        shards = self.layout.shards
        if self._write is None or shards is None:
            return ids
        return ids[np.isin(shard_of(ids, self.samples, shards), self._write)]

    def _header(self, classes: int, shards: int) -> Header:
        layout = self.layout
        return Header(self.samples, layout.views, classes, layout.encoding, self.about, shards)

    def _create(self, classes: int) -> Store:
        header = self._header(classes, self.layout.shards or 1)
        header.encoding.record(classes)
        if self._announce is not None:
            self._announce(header)
        create_store(self.folder, header)
        return self._open_to_write()

    def _open_to_write(self) -> Store:
        if (self.folder / LOCK).exists():  # left by a process that was killed as it made the store
            Lock(self.folder, wait=True).release()
        store = Store(self.folder, write=self._write, wait=self._wait)
        self._writing = True
        return store


def fill(
    filler: Filler,
    dataset: Dataset,
    *,
    ids: Ids | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    collate: Collate | None = None,
    listener: Callable[[int, int], None] | None = None,
    kept: Callable[[], None] | None = None,
) -> None:
    """Ask for all that the store lacks of the samples ``ids`` (default: all) in every view.

    What is durable already is not asked again, so that a stopped filling goes on. ``listener`` is
    told of rows done and rows to do, ``kept`` whenever all that was asked for so far is durable.
    Batches of 256 rows: larger forwards page-fault under glibc's default allocator.

    Raises:
        TargetsError: see :class:`Filler`.
    """
    ids = np.arange(filler.samples) if ids is None else _checked(ids, filler.samples)
    ids = filler.mine(ids)
    if (lengths := lengths_of(dataset)) is not None:
        ids = by_length(ids, lengths)
    requests = []
    for view in range(filler.layout.views):
        lacking = ids[filler.missing(ids, np.full(len(ids), view))]
        for start in range(0, len(lacking), batch_size):
            block = lacking[start : start + batch_size]
            requests.append((block, np.full(len(block), view)))
    done, total = 0, sum(len(block) for block, _ in requests)
    asked = filler.live.queries
    advice = "lower batch_size, or ask on another device (device: cpu)"
    with (
        open_source(dataset, collate=collate) as source,
        memory_for(f"asking the teacher about batches of {batch_size}", advice),
    ):
        for (block, views), data in zip(requests, source.batches(requests), strict=True):
            store = filler.add(block, views, send_to_device(data, device))
            if kept is not None and not store.pending and filler.live.queries > asked:
                asked = filler.live.queries
                kept()
            done += len(block)
            if listener is not None:
                listener(done, total)


def _checked(ids: Ids, samples: int) -> Ids:
    """``ids`` int64, each of them once and in the data set. Raises TargetsError."""
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= samples):
        raise TargetsError(
            f"ids reach from {ids.min()} to {ids.max()}: the data set has 0 .. {samples - 1}"
        )
    found, times = np.unique(ids, return_counts=True)
    if len(found) < len(ids):
        twice = few(found[times > 1].tolist())
        raise TargetsError(f"ids name samples {twice} more than once: give each id once")
    return ids
