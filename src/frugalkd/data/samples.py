"""Data sets whose labels are known, their training and test parts, and where data lie."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.outputs import OUTPUTS
from frugalkd.runtime.draws import order, stream

NAME_A_ROOT = "or name the folder of the data (data.root in the recipe, or FRUGALKD_DATA)"
"""What to do about data that are not found."""


def data_root(root: StrPath | None = None) -> Path:
    """The folder of the data: ``root``, else the environment's FRUGALKD_DATA, else
    ``../shared/data`` seen from the current directory where that exists, else ``data``."""
    if root is None:
        shared = Path("..", "shared", "data")
        root = os.environ.get("FRUGALKD_DATA") or (shared if shared.is_dir() else "data")
    return Path(root)


@contextmanager
def located(where: StrPath) -> Iterator[None]:
    """Puts ``where`` in front of the message of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{os.fspath(where)}: {error}") from error


class Samples(Dataset[Any], ABC):
    """A map-style data set whose labels are known without reading a sample.

    ``labels``, in main memory: int64 (N,), one class a sample; float32 (N, targets), values to
    learn; or bool (N, labels). ``classes``: the names of the classes, the targets or the labels.
    Raises DataError for labels of another kind, outside ``0 .. len(classes) - 1``, or not finite.
    """

    def __init__(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        wide = labels.dtype in (torch.float32, torch.bool)
        if wide and labels.shape[1:] == (len(classes),):
            if labels.dtype == torch.float32:
                OUTPUTS["regression"].check(labels, np.arange(len(labels)), len(classes))
            self.labels, self.classes = labels.contiguous(), tuple(classes)
            return
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise DataError(
                f"labels are {labels.dtype} {tuple(labels.shape)}: give int64 (samples,), one "
                "class a sample, float32 (samples, targets) or bool (samples, labels), with a "
                "name for each"
            )
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
            raise DataError(
                f"labels lie in {int(labels.min())} .. {int(labels.max())}: "
                f"the {len(classes)} classes allow 0 .. {len(classes) - 1}"
            )
        self.labels, self.classes = labels.contiguous(), tuple(classes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, id: int) -> Any:
        """``(inputs, label)`` of one sample. Raises IndexError outside ``0 .. N - 1``."""

    @abstractmethod
    def subset(self, ids: Any) -> Self:
        """The samples ``ids`` as a data set, renumbered 0, 1, ... in the order given. Raises
        IndexError for ids outside ``0 .. N - 1``."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of these samples, without their augmentation."""

    def without_augmentation(self) -> Self:
        """These samples as they are."""
        return self

    def names(self, ids: Any) -> list[str] | None:
        """Where the samples ``ids`` come from, such as the paths of their files; None where that
        is not known. Raises IndexError for ids outside ``0 .. N - 1``."""
        return None

    def rows(self, ids: Any) -> Tensor:
        """``ids`` as an int64 tensor (rows,). Raises IndexError outside ``0 .. N - 1``."""
        # Copied, because torch warns of arrays that it may not write to.
        rows = np.asarray(ids).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"sample ids must lie in 0 .. {len(self) - 1}")
        return torch.from_numpy(rows)

    def _with(self, **attributes: Any) -> Self:
        """A copy, all else shared."""
        made = copy(self)
        vars(made).update(attributes)
        return made


SomeSamples = TypeVar("SomeSamples", bound=Samples)


@dataclass(frozen=True)
class Splits:
    """The training and the test part of a named data set, neither augmented."""

    train: Samples
    test: Samples


def splits_of(parts: Sequence[Samples], test: object) -> Splits:
    """The two ``parts``; or the only one, of which ``test``, a fraction in (0, 1), is held out.
    Raises DataError for any other ``test``, or where one of both would be empty."""
    if len(parts) == 2:
        return Splits(*parts)
    if isinstance(test, bool) or not isinstance(test, float | int) or not 0 < test < 1:
        raise DataError(f"test is {test!r}: name a split, or give a fraction between 0 and 1")
    return Splits(*hold_out(parts[0], round(test * len(parts[0]))))


def hold_out(data: SomeSamples, rows: int) -> tuple[SomeSamples, SomeSamples]:
    """``(train, validation)``: ``rows`` random samples held out, the same ones every time. Both
    keep the order of ``data``; the validation part is not augmented. Raises DataError unless
    ``1 <= rows < len(data)``."""
    chosen = _chosen("hold-out", data, rows, most=len(data) - 1)
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    return data.subset(rest), data.subset(chosen).without_augmentation()


def take(data: SomeSamples, rows: int) -> SomeSamples:
    """``rows`` random samples of ``data`` in its order, the same ones every time; a smaller
    ``rows`` gives a part of what a larger one gives. Raises DataError for another ``rows`` than
    ``1 .. len(data)``."""
    return data.subset(_chosen("take", data, rows, most=len(data)))


def _chosen(purpose: str, data: Samples, rows: int, *, most: int) -> NDArray[np.int64]:
    if not 1 <= rows <= most:
        raise DataError(f"{purpose} of {rows} rows from {len(data)}: give 1 .. {most}")
    # A fixed seed: the same split in every run, so that runs can be compared.
    return np.sort(order(np.arange(len(data)), 0, stream(purpose))[:rows])
