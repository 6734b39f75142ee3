"""Pictures: in RAM as uint8, or encoded and decoded on access."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.mixing import Mix
from frugalkd.data.samples import Samples, Splits, located, splits_of
from frugalkd.data.transforms import Transform, check_transforms, transformed
from frugalkd.errors import DataError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.draws import hash64, stream
from frugalkd.runtime.imports import require_extra
from frugalkd.runtime.process import machine_bytes
from frugalkd.runtime.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the files that are taken for pictures, in lower case."""

_USUAL = {1: (0.5, 0.5), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}  # mean and std
_STREAM, _TRANSFORMS = stream("augmentation"), stream("transforms")
_FIELD = np.uint64(21)  # bits of one offset's draw; the flip takes the top bit
_FREE_PIXELS, _RATIO = 40_000_000, 200
"""Pixels that any picture may have, and how many times the size of its file those of a larger one
may take (3 bytes each). Pillow's own limit, 89 million pixels, holds as well."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_LARGEST_SIDE = 4096
_MEASURED = 16  # pictures whose size is read


@dataclass(frozen=True)
class Augmentation(Settings):
    """How a picture is changed at random, as a function of ``(seed, id, view)`` only.

    Attributes:
        crop: pixels of black padding on each side before a random crop back to the size.
        flip: horizontal flip with probability 1/2.
        transforms: of torchvision, after both; their draws are those of (seed, id, view), too.
        mix: mixup or CutMix, after all of these.

    Raises:
        SettingError: a negative crop, or a transform that is not known.
    """

    crop: Annotated[int, "0 or more"] = 0
    flip: bool = False
    transforms: tuple[Transform, ...] = ()
    mix: Mix | None = None

    def __str__(self) -> str:
        """Part of a store's identity, and older than ``transforms`` and ``mix``."""
        more = ""
        if self.transforms:
            more = f", transforms={self.transforms} of torchvision {version('torchvision')}"
        if self.mix is not None:
            more += f", {self.mix}"
        return f"Augmentation(crop={self.crop}, flip={self.flip}{more})"


