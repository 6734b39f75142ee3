"""Small image sets held in RAM as uint8, with an augmentation that is a pure function of
``(seed, id, view)``: the same pixels whether a sample is read alone or in a batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.draws import hash64, stream
from frugalkd.errors import DataError

_STREAM = stream("augmentation")
_FIELD = np.uint64(21)  # bits of one offset's draw; the flip takes the top bit


@dataclass(frozen=True)
class Augmentation:
    """A random crop and a random flip, as functions of ``(seed, id, view)`` only.

    ``crop``: pixels of zero (black) padding on each side before a random crop back to the size.
    ``flip``: horizontal flip with probability 1/2. Raises DataError for a negative crop.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise DataError(f"augmentation.crop is {self.crop}: give 0 or more pixels")


@final
class ImageData(Dataset[tuple[Tensor, int]]):
    """Images ``uint8 (N, C, H, W)`` and labels ``int64 (N,)`` in RAM, normalised on the way out.

    ``mean`` and ``std`` hold one number a channel, on the [0, 1] scale; a pixel p becomes
    ``p / (255 std) - mean / std`` in float32. Raises DataError for wrong shapes, dtypes, lengths
    or labels outside ``0 .. len(classes) - 1``.
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
    ) -> None:
        _check(images, labels, classes, mean, std)
        self.images = images.contiguous()
        self.labels = labels.contiguous()
        self.classes = tuple(classes)
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        deviation = torch.tensor(std, dtype=torch.float64)
        scale, shift = 1 / (255 * deviation), torch.tensor(mean, dtype=torch.float64) / deviation
        self._scale, self._shift = (t.float()[:, None, None] for t in (scale, shift))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one sample."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def row_bytes(self) -> int:
        """What a row of :meth:`batch` takes, float32 pixels and the label."""
        return 4 * self.images[0].numel() + 8 if len(self) else 8

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, id: int) -> tuple[Tensor, int]:
        """``(x float32 (C, H, W), y)`` of view 0. Raises IndexError outside ``0 .. N - 1``."""
        return self.view(id, 0)

    def view(self, id: int, view: int) -> tuple[Tensor, int]:
        """``(x float32 (C, H, W), y)``: the sample as augmented for this view (an int >= 0)."""
        x, y = self.batch([id], [view])
        return x[0], int(y[0])

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        """``(x float32 (B, C, H, W), y int64 (B,))`` for int64 ``ids`` and ``views``, both (B,).

        Row i holds the pixels of ``view(ids[i], views[i])``, whatever else is in the batch.
        Raises IndexError for ids outside ``0 .. N - 1``.
        """
        rows = self._rows(ids)
        # index_select is an order of magnitude faster than images[rows] on uint8.
        pixels = self.images.index_select(0, rows)
        if self.augmentation.crop or self.augmentation.flip:
            bits = hash64(self.seed, _STREAM, rows.numpy(), np.asarray(views, dtype=np.int64))
            pixels = torch.from_numpy(augment(pixels.numpy(), self.augmentation, bits))
        x = pixels.to(torch.float32).mul_(self._scale).sub_(self._shift)
        return x, self.labels.index_select(0, rows)

    def subset(self, ids: Any) -> ImageData:
        """The samples ``ids`` as a data set of its own, renumbered 0, 1, ... in the order given.

        A sample's augmentation is keyed by its id *within the subset* (its position there), not by
        the id it had here: the same picture is augmented differently in different subsets.
        Raises IndexError for ids outside ``0 .. N - 1``.
        """
        rows = self._rows(ids)
        return self._replaced(
            self.images.index_select(0, rows),
            self.labels.index_select(0, rows),
            self.augmentation,
            self.seed,
        )

    def with_augmentation(self, augmentation: Augmentation, seed: int = 0) -> ImageData:
        """The same samples (memory is shared) under another augmentation."""
        return self._replaced(self.images, self.labels, augmentation, seed)

    def digest(self) -> str:
        """SHA-256 (hex) of the pixels and labels; the augmentation does not enter."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def _rows(self, ids: Any) -> Tensor:
        # Copied, because torch warns of arrays that it may not write to.
        rows = np.asarray(ids).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"sample ids must lie in 0 .. {len(self) - 1}")
        return torch.from_numpy(rows)

    def _replaced(
        self, images: Tensor, labels: Tensor, augmentation: Augmentation, seed: int
    ) -> ImageData:
        return ImageData(
            images,
            labels,
            self.classes,
            mean=self.mean,
            std=self.std,
            augmentation=augmentation,
            seed=seed,
        )


def augment(
    pixels: NDArray[np.uint8], augmentation: Augmentation, bits: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """``pixels`` (B, C, H, W), cropped and flipped as the 64 random ``bits`` (B,) say.

    Bits 0-20 draw the row offset, 21-41 the column offset, 63 the flip.
    """
    crop = augmentation.crop
    if crop:
        batch, channels, height, width = pixels.shape
        # Padding the batch, not the whole set, costs a copy of B images and no memory to keep.
        padded = np.zeros((batch, channels, height + 2 * crop, width + 2 * crop), dtype=np.uint8)
        padded[:, :, crop:-crop, crop:-crop] = pixels
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = _offset(bits, crop), _offset(bits >> _FIELD, crop)
        pixels = windows[np.arange(batch), :, top, left]
    if augmentation.flip:
        flipped = (bits >> np.uint64(63)).astype(bool)
        # A masked copy: torch.where over the whole uint8 batch takes three times as long.
        pixels[flipped] = pixels[flipped][..., ::-1]
    return pixels


def _offset(bits: NDArray[np.uint64], crop: int) -> NDArray[np.int64]:
    """An offset in 0 .. 2 crop from the lowest bits of each element."""
    field = bits & ((np.uint64(1) << _FIELD) - np.uint64(1))
    return ((field * np.uint64(2 * crop + 1)) >> _FIELD).astype(np.int64)


def _check(
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
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
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
        raise DataError(
            f"labels lie in {int(labels.min())} .. {int(labels.max())}: "
            f"the {len(classes)} classes allow 0 .. {len(classes) - 1}"
        )
    if len(mean) != images.shape[1] or len(std) != images.shape[1] or min(std) <= 0:
        raise DataError(
            f"mean {mean} and std {std}: give one number for each of the {images.shape[1]} "
            "channels, std above 0"
        )
