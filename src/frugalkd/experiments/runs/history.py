"""The course of a training in few numbers, however many epochs it had."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_POINTS = 100
"""A history becomes at most so many."""

_COLUMNS = {"trained": "rows", "participations": "participations", "screened": "screened"}


def mean_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Which parts of the samples trained, took part and were screened, the mean over runs by epoch;
    of many epochs the means of ``every`` few. A run that ended early leaves the later epochs to the
    others. None where there is no epoch."""
    longest = max(map(len, histories), default=0)
    if not longest:
        return None
    every = math.ceil(longest / _POINTS)
    found: dict[str, Any] = {"every": every}
    for name, column in _COLUMNS.items():
        shares = np.full((len(histories), every * math.ceil(longest / every)), np.nan)
        for row, history in zip(shares, histories, strict=True):
            row[: len(history)] = [epoch.get(column, 0) / epoch["samples"] for epoch in history]
        means = np.nanmean(shares.reshape(len(histories), -1, every), axis=(0, 2))
        found[name] = [round(float(mean), 4) for mean in means]
    return found
