"""Pictures that stay encoded where they lie, and are decoded when a sample is asked for."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.augmentation import Augmentation
from frugalkd.data.decoding import decoded, opened
from frugalkd.data.images import ImageData
from frugalkd.data.root import located
from frugalkd.data.samples import Pictures
from frugalkd.errors import DataError
from frugalkd.runtime.process import machine_bytes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What most pretrained models were trained with."""

_LARGEST_SIDE = 4096
_LOOKED_AT = 16


class Encoded(Protocol):
    """Encoded pictures by row. Sent to worker processes, and so picklable."""

    def __call__(self, row: int) -> bytes | Path:
        """The picture of a row: its bytes, or its file."""
        ...

    def name(self, row: int) -> str:
        """What a row is called in an error."""
        ...

    def feed(self, digest: Any, rows: NDArray[np.int64]) -> None:
        """Adds the pictures of ``rows`` to ``digest``: of more than 1 GiB, parts of each."""
        ...


@final
class LazyImages(Pictures):
    """Pictures decoded on access: to RGB or grey, resized to ``shape``, augmented, normalised.

    The pixels of a view are those that ImageData would give. ``rows``: int64 (N,), where each
    sample lies in ``encoded``, or None for all in order. Raises DataError as ImageData does; a
    picture that cannot be decoded is one when it is read, by name.
    """

    def __init__(
        self,
        encoded: Encoded,
        labels: Tensor,
        classes: tuple[str, ...],
        *,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        rows: NDArray[np.int64] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            labels,
            classes,
            shape=shape,
            mean=mean,
            std=std,
            augmentation=augmentation,
            seed=seed,
        )
        self._encoded = encoded
        self._rows = np.arange(len(labels)) if rows is None else rows

    def pixels(self, rows: Tensor) -> Tensor:
        made = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        for place, row in enumerate(self._rows[rows.numpy()].tolist()):
            try:
                made[place] = decoded(self._encoded(row), self.shape)
            except DataError as error:
                raise DataError(f"{self._encoded.name(row)}: {error}") from None
        return made

    def subset(self, ids: Any) -> LazyImages:
        """As ``ImageData.subset``: renumbered, and augmented by the new ids."""
        rows = self.rows(ids)
        return self._replaced(
            self.labels[rows], self._rows[rows.numpy()], self.augmentation, self.seed
        )

    def with_augmentation(self, augmentation: Augmentation, seed: int = 0) -> LazyImages:
        return self._replaced(self.labels, self._rows, augmentation, seed)

    def names(self, ids: Any) -> list[str]:
        return [self._encoded.name(row) for row in self._rows[self.rows(ids).numpy()].tolist()]

    def original_size(self) -> tuple[int, int]:
        """Their heads are read. Raises DataError."""
        sizes = []
        for row in self._rows[:: max(1, len(self) // _LOOKED_AT)].tolist():
            with located(self._encoded.name(row)), opened(self._encoded(row)) as image:
                sizes.append(image.size)
        return max(height for _, height in sizes), max(width for width, _ in sizes)

    def digest(self) -> str:
        """SHA-256 (hex) of the shape, the labels and the pictures as they are encoded: of files
        with their names; of more than 1 GiB, parts of each."""
        digest = hashlib.sha256(repr((len(self), self.shape)).encode())
        digest.update(self.labels.numpy().data)
        self._encoded.feed(digest, self._rows)
        return digest.hexdigest()

    def in_memory(self) -> ImageData:
        """The same samples, all decoded now. Raises DataError where this machine does not have so
        much memory."""
        needed, there = len(self) * math.prod(self.shape), machine_bytes()
        if needed > there:
            raise DataError(
                f"in_memory would take {needed / 1e9:.1f} GB, and this machine has "
                f"{there / 1e9:.1f}: leave it out, or lower size"
            )
        return ImageData(
            self.pixels(torch.arange(len(self))),
            self.labels,
            self.classes,
            mean=self.mean,
            std=self.std,
            augmentation=self.augmentation,
            seed=self.seed,
            origin=self,
        )

    def _replaced(
        self,
        labels: Tensor,
        rows: NDArray[np.int64],
        augmentation: Augmentation,
        seed: int,
    ) -> LazyImages:
        return LazyImages(
            self._encoded,
            labels,
            self.classes,
            shape=self.shape,
            mean=self.mean,
            std=self.std,
            rows=rows,
            augmentation=augmentation,
            seed=seed,
        )


def picture_shape(
    size: int | list[int] | None, channels: int, first: bytes | Path
) -> tuple[int, int, int]:
    """(C, H, W) as asked: ``size`` is a side or (height, width); None takes the size of the picture
    ``first``. Raises DataError for impossible ones."""
    if channels not in (1, 3):
        raise DataError(f"channels is {channels}: give 3 (colour) or 1 (grey)")
    if size is None:
        with opened(first) as image:
            width, height = image.size
        if max(width, height) > _LARGEST_SIDE:
            raise DataError(f"a picture of {width} x {height}: set size, which all are resized to")
        return channels, height, width
    sides = [size, size] if isinstance(size, int) else list(size)
    right = [type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides]
    if len(sides) != 2 or not all(right):
        raise DataError(f"size is {size}: give a side, or [height, width], of 1 .. 4096 pixels")
    return channels, sides[0], sides[1]


def normalisation(
    channels: int, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``mean`` and ``std`` as given, else ImageNet's for colour and 0.5, 0.5 for grey."""
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
    return tuple(mean or usual[0]), tuple(std or usual[1])
