"""Rows of a training as they are read: data on the device, labels, the teacher's targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate.utils import concatenate, find_device, send_to_device
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.batches import labels_by, refuse_not_finite, rows_of, split
from frugalkd.data.class_names import attribute_of
from frugalkd.data.source import (
    checked_batch,
    is_batch_indexed,
    is_view_indexed,
    mixed_of,
    open_source,
)
from frugalkd.errors import DataError, SelectionMisuse, TargetsError, UnsupportedData, few
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.features import Features
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Ids, Mask, Sampling
from frugalkd.runtime.devices import check_device
from frugalkd.runtime.failures import blame
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import MOST_ROWS, MOST_WORKERS, Settings, check_integer
from frugalkd.selection.checks import check_listed, labels_of
from frugalkd.teachers import Targets

BLOCK_BYTES = 1 << 22
"""Bytes that are read at once: they fit the caches and hide the overhead of a call."""

CHECKED_TOGETHER = 1 << 16
"""Labels on a device that are compared at once with the listed ones; each time is a wait."""

_MOST_MIXED = 1000

Join = Callable[[list[Any]], Any]
"""Concatenates several batches of data into one, in order."""


class Rows(NamedTuple):
    """Rows that were read: ``ids`` and ``views`` int64 numpy (rows,); ``data`` as the data set's
    collation gives it, on the device; ``targets`` the teacher's logits (rows, classes), or None
    where it was not queried; ``features`` of the teacher by module path, or None."""

    ids: Ids
    views: Ids
    data: Any
    targets: Tensor | None = None
    features: Features | None = None

    def part(self, start: int, end: int) -> Rows:
        """Rows ``start`` up to ``end``; tensors are views of these."""
        if start == 0 and end >= len(self.ids):
            return self
        rows = slice(start, end)
        return self._rows(self.ids[rows], self.views[rows], rows)

    def cut(self, size: int, *, join_last: bool = False) -> Iterator[Rows]:
        """Parts of ``size`` rows, the last one may be shorter; ``join_last`` as in ``Reader``."""
        rows = len(self.ids)
        count = batches_of(rows, size) or min(1, rows) if join_last else -(-rows // size)
        for number in range(count):
            start = number * size
            yield self.part(start, rows if number == count - 1 else start + size)

    def where(self, mask: Mask) -> Rows:
        """The rows that bool numpy (rows,) ``mask`` keeps, copied."""
        index = torch.from_numpy(np.flatnonzero(mask)).to(find_device(self.data) or "cpu")
        return self._rows(self.ids[mask], self.views[mask], index)

    def _rows(self, ids: Ids, views: Ids, index: Any) -> Rows:
        targets = None if self.targets is None else self.targets[index]
        features = self.features
        if features is not None:
            features = {path: feature[index] for path, feature in features.items()}
        return Rows(ids, views, rows_of(self.data, index), targets, features)


def batches_of(rows: int, size: int, *, drop_last: bool = False) -> int:
    """How many batches of ``size`` are made of ``rows`` rows. One row that is left joins the batch
    before, unless batches are of one row: BatchNorm has no statistics of it."""
    return rows // size if drop_last else -(-rows // size) - (rows % size == 1 < size)


def joined(parts: Sequence[Rows], join: Join = concatenate) -> Rows:
    """All rows of ``parts``, one or more, in their order."""
    if len(parts) == 1:
        return parts[0]
    ids, views, data, targets, features = zip(*parts, strict=True)
    try:
        together = join(list(data))
    except Exception as error:
        blame(error, UnsupportedData, "several batches cannot be joined: say how with join=")
    ids = np.concatenate(ids)
    return Rows(
        ids,
        np.concatenate(views),
        checked_batch(together, ids),
        None if any(part is None for part in targets) else torch.cat(list(targets)),
        None
        if any(part is None for part in features)
        else {path: torch.cat([part[path] for part in features]) for path in features[0]},
    )


@dataclass
class Position:
    """Where a training is: the selection advances the epoch, its observer the optimiser step."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class DataLoading(Settings):
    """How batches of a data set are loaded.

    Attributes:
        collate_fn, num_workers, pin_memory: as in torch's DataLoader. Workers are kept between
            epochs.
        multiprocessing_context: how workers are started; None: ``spawn`` (data set and
            ``collate_fn`` must be picklable, and the script needs a main guard), within a trainer
            as its own loader does (torch's default; on Linux ``fork``).
        labels: how to get labels int64 (rows,) from a batch's data; by default those of a pair or
            a mapping; without labels the teacher's top class stands in.
        join: how several batches of data become one, for rows that wait under gate-now; by default
            the data set's own ``join``, or their tensors are concatenated. Where a batch is padded
            to its longest row, say how.
        device: where batches go.
        drop_last: leave out a last batch that is short.
        length_bucket_batches: batches among which rows are regrouped by the data set's ``lengths``
            (:func:`frugalkd.data.source.bucketed`); 0: none.
        lengths: how to get the lengths, integers (samples,), of a data set that has none itself,
            for ``length_bucket_batches``.
        gradient_accumulation_steps: batches of one optimiser step: ``batch.reduce`` divides by the
            rows of all of them, ``batch.ends_step`` says when to step. Not for policies with
            ``when: now``.
        screen_batch: rows of one batch when skipped samples are screened.

    Raises:
        SettingError: a number out of range, or a value of another type.
        ModelError: no such device.
    """

    collate_fn: Callable[[list], Any] | None = None
    labels: Callable[[Any], Tensor | None] | None = None
    join: Join | None = None
    num_workers: int = 0
    pin_memory: bool = False
    multiprocessing_context: Literal["fork", "forkserver", "spawn"] | None = None
    device: torch.device | str = "cpu"
    drop_last: bool = False
    length_bucket_batches: int = 0
    lengths: Callable[[Any], NDArray[np.int64]] | None = None
    gradient_accumulation_steps: int = 1
    screen_batch: int = 256

    def __post_init__(self) -> None:
        check_integer("num_workers", self.num_workers, 0, MOST_WORKERS)
        check_integer("length_bucket_batches", self.length_bucket_batches, 0, MOST_ROWS)
        for name in ("gradient_accumulation_steps", "screen_batch"):
            check_integer(name, getattr(self, name), 1, MOST_ROWS)
        check_device(self.device)


