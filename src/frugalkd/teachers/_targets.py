"""The seam behind which a live teacher and a stored one look alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from frugalkd.policies._policy import Ids


class Targets(ABC):
    """Soft targets: the teacher's logits for the samples that train, and for no others."""

    views: int | None
    """How many views of a sample there are targets for; None: any."""

    queries: int
    """Rows that have gone through the teacher so far."""

    @abstractmethod
    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        """Logits (rows, classes) float32 for ``ids`` int64 (rows,) seen as ``views`` int64 (rows,).

        ``data`` is the batch as the student gets it, on the student's device; so is the answer.
        """
