"""Raw images, or texts, to a model's inputs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frugalkd.data.images import fitted
from frugalkd.data.text import TextBatch, tokenize
from frugalkd.errors import AccessRefused, DataError
from frugalkd.files.parsing import one_line

LARGEST_SHAPE = 1 << 26
"""Values of an input image: 4096 x 4096 pixels in colour fit."""


@dataclass(frozen=True)
class Preprocess:
    """Images in, normalised float32 (N, C, H, W) out, with the numbers of the training data.

    Accepts uint8 pixels as arrays or tensors: (N, H, W), (N, H, W, C), (N, C, H, W), or one image
    without N; PIL images, or a list of any of these. Tensors of floats in [0, 1] are read as
    pixels / 255. An image of another size is refused, but PIL images are resized (bilinear) and
    converted to the model's channels.

    Attributes:
        shape: (C, H, W) of an image.
        mean, std: one number per channel, on the [0, 1] scale.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        values = math.prod(self.shape)
        if len(self.shape) != 3 or min(self.shape) < 1 or values > LARGEST_SHAPE:
            raise ValueError(f"a shape of {values} values")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError("mean and std do not fit the shape")

    def __call__(self, images: Any) -> Tensor:
        """float32 (N, C, H, W). Raises DataError for images that do not fit."""
        return self.normalise(self.pixels(images))

    def normalise(self, pixels: Tensor) -> Tensor:
        """What training did to uint8 (N, C, H, W): (p / 255 - mean) / std, float32."""
        # Computed as ImageData does, so that the numbers are the same to the last bit.
        deviation = torch.tensor(self.std, dtype=torch.float64)
        shift = torch.tensor(self.mean, dtype=torch.float64) / deviation
        scale = 1 / (255 * deviation)
        scale, shift = (t.float()[:, None, None] for t in (scale, shift))
        return pixels.to(torch.float32).mul_(scale).sub_(shift)

    def pixels(self, images: Any) -> Tensor:
        """``images`` as (N, C, H, W) on the scale 0 .. 255: uint8, or float32 where floats came.
        Raises DataError for images that do not fit."""
        if _is_pil(images):
            images = [images]
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            arrays = (np.array(fitted(each, self.shape)) if _is_pil(each) else each
                      for each in images)  # fmt: skip
            parts = [self.pixels(array) for array in arrays]
            return torch.cat(parts) if parts else torch.empty((0, *self.shape), dtype=torch.uint8)
        if isinstance(images, Tensor):
            tensor = images.detach().cpu()
        elif isinstance(images, np.ndarray):
            if images.dtype.kind not in "uif":
                raise DataError(f"images of type {images.dtype}: give uint8 pixels")
            writable = images if images.flags.writeable else images.copy()
            tensor = torch.from_numpy(np.ascontiguousarray(writable))
        else:
            raise DataError(f"images are a {type(images).__name__}: give an array, tensor or PIL")
        return self._arranged(_scaled(tensor))

    def _arranged(self, tensor: Tensor) -> Tensor:
        """(N, C, H, W) from any arrangement; channels first where both would fit."""
        channels, height, width = self.shape
        given, last = tuple(tensor.shape), (height, width, channels)
        if given in (self.shape, last) or (channels == 1 and given == (height, width)):
            tensor = tensor[None]
        rows = tuple(tensor.shape[1:])
        if rows == self.shape:
            return tensor
        if rows == last:
            return tensor.permute(0, 3, 1, 2)
        if rows == (height, width) and channels == 1:
            return tensor[:, None]
        raise DataError(
            f"images of shape {given}: the model takes {channels} x {height} x {width}, as "
            "(N, H, W, C) or (N, C, H, W)" + (" or (N, H, W)" if channels == 1 else "")
        )


def _scaled(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.dtype.is_floating_point:
        raise DataError(f"images of type {tensor.dtype}: give uint8, or floats in [0, 1]")
    if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
        raise DataError(
            f"float images are in {float(tensor.min()):.3g} .. {float(tensor.max()):.3g}: give "
            "uint8, or floats in [0, 1] (not normalised: that happens here)"
        )
    return tensor.float() * 255


@dataclass(frozen=True)
class TextPreprocess:
    """Texts in, ``input_ids`` and ``attention_mask`` out, by the tokenizer of the training.

    Attributes:
        tokenizer, max_length, download: as in :func:`frugalkd.data.text.tokenize`.
        trusted: whether the user named the tokenizer, so that a folder of it may be read.
    """

    tokenizer: str
    max_length: int
    download: bool = False
    trusted: bool = True

    def batches(self, texts: Any, batch_size: int = 1000) -> Iterator[TextBatch]:
        """Batches int64 (B, L), each padded to its longest row, in the order of ``texts``. Raises
        AccessRefused: the tokenizer is a folder that the user has not named; DataError, ModelError.
        """
        if not self.trusted and os.path.isdir(self.tokenizer):
            raise AccessRefused(
                f"model.json names the tokenizer in the folder {one_line(self.tokenizer)}: a "
                "folder is read only where you name it (--tokenizer FOLDER, in Python "
                "tokenizer=...)"
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        strange = [type(text).__name__ for text in texts if not isinstance(text, str)]
        if strange:
            raise DataError(f"a text is a {strange[0]}: give strings")
        tokens = tokenize(texts, self.tokenizer, max_length=self.max_length, download=self.download)
        for start in range(0, len(texts), batch_size):
            yield tokens.padded(np.arange(start, min(start + batch_size, len(texts))))


def _is_pil(image: Any) -> bool:
    try:
        from PIL.Image import Image
    except ImportError:
        return False
    return isinstance(image, Image)
