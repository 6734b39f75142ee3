"""Soft targets that are computed once and kept in a folder: ahead, or at first visits."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, final

import numpy as np
import torch
from accelerate.utils import find_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import Match, class_names, class_order, names_from, names_text
from frugalkd.data.probe import batch_digests
from frugalkd.data.source import Collate
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import FrugalKDWarning, ModelError, TargetsError
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.models.features import Features, Shape, find_paths
from frugalkd.models.identity import differences
from frugalkd.policies.policy import Ids
from frugalkd.teachers.encodings import Encoding
from frugalkd.teachers.filling import (
    FEATURES,
    Filler,
    FillOptions,
    feature_header,
    shape_of,
    shards_of,
)
from frugalkd.teachers.live import LiveTeacher, ModelTeacher, describe
from frugalkd.teachers.store import BATCH, FILE, Store
from frugalkd.teachers.targets import Targets

_CHUNK = 4096


class _Kept(Targets):
    """Soft targets of a store."""

    def check(self, dataset: Dataset) -> None:
        others = differences(self.about, describe(None, dataset), "the stored soft targets")
        if others:
            raise TargetsError(
                f"the stored soft targets belong to another {' and another '.join(others)}: delete "
                "them, or name the ones that belong to this run"
            )


@final
class StoredTargets(_Kept):
    """The teacher's soft targets from a folder, in as many views as the student will cycle through.

    Args:
        folder: made by :meth:`fill`, by ``FirstVisitTargets``, or by ``frugalkd store``.

    Attributes:
        about: identity of the teacher and the data that the targets belong to.
        class_names: of the columns, () where they are not known.
        features: the stores of features, by module path.

    Raises:
        TargetsError: there is no store in ``folder``, or it is damaged.
    """

    def __init__(self, folder: StrPath):
        folder = named(folder)
        self.store = Store(folder)
        header = self.store.header
        self._adopt(header)
        self.class_names = names_from(self.about.get("classes", ""))
        self._order: NDArray[np.int64] | None = None
        self.row_bytes = 4 * header.classes
        self.queries = 0
        self.features: dict[str, Store] = {}
        for path in sorted((folder / FEATURES).glob(f"*/{FILE}")):
            store = Store(path.parent)
            name, shape = store.header.about.get("feature", ""), shape_of(store.header)
            store.header.refuse_other(feature_header(header, name, shape), path.parent)
            self.features[name] = store

    @classmethod
    def fill(
        cls,
        teacher: nn.Module | ModelTeacher,
        dataset: Dataset,
        folder: StrPath | None = None,
        *,
        views: int = 1,
        encoding: Encoding | None = None,
        features: Sequence[str] = (),
        ids: Ids | None = None,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        collate_fn: Collate | None = None,
        options: FillOptions | None = None,
    ) -> StoredTargets:
        """Run ``teacher`` on every sample of ``dataset``, in ``views`` views, except for what
        ``folder`` holds already; ``queries`` of the result is the number of rows.

        Args:
            teacher: a model, or a LiveTeacher with its precision.
            dataset: map-style, with its own views where its samples are augmented.
            folder: where to keep the targets; None: in a temporary file without a name, which is
                deleted with this object.
            views: of each sample.
            encoding: default ``Dense("float16")``.
            features: module paths or globs of the teacher, whose features are kept too, float16.
            ids: samples to store; default all.
            batch_size, device, collate_fn: of the teacher's forward passes.
            options: which processes fill ``folder``, and functions to call meanwhile.

        Raises:
            TargetsError: the data set, or ``collate_fn``, is random by itself, so that the targets
                would belong to other pixels than the student's; ``folder`` holds other targets;
                the disk is full.
        """
        options = FillOptions() if options is None else options
        ranks, shard = options.ranks, options.shard
        live = teacher if isinstance(teacher, ModelTeacher) else LiveTeacher(teacher)
        queries, seconds = live.queries, live.seconds
        with ExitStack() as stack:
            if folder is None:  # the mapping outlives the names
                nameless = tempfile.TemporaryDirectory(prefix="frugalkd-")
                folder, ranks = stack.enter_context(nameless), None
            ranks, folder = ranks or Ranks(), named(folder)
            shards, write = shards_of(folder, ranks, shard)
            filler = Filler(
                live, dataset, folder, views, encoding, features=features, shards=shards,
                write=write, wait=shard is None, on_create=options.on_create,
                batch=partial(live.describe_batch, dataset, collate_fn),
            )  # fmt: skip
            with closing(filler):
                filler.fill(
                    ids, batch_size=batch_size, device=device, collate_fn=collate_fn,
                    on_progress=options.on_progress, on_durable=options.on_durable,
                )  # fmt: skip
            spent = ranks.sum([live.queries - queries, live.seconds - seconds])  # all are done
            targets = cls(folder)
        targets.queries, targets.seconds = int(spent[0]), float(spent[1]) / ranks.world
        return targets

    def classes(self, data: Any) -> int | None:
        return self.store.header.classes

    def match_classes(self, names: Sequence[str], match: Match = "by-name") -> None:
        """Make the columns those of the data, whose classes are ``names``: ``by-name`` reorders
        them. Raises TargetsError where the names do not match."""
        order = class_order(self.class_names, names, match, "the store")
        if order is not None:
            self._order = order
            self.about["class order"] = hashlib.sha256(order.tobytes()).hexdigest()
        if self.class_names and names:
            self.class_names = tuple(names)
            self.about["classes"] = names_text(names)

    def _read(self, ids: Ids, views: Ids) -> NDArray[np.float32]:
        logits = self.store.read(ids, views)
        return logits if self._order is None else logits[:, self._order]

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        return _on_device(self._read(ids, views % self.store.header.views), data)

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        if not self.features:
            raise TargetsError(self.no_features)
        try:
            paths = find_paths(patterns, self.features, "the store")
        except ModelError as error:
            raise TargetsError(
                f"{self.store.folder} holds features of {', '.join(self.features)} alone; {error}; "
                "add others by 'frugalkd store --features PATH'"
            ) from None
        return {path: shape_of(self.features[path].header) for path in paths}

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        found = {}
        for path in paths:
            header = self.features[path].header
            values = self.features[path].read(ids, views % header.views)
            found[path] = _on_device(values.reshape(-1, *shape_of(header)), data)
        return self.fetch(ids, views, data), found

    def all_logits(self, view: int = 0) -> NDArray[np.float32]:
        """Decoded logits (samples, classes) of one view, NaN where nothing is stored."""
        header = self.store.header
        logits = np.full((header.samples, header.classes), np.nan, dtype=np.float32)
        ids = np.arange(header.samples)
        ids = ids[self.store.present(ids, np.full(len(ids), view))]
        for start in range(0, len(ids), _CHUNK):
            block = ids[start : start + _CHUNK]
            logits[block] = self._read(block, np.full(len(block), view))
        return logits

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        """Of the first view."""
        super().truth(labels)  # refuses an encoding for one temperature
        logits = torch.from_numpy(self.all_logits())
        labels = logits.argmax(dim=1) if labels is None else labels.cpu()
        return torch.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0].numpy()

    def compare_batches(self, dataset: Dataset, collate_fn: Collate | None) -> None:
        if BATCH not in self.about:
            return
        theirs, ours = set(self.about[BATCH].split()), batch_digests(dataset, collate_fn)
        if ours == []:
            return
        if ours is None or not (theirs <= set(ours) or theirs >= set(ours)):
            warnings.warn(
                "the stored soft targets were made of other batches than this training's: fill the "
                "store with the same collate_fn, unless it changes nothing that the teacher reads",
                FrugalKDWarning,
                stacklevel=3,
            )

    def check(self, dataset: Dataset) -> None:
        class_order(self.class_names, class_names(dataset), "same", "the store")
        super().check(dataset)


@final
class FirstVisitTargets(_Kept):
    """Runs the teacher on a sample's view when it is first visited, and stores the output: never on
    samples that are not used.

    A later visit reads what the first one stored; the first one receives the decoded row as well. A
    store with some rows in it is resumed. :meth:`close` makes the rows durable.

    Args:
        teacher, dataset, folder, views, encoding: as of :meth:`StoredTargets.fill`.

    Raises:
        TargetsError: as there, or another process is filling ``folder``.
    """

    fills_as_visited = True

    def __init__(
        self,
        teacher: nn.Module | ModelTeacher,
        dataset: Dataset,
        folder: StrPath,
        *,
        views: int = 1,
        encoding: Encoding | None = None,
    ):
        self._live = teacher if isinstance(teacher, ModelTeacher) else LiveTeacher(teacher)
        self._filler = Filler(self._live, dataset, named(folder), views, encoding)
        self._adopt(self._filler.header)

    @property
    def queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._live.queries

    @property
    def seconds(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._live.seconds

    @property
    def live_teachers(self) -> Mapping[str, ModelTeacher]:
        return {"teacher": self._live}

    @property
    def store(self) -> Store | None:
        """None before the teacher's first forward pass."""
        return self._filler.store

    def classes(self, data: Any) -> int | None:
        return self._live.classes(data) if self.store is None else self.store.header.classes

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        views = views % self._filler.header.views
        return _on_device(self._filler.add(ids, views, data).read(ids, views), data)

    def sync(self) -> None:
        if self.store is not None:
            self.store.sync()

    def close(self) -> None:
        """Make what was stored durable, and let other processes fill the store."""
        self._filler.close()

    def __enter__(self) -> FirstVisitTargets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _on_device(logits: NDArray[np.float32], data: Any) -> Tensor:
    """On the device of the student's batch."""
    device = find_device(data) or torch.device("cpu")
    tensor = torch.from_numpy(logits)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
