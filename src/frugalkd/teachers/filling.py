"""Computing the soft targets that a store lacks: of the logits, and of features beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.data.batches import rows_of
from frugalkd.data.probe import randomness
from frugalkd.data.source import Collate, by_length, check_map_style, lengths_of, open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import TargetsError, UnsupportedData
from frugalkd.models.features import Shape, feature_paths, find_paths
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import check_device
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.settings import Settings, check_integer, check_types
from frugalkd.teachers.encodings import Dense, Encoding, Values
from frugalkd.teachers.live import ModelTeacher
from frugalkd.teachers.store import FILE, Header, Store, create_store, read_header, shard_of

FEATURES = "features"
"""The folder of features within a store's."""

ADVICE = "lower batch_size, or run the teacher on another device (device: cpu)"
"""Where a teacher's forward pass runs out of memory."""


def feature_folder(store: Path, path: str) -> Path:
    """Where ``store`` keeps the features of the module ``path``."""
    return store / FEATURES / quote(path, safe="")


def feature_header(logits: Header, path: str, shape: Shape) -> Header:
    """Of the features, (rows, \\*``shape``), that belong to the ``logits``."""
    about = {**logits.about, "feature": path, "shape": " ".join(map(str, shape))}
    width = math.prod(shape)
    return Header(logits.samples, logits.views, width, Values(), about, logits.shards)


def shape_of(header: Header) -> Shape:
    """Of one row; of logits (classes,). Raises TargetsError where a feature's is damaged."""
    text = header.about.get("shape")
    if text is None:
        return (header.classes,)
    sizes = text.split(" ")
    if not all(size.isdecimal() and len(size) < 9 for size in sizes):
        raise TargetsError(f"features of shape {text[:50]!r} are damaged: delete them")
    return tuple(map(int, sizes))


@dataclass(frozen=True)
class FillOptions(Settings):
    """Which processes fill a store, and the functions that they call meanwhile.

    Attributes:
        ranks: that fill the folder together, each its shards of it; all of them have to fill it,
            and ``queries`` are those of all. Without a folder each fills its own.
        shard: (i, n): fill the i-th of n shards alone; another process that fills it is an error.
            None: all shards; this waits for other processes.
        on_create: receives a store's header (see ``header.disk_bytes``) before its space is
            allocated on the disk.
        on_progress: receives, after each batch, rows done and rows to do.
        on_durable: called, from time to time, when all rows computed so far are durable.

    Raises:
        TargetsError: there is no such shard.
    """

    ranks: Ranks | None = None
    shard: tuple[int, int] | None = None
    on_create: Callable[[Header], None] | None = None
    on_progress: Callable[[int, int], None] | None = None
    on_durable: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise TargetsError(f"shard {self.shard[0]}/{self.shard[1]}: give 0/N .. N-1/N")


class _Part:
    """One store of a filling: of the logits, or of a module's ``feature``. It is made when the
    first row is added. Raises TargetsError where ``folder`` holds a store of another header."""

    def __init__(self, filler: Filler, folder: Path, feature: str = ""):
        self.filler, self.folder, self.feature = filler, folder, feature
        self._writing = False
        self.store: Store | None = None
        if (folder / FILE).exists():
            store = Store(folder)
            there = store.header
            shards = filler.shards or there.shards
            there.refuse_other(self._header(shape_of(there), shards), folder)
            self.store = store

    def _header(self, shape: Shape, shards: int) -> Header:
        header = replace(self.filler.header, shards=shards)
        if self.feature:
            return feature_header(header, self.feature, shape)
        return replace(header, classes=shape[0])

    def missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        if self.store is None:
            return np.ones(len(ids), dtype=bool)
        return ~self.store.present(ids, views)

    def open(self, ids: Ids, views: Ids) -> None:
        """Open a store that lacks one of the rows, to write; rows of other processes are then
        known."""
        if self.store is not None and not self._writing and self.missing(ids, views).any():
            self.store = self._open()

    def add(self, ids: Ids, views: Ids, values: Tensor) -> None:
        """Store those of the rows ``values`` (rows, ...) that it lacks."""
        shape = tuple(values.shape[1:])
        if self.store is None:
            header = self._header(shape, self.filler.shards or 1)
            _ = header.record  # raises where the encoding cannot have so many classes
            if self.filler.on_create is not None:
                self.filler.on_create(header)
            create_store(self.folder, header)
            self.store = self._open()
        there = shape_of(self.store.header)
        if self.feature and shape != there:
            raise TargetsError(
                f"features of {self.feature} are of shape {there} in one batch and {shape} in "
                "another, as padded texts are: store the last layer's input (head:input), or set "
                "targets.kind to live"
            )
        lacking = self.missing(ids, views)
        if lacking.any():
            rows = values.detach().float().flatten(1).cpu().numpy()
            self.store.write(ids[lacking], views[lacking], rows[lacking])

    def close(self) -> None:
        if self.store is not None and self._writing:
            self._writing = False
            try:
                self.store.sync()
            finally:
                self.store.close()

    def _open(self) -> Store:
        store = Store(self.folder, write=self.filler.write, wait=self.filler.wait)
        self._writing = True
        return store


