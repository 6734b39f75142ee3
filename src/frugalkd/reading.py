"""Rows on their way from a data set to a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import concatenate, find_device
from torch import Tensor

from frugalkd.batches import rows_of
from frugalkd.policies._policy import Ids, Mask


class Rows(NamedTuple):
    """Rows that were read, side by side.

    ``ids`` and ``views`` int64 numpy (rows,); ``data`` as the data set's collation gives it, on the
    device; ``targets`` the teacher's logits (rows, classes), or None where nobody was asked.
    """

    ids: Ids
    views: Ids
    data: Any
    targets: Tensor | None = None

    def part(self, start: int, end: int) -> Rows:
        """Rows ``start`` up to ``end``; tensors are views of these."""
        if start == 0 and end >= len(self.ids):
            return self
        rows = slice(start, end)
        targets = None if self.targets is None else self.targets[rows]
        return Rows(self.ids[rows], self.views[rows], rows_of(self.data, rows), targets)

    def cut(self, size: int) -> Iterator[Rows]:
        """Parts of ``size`` rows, the last one may be shorter."""
        for start in range(0, len(self.ids), size):
            yield self.part(start, start + size)

    def where(self, mask: Mask) -> Rows:
        """The rows that bool numpy (rows,) ``mask`` keeps, copied."""
        index = torch.from_numpy(np.flatnonzero(mask)).to(find_device(self.data) or "cpu")
        targets = None if self.targets is None else self.targets[index]
        return Rows(self.ids[mask], self.views[mask], rows_of(self.data, index), targets)


Join = Callable[[list[Any]], Any]
"""Makes one batch of data of several, in their order."""


def joined(parts: Sequence[Rows], join: Join = concatenate) -> Rows:
    """All rows of ``parts``, one or more, in their order."""
    if len(parts) == 1:
        return parts[0]
    ids, views, data, targets = zip(*parts, strict=True)
    return Rows(
        np.concatenate(ids),
        np.concatenate(views),
        join(list(data)),
        None if any(part is None for part in targets) else torch.cat(list(targets)),
    )
