"""Rows of a training as they are read: data on the device, labels, what the teacher says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.batches import checked_logits
from frugalkd.data.source import Source
from frugalkd.errors import TargetsError, UnsupportedData, few
from frugalkd.policies.policy import Ids
from frugalkd.runtime.failures import blame
from frugalkd.runtime.meters import Meters
from frugalkd.selection.checks import check_batch, check_listed
from frugalkd.selection.rows import Join, Rows
from frugalkd.teachers import Targets

BLOCK_BYTES = 1 << 22
"""What is read at once: within the caches, and large enough to hide what a call costs."""


class Reader:
    """Reads rows by their ids, in the view in which each sample is to be seen now.

    Args:
        source: of the data.
        targets: of the teacher, or None.
        labels: of a batch of data, int64 (rows,), or None where it has none.
        listed: labels int64 (samples,) as the data set lists them, to compare those with; or None.
        judged_by_teacher: a look takes the teacher's top class for right, not the label.
        join: makes one batch of data of several.
        repeats: the data set gives the same again for the same id and view.
        views: the view int64 (rows,) in which ids are to be seen now.
        now: the epoch and its optimiser step, for targets that draw by them.
        device: where rows go.
        meters: what is read, and how many times a teacher was asked, is counted there.
    """

    def __init__(
        self,
        source: Source,
        targets: Targets | None,
        *,
        labels: Callable[[Any], Tensor | None],
        listed: NDArray[np.int64] | None,
        judged_by_teacher: bool,
        join: Join,
        repeats: bool,
        views: Callable[[Ids], Ids],
        now: Callable[[], tuple[int, int]],
        device: torch.device | str,
        meters: Meters,
    ):
        self.source, self.targets, self.device, self.join = source, targets, device, join
        self._labels, self._judged_by_teacher = labels, judged_by_teacher
        self._listed = listed
        self._repeats, self._views, self._now, self._meters = repeats, views, now, meters
        self.classes: int | None = None
        """Of the model; where it is known, labels are checked against it as they are read."""
        self.features: tuple[str, ...] = ()
        """The teacher's modules whose features rows are to have."""

    def read(
        self, ids: Ids, rows: int, *, targets: bool = False, join_last: bool = False
    ) -> Iterator[Rows]:
        """Batches of ``rows`` rows in the order of ``ids``.

        Where rows do not depend on their batch, several batches are read as one block and cut.
        ``targets``: with the teacher's logits, for rows that will all train. ``join_last``: one
        row that is left joins the batch before, for what goes through a model in train mode.
        """
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
        requests = [(block, self._views(block)) for block in blocks]
        batches = self.source.batches(requests)
        for block, views in requests:
            with self._meters.phase(self.source.phase):
                data = next(batches)
                known = self.classes is not None or self._listed is not None
                if known and (labels := self._labels(data)) is not None:
                    if self.classes is not None:
                        check_batch(labels, block, self.classes)
                    if self._listed is not None:
                        check_listed(labels, self._listed, block)
            with self._meters.phase("load"):
                found = Rows(block, views, send_to_device(data, self.device, non_blocking=True))
            if in_blocks:
                found = self.with_targets(found)
            for part in found.cut(rows, join_last=join_last):
                yield self.with_targets(part) if targets else part

    def at_once(self, ids: Ids) -> Rows:
        """The rows of ``ids``, all together, in their views of now."""
        return self.again(ids, self._views(ids), None)

    def again(self, ids: Ids, views: Ids | None, data: Any) -> Rows:
        """Rows that were read before, in the views that they had then; ``data`` as kept."""
        views = self._views(ids) if views is None else views
        if data is None:
            with self._meters.phase(self.source.phase):
                data = next(self.source.batches([(ids, views)]))
        return Rows(ids, views, send_to_device(data, self.device, non_blocking=True))

    def kept_data(self, rows: Rows) -> Any:
        """What a state has to hold of rows that were read, so that they come back as they were:
        nothing where a data set gives the same again, or where their form is of the user's own."""
        return None if self._repeats or not _is_plain(rows.data) else rows.data

    def with_targets(self, rows: Rows) -> Rows:
        """The same rows with the teacher's logits, where there is a teacher."""
        targets, meters = self.targets, self._meters
        if targets is None or rows.targets is not None:
            return rows
        targets.begin_step(*self._now())
        asked, answered, each = targets.queries, targets.seconds, targets.queries_of
        with meters.phase(targets.phase):
            try:
                if self.features:
                    logits, features = targets.fetch_features(
                        rows.ids, rows.views, rows.data, self.features
                    )
                else:
                    logits, features = targets.fetch(rows.ids, rows.views, rows.data), None
            except Exception as error:
                which = f"fails on samples {few(rows.ids.tolist())}"
                blame(error, TargetsError, f"{type(targets).__name__}.fetch {which}")
            checked_logits(logits, len(rows.ids), type(targets).__name__, TargetsError)
        meters.teacher_queries += targets.queries - asked
        for name, rows_of in targets.queries_of.items():
            meters.queries_of[name] += rows_of - each[name]
        if targets.phase != "teacher":
            meters.move(targets.seconds - answered, out_of=targets.phase, into="teacher")
        return rows._replace(targets=logits, features=features)

    def with_labels(self, rows: Rows) -> tuple[Rows, Tensor]:
        """The rows and what a look takes for right; the teacher is asked where it decides that."""
        labels = None if self._judged_by_teacher else self._labels(rows.data)
        if labels is not None:
            return rows, labels
        rows = self.with_targets(rows)
        return rows, self.judged_by(self.label(rows.data, rows.targets), rows.targets)

    def judged_by(self, labels: Tensor, targets: Tensor | None) -> Tensor:
        """int64 (rows,): what a look takes for right, the labels or the teacher's top class."""
        if targets is None or not self._judged_by_teacher:
            return labels
        return targets.argmax(dim=1)

    def label(self, data: Any, targets: Tensor | None) -> Tensor:
        """The batch's labels, or the teacher's top class where the data have none."""
        labels = self._labels(data)
        if labels is not None:
            return labels
        if targets is None:
            raise UnsupportedData("these data have no labels, and there is no teacher to stand in")
        if self.targets is not None and not self.targets.knows_top:
            raise no_top("stands in for the labels that these data lack")
        return targets.argmax(dim=1)

    def first_labels(self, ids: Ids) -> Tensor | None:
        """Labels of ``ids``, as they are read; None where there are none."""
        return self._labels(next(self.source.batches([(ids, np.zeros_like(ids))])))


def no_top(use: str) -> TargetsError:
    """Soft targets that do not say the teacher's top class, and what it is for."""
    return TargetsError(
        f"sampled soft targets do not say the teacher's top class, which {use}: set "
        "targets.encoding to top-k or float16"
    )


def _is_plain(data: Any) -> bool:
    """Whether ``data`` are tensors in lists, tuples and dictionaries by text."""
    if type(data) is dict:
        return all(isinstance(key, str) and _is_plain(part) for key, part in data.items())
    return type(data) is Tensor or (type(data) in (tuple, list) and all(map(_is_plain, data)))
