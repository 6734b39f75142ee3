"""Splits of a data set: the named pair, a random hold-out for validation, a random part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from frugalkd.data.augmentation import Augmentation
from frugalkd.data.samples import Pictures, Samples
from frugalkd.errors import DataError
from frugalkd.runtime.draws import order, stream

_SEED = 0  # fixed: the same split in every run, so that runs can be compared


SomeSamples = TypeVar("SomeSamples", bound=Samples)


@dataclass(frozen=True)
class Splits:
    """The training and the test part of a named data set, neither augmented."""

    train: Samples
    test: Samples


def hold_out(data: SomeSamples, rows: int) -> tuple[SomeSamples, SomeSamples]:
    """``(train, validation)``: ``rows`` random samples held out, the same ones every time.

    Both keep the order of ``data``; the validation part is not augmented. Raises DataError unless
    ``1 <= rows < len(data)``.
    """
    chosen = _chosen("hold-out", data, rows, most=len(data) - 1)
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    validation = data.subset(chosen)
    if isinstance(validation, Pictures):
        validation = validation.with_augmentation(Augmentation(), validation.seed)
    return data.subset(rest), validation


def splits_of(parts: Sequence[Samples], test: object) -> Splits:
    """The two ``parts``; or the only one, of which ``test``, a fraction in (0, 1), is held out.
    Raises DataError for any other ``test``, or where one of both would be empty."""
    if len(parts) == 2:
        return Splits(*parts)
    if isinstance(test, bool) or not isinstance(test, float | int) or not 0 < test < 1:
        raise DataError(f"test is {test!r}: name a split, or give a fraction between 0 and 1")
    return Splits(*hold_out(parts[0], round(test * len(parts[0]))))


def take(data: SomeSamples, rows: int) -> SomeSamples:
    """``rows`` random samples of ``data`` in its order, the same ones every time; a smaller
    ``rows`` takes part of what a larger one takes. Raises DataError unless
    ``1 <= rows <= len(data)``.
    """
    return data.subset(_chosen("take", data, rows, most=len(data)))


def _chosen(purpose: str, data: Samples, rows: int, *, most: int) -> NDArray[np.int64]:
    if not 1 <= rows <= most:
        raise DataError(f"{purpose} of {rows} rows from {len(data)}: give 1 .. {most}")
    ids = np.arange(len(data), dtype=np.int64)
    return np.sort(order(ids, _SEED, stream(purpose))[:rows])
