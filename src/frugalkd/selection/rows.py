"""Rows on their way from a data set to a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import concatenate, find_device
from torch import Tensor

from frugalkd.data.batches import rows_of
from frugalkd.data.source import checked_batch
from frugalkd.errors import UnsupportedData
from frugalkd.models.features import Features
from frugalkd.policies.policy import Ids, Mask
from frugalkd.runtime.failures import blame


class Rows(NamedTuple):
    """Rows that were read, side by side.

    ``ids`` and ``views`` int64 numpy (rows,); ``data`` as the data set's collation gives it, on the
    device; ``targets`` the teacher's logits (rows, classes), or None where nobody was asked;
    ``features`` of the teacher by module path, or None where none were asked for.
    """

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
        """The rows ``index`` of the tensors, which are those of ``ids`` and ``views``."""
        targets, features = self.targets, self.features
        if targets is not None:
            targets = targets[index]
        if features is not None:
            features = {path: feature[index] for path, feature in features.items()}
        return Rows(ids, views, rows_of(self.data, index), targets, features)


def batches_of(rows: int, size: int, *, drop_last: bool = False) -> int:
    """How many batches of ``size`` are made of ``rows`` rows. One row that is left joins the batch
    before, unless batches are of one row: BatchNorm has no statistics of it."""
    return rows // size if drop_last else -(-rows // size) - (rows % size == 1 < size)


Join = Callable[[list[Any]], Any]
"""Makes one batch of data of several, in their order."""


def joined(parts: Sequence[Rows], join: Join = concatenate) -> Rows:
    """All rows of ``parts``, one or more, in their order."""
    if len(parts) == 1:
        return parts[0]
    ids, views, data, targets, features = zip(*parts, strict=True)
    try:
        together = join(list(data))
    except Exception as error:
        blame(error, UnsupportedData, "several batches cannot be joined: say how with join=")
    known = not any(part is None for part in features)
    return Rows(
        np.concatenate(ids),
        np.concatenate(views),
        checked_batch(together, np.concatenate(ids)),
        None if any(part is None for part in targets) else torch.cat(list(targets)),
        {path: torch.cat([part[path] for part in features]) for path in features[0]}
        if known
        else None,
    )