def augment(
    pixels: NDArray[np.uint8], augmentation: Augmentation, bits: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """``pixels`` (B, C, H, W), cropped and flipped by the 64 random ``bits`` (B,): bits 0-20 draw
    the row offset, 21-41 the column offset, 63 the flip."""
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


def rows_at_once(shape: Sequence[int]) -> int:
    """How many pictures of ``shape`` (C, H, W) are evaluated together: 1,000, or what takes 256 MiB
    in float32."""
    return max(1, min(1000, (1 << 28) // (4 * math.prod(shape))))


class Pictures(Samples):
    """Pictures of one ``shape`` (channels, height, width), augmented by (seed, id, view), in a
    subset by the new id, and normalised as those of :class:`ImageData`. Raises DataError for
    numbers that do not fit."""

    def __init__(
        self,
        labels: Tensor,
        classes: tuple[str, ...],
        *,
        shape: Sequence[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(labels, classes)
        if len(mean) != shape[0] or len(std) != shape[0] or min(std) <= 0:
            raise DataError(
                f"mean {mean} and std {std}: give one number for each of the {shape[0]} channels, "
                "std above 0"
            )
        channels, height, width = shape
        self.shape = (channels, height, width)
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation, self.seed = augmentation or Augmentation(), seed
        deviation = torch.tensor(std, dtype=torch.float64)
        scale, shift = 1 / (255 * deviation), torch.tensor(mean, dtype=torch.float64) / deviation
        self._scale, self._shift = (t.float()[:, None, None] for t in (scale, shift))

    def original_size(self) -> tuple[int, int] | None:
        """The largest (height, width) of the stored pictures, of a few of them; None where they
        were not resized."""
        return None

    @abstractmethod
    def pixels(self, rows: Tensor) -> Tensor:
        """uint8 (rows, channels, height, width), not augmented; the caller may write to it."""

    def with_augmentation(self, augmentation: Augmentation, seed: int = 0) -> Self:
        """The same samples (memory is shared) under another augmentation. Raises DataError: its
        transforms cannot be made for them, or torchvision is not installed."""
        check_transforms(augmentation.transforms, self.shape)
        return self._with(augmentation=augmentation, seed=seed)

    def without_augmentation(self) -> Self:
        return self._with(augmentation=Augmentation())

    def __getitem__(self, id: int) -> tuple[Tensor, Any]:
        """``(x float32 (C, H, W), y)`` of view 0."""
        return self.view(id, 0)

    def view(self, id: int, view: int) -> tuple[Tensor, Any]:
        """``(x float32 (C, H, W), y)``: the sample as augmented for this view (an int >= 0); y is
        an int, or (labels,)."""
        x, y = self.rendered([id], [view])
        return x[0], int(y[0]) if y.ndim == 1 else y[0]

    def rendered(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        """``(x float32 (B, C, H, W), y)`` for int64 ``ids`` and ``views``, both (B,); y is of them.
        Raises IndexError for ids outside ``0 .. N - 1``."""
        rows, views = self.rows(ids), np.asarray(views, dtype=np.int64)
        x = self._plain(rows, views)
        if (mix := self.augmentation.mix) is not None:
            where = np.flatnonzero(mix.mixed(self.seed, rows.numpy(), views))
            own, at = rows.numpy()[where], views[where]
            partners = torch.from_numpy(mix.partners(self.seed, own, at, len(self)))
            x[where] = mix.together(x[where], self._plain(partners, at), self.seed, own, at)
        return x, self.labels.index_select(0, rows)

    def _plain(self, rows: Tensor, views: NDArray[np.int64]) -> Tensor:
        pixels = self.pixels(rows)
        if self.augmentation.crop or self.augmentation.flip:
            bits = hash64(self.seed, _STREAM, rows.numpy(), views)
            pixels = torch.from_numpy(augment(pixels.numpy(), self.augmentation, bits))
        if transforms := self.augmentation.transforms:
            bits = hash64(self.seed, _TRANSFORMS, rows.numpy(), views)
            pixels = transformed(pixels, transforms, bits)
        return pixels.to(torch.float32).mul_(self._scale).sub_(self._shift)

    @property
    def mixed(self) -> Callable[[Any, Any], NDArray[np.bool_]] | None:
        """Which of the ``views`` int64 (B,) of the samples ``ids`` (B,) are mixed with others; None
        where none is."""
        mix = self.augmentation.mix
        return None if mix is None else partial(mix.mixed, self.seed)


@final
class ImageData(Pictures):
    """Images ``uint8 (N, C, H, W)`` and labels ``int64 (N,)`` in RAM, normalised on the way out.

    ``mean`` and ``std`` hold one number a channel, on the [0, 1] scale; a pixel p becomes
    ``p / (255 std) - mean / std`` in float32. ``origin``: the same samples before they were
    decoded. Raises DataError for wrong shapes, dtypes, lengths or labels outside
    ``0 .. len(classes) - 1``.
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
        if images.dtype != torch.uint8 or images.ndim != 4 or images.device.type != "cpu":
            raise DataError(
                f"images are {images.dtype} {tuple(images.shape)} on {images.device}: "
                "give uint8 (N, C, H, W) in main memory"
            )
        shape = images.shape[1:]
        super().__init__(
            labels, classes, shape=shape, mean=mean, std=std, augmentation=augmentation, seed=seed
        )
        if len(labels) != len(images):
            raise DataError(f"{len(labels)} labels for {len(images)} images: give one for each")
        self.images, self._origin = images.contiguous(), origin
        self.row_bytes = 4 * math.prod(shape) + 8  # of a batch: float32 pixels and the label

    batch = Pictures.rendered

    def names(self, ids: Any) -> list[str] | None:
        return None if self._origin is None else self._origin.names(ids)

    def original_size(self) -> tuple[int, int] | None:
        return None if self._origin is None else self._origin.original_size()

    def pixels(self, rows: Tensor) -> Tensor:
        # index_select is an order of magnitude faster than images[rows] on uint8.
        return self.images.index_select(0, rows)

    def subset(self, ids: Any) -> ImageData:
        rows = self.rows(ids)
        origin = None if self._origin is None else self._origin.subset(rows)
        return self._with(images=self.pixels(rows), labels=self.labels[rows], _origin=origin)

    def digest(self) -> str:
        """SHA-256 (hex) of the pixels and labels; the augmentation does not enter."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


class Encoded(Protocol):
    """Encoded pictures by row. Sent to worker processes, and so picklable."""

    def __call__(self, row: int) -> bytes | Path:
        """The picture of a row: its bytes, or its file."""
        ...

    def name(self, row: int) -> str: ...

    def feed(self, digest: Any, rows: NDArray[np.int64]) -> None:
        """Adds the pictures of ``rows`` to ``digest``: of more than 1 GiB, parts of each."""


@final
class LazyImages(Pictures):
    """Pictures decoded on access: to RGB or grey, resized to ``shape``, augmented, normalised. The
    pixels of a view are those that ImageData would give. Raises DataError as ImageData does, and
    on access where a picture cannot be decoded."""

    def __init__(
        self, encoded: Encoded, labels: Tensor, classes: tuple[str, ...], **form: Any
    ) -> None:
        super().__init__(labels, classes, **form)
        self._encoded, self._rows = encoded, np.arange(len(labels))

    def pixels(self, rows: Tensor) -> Tensor:
        made = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        for place, row in enumerate(self._rows[rows.numpy()].tolist()):
            try:
                made[place] = decoded(self._encoded(row), self.shape)
            except DataError as error:
                raise DataError(f"{self._encoded.name(row)}: {error}") from None
        return made

    def subset(self, ids: Any) -> LazyImages:
        rows = self.rows(ids)
        return self._with(labels=self.labels[rows], _rows=self._rows[rows.numpy()])

    def names(self, ids: Any) -> list[str]:
        return [self._encoded.name(row) for row in self._rows[self.rows(ids).numpy()].tolist()]

    def original_size(self) -> tuple[int, int]:
        """Reads headers only. Raises DataError."""
        sizes = []
        for row in self._rows[:: max(1, len(self) // _MEASURED)].tolist():
            with located(self._encoded.name(row)), opened(self._encoded(row)) as image:
                sizes.append(image.size)
        return max(height for _, height in sizes), max(width for width, _ in sizes)

    def digest(self) -> str:
        """SHA-256 (hex) of the shape, the labels and the encoded pictures: of files with their
        names; of more than 1 GiB, parts of each."""
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


def picture_splits(
    parts: Sequence[Encoded],
    labels: Sequence[Tensor],
    classes: tuple[str, ...],
    test: Any,
    *,
    size: int | list[int] | None,
    channels: int,
    mean: list[float] | None,
    std: list[float] | None,
    in_memory: bool,
) -> Splits:
    """The training and the test part, or one part of which ``test`` is held out, read as
    :func:`frugalkd.data.named.load_image_folder` says. Raises DataError for impossible settings,
    and for a first picture that cannot be read."""
    with located(parts[0].name(0)):
        shape = _shape(size, channels, parts[0](0))
    means, deviations = (
        tuple(np.atleast_1d(usual if given is None else given).tolist())
        for given, usual in zip((mean, std), _USUAL[channels], strict=True)
    )
    made = [
        LazyImages(part, own, classes, shape=shape, mean=means, std=deviations)
        for part, own in zip(parts, labels, strict=True)
    ]
    return splits_of([part.in_memory() if in_memory else part for part in made], test)


def _shape(size: int | list[int] | None, channels: int, first: bytes | Path) -> Sequence[int]:
    if channels not in (1, 3):
        raise DataError(f"channels is {channels}: give 3 (colour) or 1 (grey)")
    if size is None:
        with opened(first) as image:
            width, height = image.size
        if max(width, height) > _LARGEST_SIDE:
            raise DataError(f"a picture of {width} x {height}: set size, which all are resized to")
        return channels, height, width
    sides = size if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(type(s) is int and 0 < s <= _LARGEST_SIDE for s in sides):
        raise DataError(f"size is {size}: give a side, or [height, width], of 1 .. 4096 pixels")
    return channels, sides[0], sides[1]


def require_pillow() -> None:
    """Raises DataError where Pillow is not installed."""
    require_extra("images", "pictures need Pillow", DataError, "PIL")


@contextmanager
def opened(encoded: bytes | Path) -> Iterator[Image]:
    """A picture whose header alone was read. Raises DataError, which does not name it, for other
    files, for pictures too large in pixels or for their file, and where decoding fails inside."""
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
        with image:
            pixels = image.width * image.height
            size = len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size
            if pixels > _FREE_PIXELS and 3 * pixels > _RATIO * size:
                raise DataError(f"{pixels:,} pixels in {size:,} bytes: too many")
            yield image
    except UnidentifiedImageError:
        raise DataError("no picture of a known format") from None
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or f"cannot be decoded ({one_line(error)})"
        raise DataError(reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError("too many pixels") from None


def decoded(encoded: bytes | Path, shape: Sequence[int]) -> Tensor:
    """uint8 (channels, height, width): see :func:`fitted`. Raises DataError."""
    with opened(encoded) as image:
        pixels = np.array(fitted(image, shape))
    return torch.from_numpy(pixels.reshape(*shape[1:], shape[0])).permute(2, 0, 1)


def fitted(image: Image, shape: Sequence[int]) -> Image:
    """``image`` in the channels (1, 3 or 4) and the size of ``shape`` (C, H, W): turned upright as
    its EXIF says, converted, and resized (bilinear, antialiased), its proportions not kept. Raises
    DataError for other channels, and for pixels of more than 8 bits."""
    from PIL.Image import Resampling
    from PIL.ImageOps import exif_transpose

    channels, height, width = shape
    if channels not in _MODES:
        raise DataError(f"pictures have 1, 3 or 4 channels, the model takes {channels}")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"pixels of mode {image.mode}, not of 8 bits: convert it")
    image = exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    return image
