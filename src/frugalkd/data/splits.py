"""Splits of a data set: the named pair, a random hold-out for validation, a random part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frugalkd.data.images import Augmentation, ImageData
from frugalkd.draws import order, stream
from frugalkd.errors import DataError

_SEED = 0  # fixed: the same split in every run, so that runs can be compared


@dataclass(frozen=True)
class Splits:
    """The training and the test part of a named data set, neither augmented."""

    train: ImageData
    test: ImageData


def hold_out(data: ImageData, rows: int) -> tuple[ImageData, ImageData]:
    """``(train, validation)``: ``rows`` random samples held out, the same ones every time.

    Both keep the order of ``data``; the validation part is not augmented. Raises DataError unless
    ``1 <= rows < len(data)``.
    """
    chosen = _chosen("hold-out", data, rows, most=len(data) - 1)
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    validation = data.subset(chosen).with_augmentation(Augmentation(), data.seed)
    return data.subset(rest), validation


def take(data: ImageData, rows: int) -> ImageData:
    """``rows`` random samples of ``data`` in its order, the same ones every time; a smaller
    ``rows`` takes part of what a larger one takes. Raises DataError unless
    ``1 <= rows <= len(data)``.
    """
    return data.subset(_chosen("take", data, rows, most=len(data)))


def _chosen(purpose: str, data: ImageData, rows: int, *, most: int) -> NDArray[np.int64]:
    if not 1 <= rows <= most:
        raise DataError(f"{purpose} of {rows} rows from {len(data)}: give 1 .. {most}")
    ids = np.arange(len(data), dtype=np.int64)
    return np.sort(order(ids, _SEED, stream(purpose))[:rows])
