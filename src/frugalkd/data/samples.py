"""What a recipe can cut, augment and build models for: samples whose labels are known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.data.augmentation import Augmentation, augment
from frugalkd.errors import DataError
from frugalkd.runtime.draws import hash64, stream

_STREAM = stream("augmentation")


def rows_at_once(shape: Sequence[int]) -> int:
    """How many pictures of ``shape`` (C, H, W) are read together to look at them: 1,000, or what
    takes 256 MiB in float32."""
    return max(1, min(1000, (1 << 28) // (4 * math.prod(shape))))


class Samples(Dataset[Any], ABC):
    """A map-style data set whose labels are known without reading a sample.

    ``labels``: int64 (N,), in main memory; ``classes``: their names. Raises DataError for labels of
    another kind, or outside ``0 .. len(classes) - 1``.
    """

    def __init__(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise DataError(
                f"labels are {labels.dtype} {tuple(labels.shape)}: give int64 (samples,), one "
                "class a sample"
            )
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
            raise DataError(
                f"labels lie in {int(labels.min())} .. {int(labels.max())}: "
                f"the {len(classes)} classes allow 0 .. {len(classes) - 1}"
            )
        self.labels = labels.contiguous()
        self.classes = tuple(classes)

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
        """The samples ``ids`` as a data set of its own, renumbered 0, 1, ... in the order given.
        Raises IndexError for ids outside ``0 .. N - 1``."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) that tells these samples from others; no augmentation enters."""

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


class Pictures(Samples):
    """Pictures of one size, augmented by (seed, id, view) and normalised on the way out.

    ``shape``: (channels, height, width). ``mean`` and ``std`` hold one number a channel, on the
    [0, 1] scale; a pixel p becomes ``p / (255 std) - mean / std`` in float32. Raises DataError for
    labels or numbers that do not fit.
    """

    def __init__(
        self,
        labels: Tensor,
        classes: tuple[str, ...],
        *,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        super().__init__(labels, classes)
        if len(mean) != shape[0] or len(std) != shape[0] or min(std) <= 0:
            raise DataError(
                f"mean {mean} and std {std}: give one number for each of the {shape[0]} channels, "
                "std above 0"
            )
        self.shape = shape
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        deviation = torch.tensor(std, dtype=torch.float64)
        scale, shift = 1 / (255 * deviation), torch.tensor(mean, dtype=torch.float64) / deviation
        self._scale, self._shift = (t.float()[:, None, None] for t in (scale, shift))

    def original_size(self) -> tuple[int, int] | None:
        """The largest (height, width) of the pictures as they lie, of a few of them; None where
        they were not resized."""
        return None

    @abstractmethod
    def pixels(self, rows: Tensor) -> Tensor:
        """uint8 (rows, channels, height, width), as they are; the caller may write to it."""

    @abstractmethod
    def with_augmentation(self, augmentation: Augmentation, seed: int = 0) -> Self:
        """The same samples (memory is shared) under another augmentation."""

    def __getitem__(self, id: int) -> tuple[Tensor, int]:
        """``(x float32 (C, H, W), y)`` of view 0. Raises IndexError outside ``0 .. N - 1``."""
        return self.view(id, 0)

    def view(self, id: int, view: int) -> tuple[Tensor, int]:
        """``(x float32 (C, H, W), y)``: the sample as augmented for this view (an int >= 0)."""
        x, y = self.rendered([id], [view])
        return x[0], int(y[0])

    def rendered(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        """``(x float32 (B, C, H, W), y int64 (B,))`` for int64 ``ids`` and ``views``, both (B,).

        Row i holds the pixels of ``view(ids[i], views[i])``, whatever else is in the batch.
        Raises IndexError for ids outside ``0 .. N - 1``.
        """
        rows = self.rows(ids)
        pixels = self.pixels(rows)
        if self.augmentation.crop or self.augmentation.flip:
            bits = hash64(self.seed, _STREAM, rows.numpy(), np.asarray(views, dtype=np.int64))
            pixels = torch.from_numpy(augment(pixels.numpy(), self.augmentation, bits))
        x = pixels.to(torch.float32).mul_(self._scale).sub_(self._shift)
        return x, self.labels.index_select(0, rows)
