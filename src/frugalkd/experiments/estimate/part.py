"""A part of a data set to pilot on, and a store's soft targets for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from frugalkd.data.source import is_view_indexed
from frugalkd.errors import UnsupportedData
from frugalkd.models.features import Features, Shape
from frugalkd.policies.policy import Ids
from frugalkd.teachers import StoredTargets, Targets


@dataclass(frozen=True)
class Part:
    """Some samples of a data set as a data set of its own.

    Attributes:
        source: the whole data set.
        ids: int64, sorted, which of its samples.
        data: the part.
    """

    source: Any
    ids: Ids
    data: Any

    @property
    def whole(self) -> int:
        """Samples of the whole data set."""
        return len(self.source)

    def some(self, rows: int) -> Part:
        """``rows`` of these samples, random but the same every time."""
        chosen = np.random.default_rng(0).permutation(len(self.ids))[:rows]
        return _make(self.source, self.ids[np.sort(chosen)])


def part_of(source: Any, rows: int) -> Part:
    """``rows`` random samples of ``source``, the same every time; all of it where it has no more.

    Raises:
        UnsupportedData: the data set has views and no ``subset(ids)``.
    """
    order = np.random.default_rng(0).permutation(len(source))
    return _make(source, np.sort(order[:rows]))


def _make(source: Any, ids: Ids) -> Part:
    if len(ids) == len(source):
        return Part(source, ids, source)
    if hasattr(source, "subset"):
        return Part(source, ids, source.subset(ids))
    if is_view_indexed(source):
        raise UnsupportedData(
            f"{type(source).__name__} has views: give it a method subset(ids), so that a pilot can "
            "train on a part of it"
        )
    return Part(source, ids, Subset(source, ids.tolist()))


class Within(Targets):
    """The stored targets of ``whole``, for a part that lies within it and numbers its samples
    anew."""

    def __init__(self, stored: StoredTargets, whole: Part, part: Part):
        self._stored, self._labels = stored, getattr(whole.data, "labels", None)
        self._rows = np.searchsorted(whole.ids, part.ids)
        self.views, self.temperature = stored.views, stored.temperature
        self.knows_top, self.keeps = stored.knows_top, stored.keeps
        self.queries = 0

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        return self._stored.fetch(self._rows[ids], views, data)

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        return self._stored.feature_shapes(patterns, data)

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        return self._stored.fetch_features(self._rows[ids], views, data, paths)

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        return self._stored.truth(None if labels is None else self._labels)[self._rows]