class Filler:
    """A teacher and the store that keeps its outputs: in ``views`` of each sample by an
    ``encoding``, and in float16 the ``features`` of its modules (paths or globs).

    The store is made after the teacher's first forward pass, which gives the number of classes. One
    that exists already must be of the same teacher, data, augmentation and layout; features that it
    lacks are added. Of its ``shards`` (None: as many as there are, 1 for a new store) this process
    writes ``write`` (None: all), and with ``wait`` waits for another one that writes them.
    ``on_create`` receives each header before its space is allocated. ``batch``: further
    entries of the header.

    Raises:
        TargetsError: the data set is random by itself, or does not match the teacher's
            (:meth:`LiveTeacher.check`), or ``folder`` holds other targets.
        ModelError: the teacher has no module at a path of ``features``.
    """

    def __init__(
        self,
        live: ModelTeacher,
        dataset: Dataset,
        folder: Path,
        views: int = 1,
        encoding: Encoding | None = None,
        *,
        features: Sequence[str] = (),
        shards: int | None = None,
        write: Sequence[int] | None = None,
        wait: bool = False,
        on_create: Callable[[Header], None] | None = None,
        batch: Callable[[], Mapping[str, str]] = dict,
    ):
        encoding = encoding or Dense()
        check_types(encoding=(encoding, Encoding))
        check_map_style(dataset)
        samples = len(dataset)  # pyright: ignore[reportArgumentType]
        if not samples:
            raise UnsupportedData("the data set is empty: there is nothing to store")
        if live.changes:
            raise TargetsError(
                "this teacher changes with each step, so its outputs cannot be stored: use it live"
            )
        if randomness(dataset):
            raise TargetsError(
                "this data set gives other pixels each time it is read: give it a method "
                "view(id, view), or use a live teacher"
            )
        live.check(dataset)
        self.live, self._dataset = live, dataset
        self.shards, self.write, self.wait, self.on_create = shards, write, wait, on_create
        self.header = Header(samples, views, 1, encoding, {**live.describe(dataset), **batch()})
        """Of the logits, except for the number of classes and of shards."""
        self._parts = [_Part(self, folder)]
        if features:
            for path in find_paths(features, feature_paths(live.teacher), "the teacher"):
                self._parts.append(_Part(self, feature_folder(folder, path), path))

    @property
    def store(self) -> Store | None:
        """Of the logits; None before the teacher's first forward pass."""
        return self._parts[0].store

    def missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which rows the store lacks, or their features."""
        return np.any([part.missing(ids, views) for part in self._parts], axis=0)

    def add(self, ids: Ids, views: Ids, data: Any) -> Store:
        """Run the teacher on those rows of the batch ``data`` that the store lacks, and store
        them."""
        missing = self.missing(ids, views)
        if missing.any():
            for part in self._parts:
                part.open(ids, views)
            missing = self.missing(ids, views)
        if missing.any():
            if not missing.all():
                ids, views = ids[missing], views[missing]
                data = rows_of(data, torch.from_numpy(np.flatnonzero(missing)))
            paths = [part.feature for part in self._parts[1:]]
            if any(part.store is None for part in self._parts[1:]):
                self.live.feature_shapes(paths, data)  # refuses what is not a feature
            logits, features = self.live.fetch_features(ids, views, data, paths)
            for part in self._parts:
                part.add(ids, views, features[part.feature] if part.feature else logits)
        assert self.store is not None
        return self.store

    def fill(
        self,
        ids: Ids | None = None,
        *,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        collate_fn: Collate | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_durable: Callable[[], None] | None = None,
    ) -> None:
        """Run the teacher on all that the store lacks of the samples ``ids`` (default: all) in
        every view.

        A stopped filling resumes after what is durable. ``on_progress`` and ``on_durable`` are
        those of :class:`FillOptions`. Batches of 256 rows: larger forwards page-fault under glibc's
        default allocator.
        """
        check_integer("batch_size", batch_size, 1)
        device, samples = check_device(device), self.header.samples
        ids = np.arange(samples) if ids is None else np.unique(np.asarray(ids, dtype=np.int64))
        if len(ids) and not 0 <= ids[0] <= ids[-1] < samples:
            raise TargetsError(
                f"ids reach from {ids[0]} to {ids[-1]}: the data set has 0 .. {samples - 1}"
            )
        if self.write is not None and self.shards is not None:
            ids = ids[np.isin(shard_of(ids, samples, self.shards), self.write)]
        if (lengths := lengths_of(self._dataset)) is not None:
            ids = by_length(ids, lengths)
        requests = []
        for view in range(self.header.views):
            lacking = ids[self.missing(ids, np.full(len(ids), view))]
            for start in range(0, len(lacking), batch_size):
                block = lacking[start : start + batch_size]
                requests.append((block, np.full(len(block), view)))
        done, total = 0, sum(len(block) for block, _ in requests)
        queries = self.live.queries
        with (
            open_source(self._dataset, collate_fn=collate_fn) as source,
            memory_for(f"running the teacher on batches of {batch_size}", ADVICE),
        ):
            for (block, views), data in zip(requests, source.batches(requests), strict=True):
                self.add(block, views, send_to_device(data, device))
                pending = any(part.store and part.store.pending for part in self._parts)
                if on_durable is not None and not pending and self.live.queries > queries:
                    queries = self.live.queries
                    on_durable()
                done += len(block)
                if on_progress is not None:
                    on_progress(done, total)

    def close(self) -> None:
        """Make all that was added durable and let other processes write. Raises TargetsError."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)


def shards_of(
    folder: Path,
    ranks: Ranks,
    shard: tuple[int, int] | None = None,
    kind: type[Header] = Header,
) -> tuple[int, Sequence[int] | None]:
    """The shards of a store of this ``kind`` at ``folder`` (a new one has one for each rank), and
    those that this process writes, None for all: one ``shard`` of so many, or those of its rank."""
    if shard is not None:
        return shard[1], shard[:1]
    exists = ranks.from_first(lambda: (folder / FILE).exists())
    shards = read_header(folder, kind).shards if exists else ranks.world
    return shards, None if ranks.alone else range(ranks.rank, shards, ranks.world)
