"""Small image sets held in RAM as uint8, with an augmentation that is a pure function of
``(seed, id, view)``: the same pixels whether a sample is read alone or in a batch.
"""

from __future__ import annotations

import hashlib
from typing import Any, final

import torch
from torch import Tensor

from frugalkd.data.augmentation import Augmentation, augment
from frugalkd.data.samples import Pictures
from frugalkd.errors import DataError


@final
class ImageData(Pictures):
    """Images ``uint8 (N, C, H, W)`` and labels ``int64 (N,)`` in RAM, normalised on the way out.

    ``mean`` and ``std`` hold one number a channel, on the [0, 1] scale; a pixel p becomes
    ``p / (255 std) - mean / std`` in float32. Raises DataError for wrong shapes, dtypes, lengths
    or labels outside ``0 .. len(classes) - 1``.

    ``origin``: the same samples as they were before they were decoded, where there are such.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        origin: Pictures | None = None,
    ) -> None:
        _check(images, labels)
        channels, height, width = images.shape[1:]
        super().__init__(
            labels,
            classes,
            shape=(channels, height, width),
            mean=mean,
            std=std,
            augmentation=augmentation,
            seed=seed,
        )
        self.images = images.contiguous()
        self._origin = origin

    @property
    def row_bytes(self) -> int:
        """What a row of :meth:`batch` takes, float32 pixels and the label."""
        return 4 * self.images[0].numel() + 8 if len(self) else 8

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        """A whole batch at once: see :meth:`rendered`."""
        return self.rendered(ids, views)

    def names(self, ids: Any) -> list[str] | None:
        return None if self._origin is None else self._origin.names(ids)

    def original_size(self) -> tuple[int, int] | None:
        return None if self._origin is None else self._origin.original_size()

    def pixels(self, rows: Tensor) -> Tensor:
        # index_select is an order of magnitude faster than images[rows] on uint8.
        return self.images.index_select(0, rows)

    def subset(self, ids: Any) -> ImageData:
        """The samples ``ids`` as a data set of its own, renumbered 0, 1, ... in the order given.

        A sample's augmentation is keyed by its id *within the subset* (its position there), not by
        the id it had here: the same picture is augmented differently in different subsets.
        Raises IndexError for ids outside ``0 .. N - 1``.
        """
        rows = self.rows(ids)
        return self._replaced(
            self.images.index_select(0, rows),
            self.labels.index_select(0, rows),
            self.augmentation,
            self.seed,
            None if self._origin is None else self._origin.subset(rows),
        )

    def with_augmentation(self, augmentation: Augmentation, seed: int = 0) -> ImageData:
        return self._replaced(self.images, self.labels, augmentation, seed, self._origin)

    def digest(self) -> str:
        """SHA-256 (hex) of the pixels and labels; the augmentation does not enter."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def _replaced(
        self,
        images: Tensor,
        labels: Tensor,
        augmentation: Augmentation,
        seed: int,
        origin: Pictures | None,
    ) -> ImageData:
        return ImageData(
            images,
            labels,
            self.classes,
            mean=self.mean,
            std=self.std,
            augmentation=augmentation,
            seed=seed,
            origin=origin,
        )


def _check(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.device.type != "cpu":
        raise DataError(
            f"images are {images.dtype} {tuple(images.shape)} on {images.device}: "
            "give uint8 (N, C, H, W) in main memory"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"labels are {labels.dtype} {tuple(labels.shape)}: give int64 ({len(images)},), "
            "one class an image"
        )


__all__ = ["Augmentation", "ImageData", "augment"]