class Reader:
    """Reads rows by their ids, each in the view that its sample has at ``position``.

    Attributes:
        listed: labels (samples, ...) of the data set, or those of the ledger that the policy goes
            by, which those of items equal; or None.
        classes: of the model; where it is known, labels are checked against it as they are read.
        output: the kind of the model's and the teacher's outputs.
        reference: what its scores refer to, on the device.
        features: the teacher's modules whose features rows have.
    """

    def __init__(
        self,
        dataset: Any,
        targets: Targets | None,
        sampling: Sampling,
        loading: DataLoading,
        *,
        seed: int,
        ledger: Ledger,
        meters: Meters,
        position: Position,
    ):
        self.source = open_source(
            dataset, collate_fn=loading.collate_fn, num_workers=loading.num_workers,
            pin_memory=loading.pin_memory, seed=seed,
            start_method=loading.multiprocessing_context or "spawn",
        )  # fmt: skip
        self.targets, self.device = targets, loading.device
        self.join = loading.join or getattr(dataset, "join", None) or concatenate
        self.listed: NDArray[Any] | None = None
        self.classes: int | None = None
        self.features: tuple[str, ...] = ()
        self.output, self.reference = OUTPUTS[sampling.output], dict[str, Tensor]()
        self._mixed = mixed_of(dataset)
        counts: Any = attribute_of(dataset, "row_counts")
        self._row_counts: Any = counts if callable(counts) else None
        self._label_free, self._given_labels = sampling.label_free, loading.labels
        if not (self._label_free or self._given_labels):
            with suppress(UnsupportedData):  # they are not class indices
                self.listed = labels_of(dataset, self.output)
        policy = sampling.chosen_policy
        by_label = policy.needs_labels or "teacher_truth" in policy.columns
        if self.listed is None and by_label and ledger.labels is not None:
            self.listed = ledger.labels.astype(np.int64)
        self._judged_by_teacher = sampling.chosen_policy.label_source == "teacher"
        self._repeats = is_view_indexed(dataset) or is_batch_indexed(dataset)
        self._ledger, self._position, self._meters = ledger, position, meters
        self._unchecked: list[tuple[Ids, Tensor]] = []

    def _labels(self, data: Any) -> Tensor | None:
        """Of a batch of data, int64 (rows,) of one class; None where it has none."""
        given, output = self._given_labels, self.output
        if self._label_free or not output.labelled:
            return None
        return split(data, output)[1] if given is None else labels_by(given, data, output)

    @property
    def listed_right(self) -> NDArray[Any] | None:
        """:attr:`listed`, where labels decide what is right."""
        return None if self._judged_by_teacher else self.listed

    def read(
        self, ids: Ids, rows: int, *, targets: bool = False, join_last: bool = False
    ) -> Iterator[Rows]:
        """Batches of ``rows`` rows in the order of ``ids``: read in larger blocks where rows do
        not depend on their batch. ``targets``: with the teacher's logits, for rows that will all
        train; else in views that are not mixed with others. ``join_last``: one row that is left
        joins the batch before, for what goes through a model in train mode."""
        soft = self.targets if targets else None
        # Features are as large as data: those of one batch at a time.
        in_blocks = soft is not None and soft.row_bytes is not None and not self.features
        at_once = rows
        if self.source.row_bytes is not None:
            row_bytes = self.source.row_bytes + (soft.row_bytes or 0 if soft is not None else 0)
            at_once *= max(1, BLOCK_BYTES // (rows * row_bytes))
        starts = range(0, len(ids), at_once)
        if join_last and len(ids) > rows > 1 and len(ids) - starts[-1] == 1:
            starts = starts[:-1]
        blocks = [ids[start:end] for start, end in pairwise([*starts, len(ids)])]
        requests = [(block, self._views(block, plain=not targets)) for block in blocks]
        batches = self.source.batches(requests)
        for block, views in requests:
            with self._meters.phase(self.source.phase):
                data = next(batches)
                self._check_labels(data, block)
            with self._meters.phase("load"):
                found = Rows(block, views, send_to_device(data, self.device, non_blocking=True))
            if in_blocks:
                found = self.with_targets(found)
            for part in found.cut(rows, join_last=join_last):
                yield self.with_targets(part) if targets else part
        self._compare_listed()

    def _check_labels(self, data: Any, ids: Ids) -> None:
        if self.classes is None and self.listed is None:
            return
        labels = self._labels(data)
        if labels is None:
            return
        if self.classes is not None:
            self.output.check(labels, ids, self.classes)
        if self.listed is not None:
            self._unchecked.append((ids, labels))
            waiting = sum(len(ids) for ids, _ in self._unchecked)
            if labels.device.type == "cpu" or waiting >= CHECKED_TOGETHER:
                self._compare_listed()

    def _compare_listed(self) -> None:
        if self._unchecked and self.listed is not None:
            ids, labels = zip(*self._unchecked, strict=True)
            self._unchecked = []
            check_listed(torch.cat(labels), self.listed, np.concatenate(ids))

    def _views(self, ids: Ids, *, plain: bool = False) -> Ids:
        """The view in which each sample is used now, or the next ``plain`` one."""
        views = self._ledger.views(ids, self._position.epoch)
        limit = None if self.targets is None else self.targets.views
        mixed = np.zeros(len(ids), dtype=bool)
        for _ in range(_MOST_MIXED):
            views = views if limit is None else views % limit
            if not plain or not (mixed := self.mixed(ids, views)).any():
                return views
            views = views + mixed
        raise DataError(
            f"sample {ids[mixed][0]} has {_MOST_MIXED} views in a row that are mixed with others, "
            "and the gate needs a plain one: mix a smaller part"
        )

    @property
    def mixes(self) -> bool:
        """Whether some views are mixed with other samples."""
        return self._mixed is not None

    def mixed(self, ids: Ids, views: Ids) -> Mask:
        """Which of these views are mixed with other samples."""
        if self._mixed is None:
            return np.zeros(len(ids), dtype=bool)
        return self._mixed(ids, views)

    def tokens(self, ids: Ids) -> int:
        """Learned tokens of the samples ``ids``; 0 where data are not of tokens."""
        return 0 if self._row_counts is None else int(self._row_counts(ids).sum())

    def at_once(self, ids: Ids, views: Ids | None = None, data: Any = None) -> Rows:
        """The rows of ``ids``, all together, in their current views; of rows that were read before
        the ``views`` that they had then, and ``data`` as kept."""
        views = self._views(ids) if views is None else views
        if data is None:
            with self._meters.phase(self.source.phase):
                data = next(self.source.batches([(ids, views)]))
        return Rows(ids, views, send_to_device(data, self.device, non_blocking=True))

    def kept_data(self, rows: Rows) -> Any:
        """What a state has to hold of rows that were read, so that they come back as they were:
        nothing where a data set gives the same again, or where their form is the user's own."""
        return None if self._repeats or not _is_plain(rows.data) else rows.data

    def with_targets(self, rows: Rows) -> Rows:
        """The same rows with the teacher's logits, where there is a teacher."""
        targets, meters = self.targets, self._meters
        if targets is None or rows.targets is not None:
            return rows
        targets.begin_step(self._position.epoch, self._position.step)
        queries, seconds, each = targets.queries, targets.seconds, targets.queries_of
        tokens = targets.tokens
        given, features = (rows.ids, rows.views, rows.data), None
        with meters.phase(targets.phase):
            try:
                if self.features:
                    logits, features = targets.fetch_features(*given, self.features)
                else:
                    logits = targets.fetch(*given)
            except Exception as error:
                which = f"fails on samples {few(rows.ids.tolist())}"
                blame(error, TargetsError, f"{type(targets).__name__}.fetch {which}")
            targets.check_fetched(logits, len(rows.ids))
        meters.token_queries += targets.tokens - tokens
        meters.teacher_queries += targets.queries - queries
        for name, count in targets.queries_of.items():
            meters.queries_of[name] += count - each[name]
        if targets.phase != "teacher":
            meters.move(targets.seconds - seconds, out_of=targets.phase, into="teacher")
        return rows._replace(targets=logits, features=features)

    def with_labels(self, rows: Rows) -> tuple[Rows, Tensor, Tensor]:
        """The rows, what counts as right, and the given labels; the teacher is queried where it
        decides that."""
        labels = None if self._judged_by_teacher else self._labels(rows.data)
        if self.output.by_loop:
            labels = torch.zeros(len(rows.ids), device=self.device)  # which nothing reads
        if labels is not None:
            return rows, labels, labels
        rows = self.with_targets(rows)
        given = self.label(rows.data, rows.targets)
        return rows, self.judged_by(given, rows.targets), given

    def judged_by(self, labels: Tensor, targets: Tensor | None) -> Tensor:
        """What counts as right, the labels or what the teacher says: int64 (rows,) of one class."""
        if targets is None or not self._judged_by_teacher:
            return labels
        return self.output.from_teacher(targets)

    def label(self, data: Any, targets: Tensor | None) -> Tensor:
        """The batch's labels, or what the teacher says where the data have none."""
        if self.output.by_loop:
            raise SelectionMisuse(f"{self.output.label_form}: read them from batch.data")
        labels = self._labels(data)
        if labels is not None:
            return labels
        if targets is None:
            raise UnsupportedData(
                "these data have no labels, and there is no teacher to stand in: return a pair or "
                "a dict with 'labels'"
            )
        if self.output.by_top_class and self.targets is not None and not self.targets.knows_top:
            raise no_top("stands in for the labels that these data lack")
        return self.output.from_teacher(targets)

    def truth(self, ids: Ids, rows: int) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
        """Batch by batch, ids and the teacher's probability of what counts as right, float32
        (rows,). The teacher is queried as for a training batch. Raises ModelError where it gives
        numbers that are not finite."""
        for batch in self.read(ids, rows):
            batch, labels, _ = self.with_labels(batch)
            logits = self.with_targets(batch).targets
            assert logits is not None, "checked before"
            refuse_not_finite(logits, batch.ids, "the teacher")
            self.output.check(labels.cpu(), batch.ids, logits.shape[1])
            chosen = torch.softmax(logits.float(), dim=1).gather(
                1, labels[:, None].to(logits.device)
            )
            yield batch.ids, chosen[:, 0].cpu().numpy()

    def first_labels(self, ids: Ids) -> Tensor | None:
        """Labels of ``ids``, as they are read; None where there are none."""
        return self._labels(next(self.source.batches([(ids, np.zeros_like(ids))])))


def no_top(use: str) -> TargetsError:
    """Soft targets that do not have the teacher's top class, and what it is for."""
    return TargetsError(
        f"sampled soft targets do not say the teacher's top class, which {use}: set "
        "targets.encoding to top-k or float16"
    )


def _is_plain(data: Any) -> bool:
    """Whether ``data`` are tensors in lists, tuples and dictionaries by text."""
    if type(data) is dict:
        return all(isinstance(key, str) and _is_plain(part) for key, part in data.items())
    return type(data) is Tensor or (type(data) in (tuple, list) and all(map(_is_plain, data)))
