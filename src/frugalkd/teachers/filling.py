"""Asking a teacher for what a store lacks, and storing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.data.batches import refuse_not_finite, rows_of
from frugalkd.data.probe import randomness
from frugalkd.data.source import Collate, by_length, check_map_style, lengths_of, open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import TargetsError, UnsupportedData, few
from frugalkd.models.features import Shape, feature_paths, find_paths
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import check_device
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.settings import check_integer
from frugalkd.teachers._feature_stores import feature_folder, feature_header
from frugalkd.teachers._part import Announce, Opening, Part
from frugalkd.teachers.about import describe_asking
from frugalkd.teachers.encodings import Dense, Encoding
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.store import FILE, Header, Store, read_header, shard_of


@dataclass(frozen=True)
class Layout:
    """What a store is to look like.

    Attributes:
        views: of each sample.
        encoding: of a row.
        shards: how many parts, one process writing a part; None: as many as there are, 1 for a new
            store.
        features: of the teacher's modules at these paths (globs among them), float16, beside the
            logits.
    """

    views: int = 1
    encoding: Encoding = field(default_factory=Dense)
    shards: int | None = None
    features: tuple[str, ...] = ()


class Filler:
    """A teacher and the store that keeps its answers.

    The store is made when the teacher has answered for the first time, which says how many classes
    there are. One that is there already must be of the same teacher, data, augmentation and layout;
    features that it lacks are added.

    Args:
        live: the teacher.
        dataset: what it is asked about.
        folder: of the store.
        layout: what the store is to look like.
        write: shards that this process writes; None: all.
        wait: wait for another process that writes them, rather than be refused.
        announce: told of the store before its space is taken, and of each of its features.

    Raises:
        TargetsError: the data set has a randomness of its own, or is unlike the teacher's
            (:meth:`LiveTeacher.check`), or ``folder`` holds other targets.
        ModelError: the teacher has no module at a path of ``layout.features``.
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
        if not len(dataset):  # pyright: ignore[reportArgumentType]
            raise UnsupportedData("the data set is empty: there is nothing to store")
        if live.changes:
            raise TargetsError(
                "this teacher changes with each step, and nothing that it says can be kept: ask it "
                "live"
            )
        if randomness(dataset):
            raise TargetsError(
                "this data set gives other pixels each time it is asked: give it a method "
                "view(id, view), or use a live teacher"
            )
        live.check(None, dataset)
        self.live, self.layout = live, layout
        self.samples = len(dataset)  # pyright: ignore[reportArgumentType]
        self.about = describe_asking(live, dataset)
        self._write = write
        opening = Opening(write, wait, announce)
        self._logits = Part(folder, self._header, layout.shards, opening)
        self._features: dict[str, Part] = {}
        if layout.features:
            for path in find_paths(layout.features, feature_paths(live.teacher), "the teacher"):
                header = partial(self._feature_header, path)
                where = feature_folder(folder, path)
                self._features[path] = Part(where, header, layout.shards, opening)

    @property
    def store(self) -> Store | None:
        """Of the logits; None until the teacher was first asked."""
        return self._logits.store

    @property
    def pending(self) -> int:
        """Rows that were asked for and are not durable yet."""
        return max(0 if part.store is None else part.store.pending for part in self._parts)

    def missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which rows the store lacks, or their features."""
        return np.any([part.missing(ids, views) for part in self._parts], axis=0)

    def add(self, ids: Ids, views: Ids, data: Any) -> Store:
        """Ask the teacher for those rows of the batch ``data`` that the store lacks, store them,
        and return the store. Raises TargetsError."""
        missing = self.missing(ids, views)
        if missing.any():
            for part in self._parts:
                part.open(ids, views)
            missing = self.missing(ids, views)
        if missing.any():
            if not missing.all():
                ids, views = ids[missing], views[missing]
                data = rows_of(data, torch.from_numpy(np.flatnonzero(missing)))
            for part, values in zip(self._parts, self._ask(ids, views, data), strict=True):
                part.add(ids, views, values)
        assert self.store is not None
        return self.store

    def close(self) -> None:
        """Make all that was added durable and let other processes write. Raises TargetsError."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)

    def mine(self, ids: Ids) -> Ids:
        """Those of ``ids`` that are in shards which this process writes."""
        shards = self.layout.shards
        if self._write is None or shards is None:
            return ids
        return ids[np.isin(shard_of(ids, self.samples, shards), self._write)]

    @property
    def _parts(self) -> list[Part]:
        return [self._logits, *self._features.values()]

    def _ask(self, ids: Ids, views: Ids, data: Any) -> list[Tensor]:
        """The logits, and the features. Raises ModelError for logits that say nothing."""
        if not self._features:
            logits = self.live.fetch(ids, views, data)
            refuse_not_finite(logits, ids, "the teacher")
            return [logits]
        if any(part.store is None for part in self._features.values()):
            self.live.feature_shapes(list(self._features), data)  # refuses what is no feature
        logits, features = self.live.fetch_features(ids, views, data, list(self._features))
        refuse_not_finite(logits, ids, "the teacher")
        return [logits, *(features[path] for path in self._features)]

    def _header(self, shape: Shape, shards: int) -> Header:
        layout = self.layout
        return Header(self.samples, layout.views, shape[0], layout.encoding, self.about, shards)

    def _feature_header(self, path: str, shape: Shape, shards: int) -> Header:
        return feature_header(self._header((1,), shards), path, shape)


def shards_of(folder: Path, ranks: Ranks) -> tuple[int | None, Sequence[int] | None]:
    """How many shards a store at ``folder`` is to have, and which of them this rank writes: as
    :class:`Layout` and :class:`Filler` take them. A new store has one for each rank."""
    if ranks.alone:
        return None, None
    there = ranks.from_first(lambda: (folder / FILE).exists())
    shards = read_header(folder).shards if there else ranks.world
    return shards, range(ranks.rank, shards, ranks.world)


def fill(
    filler: Filler,
    dataset: Dataset,
    *,
    ids: Ids | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    collate_fn: Collate | None = None,
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
    check_integer("batch_size", batch_size, 1)
    device = check_device(device)
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
        open_source(dataset, collate_fn=collate_fn) as source,
        memory_for(f"asking the teacher about batches of {batch_size}", advice),
    ):
        for (block, views), data in zip(requests, source.batches(requests), strict=True):
            filler.add(block, views, send_to_device(data, device))
            if kept is not None and not filler.pending and filler.live.queries > asked:
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
