"""scikit-learn's digits: 1,797 real handwritten digits of 8x8, inside that package (UCI, 1998)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.images import ImageData
from frugalkd.data.splits import Splits
from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.runtime.draws import order, stream
from frugalkd.runtime.imports import require_extra

DIGITS_CLASSES = tuple("0123456789")
DIGITS_MEAN, DIGITS_STD = (0.3051,), (0.3758,)

_TEST_ROWS = 360
_LEVELS = 16  # the grey values are 0 .. 16


def load_digits(root: StrPath | None = None) -> Splits:
    """1,437 training and 360 test images, uint8 (N, 1, 8, 8), each class in proportion in both.

    The split is fixed. ``root`` is not used: the data come with scikit-learn.
    """
    require_extra("report", "the digits come with scikit-learn", DataError, "sklearn")
    from sklearn import datasets

    flat, target = datasets.load_digits(return_X_y=True)
    images = np.rint(np.asarray(flat) * (255 / _LEVELS)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = np.asarray(target).astype(np.int64)
    data = ImageData(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        DIGITS_CLASSES,
        mean=DIGITS_MEAN,
        std=DIGITS_STD,
    )
    test = stratified(labels, _TEST_ROWS)
    return Splits(data.subset(np.setdiff1d(np.arange(len(data)), test)), data.subset(test))


def stratified(labels: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """``rows`` ids (sorted) drawn from each class in proportion, the same ones every time.

    Classes get the floor of their share; what is left goes to the largest remainders.
    """
    share = np.bincount(labels) * (rows / len(labels))
    quota = np.floor(share).astype(np.int64)
    largest = np.argsort(quota - share, kind="stable")
    quota[largest[: rows - int(quota.sum())]] += 1
    drawn = order(np.arange(len(labels), dtype=np.int64), 0, stream("digits"))
    parts = [drawn[labels[drawn] == k][:count] for k, count in enumerate(quota)]
    return np.sort(np.concatenate(parts))
