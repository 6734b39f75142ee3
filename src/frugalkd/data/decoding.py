"""Encoded pictures (PNG, JPEG ...) to pixels, on Pillow. Files are not trusted."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from frugalkd.errors import DataError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import require_extra

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the files that are taken for pictures, in lower case."""

_FREE_PIXELS, _RATIO = 40_000_000, 200
"""Pixels that a picture may have in any case, and how many times the size of its file the pixels of
a larger one may take (3 bytes each). Pillow's own limit, 89 million pixels, holds as well."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_ORIENTATION = 0x0112
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def require_pillow() -> None:
    """Raises DataError where Pillow is not installed."""
    require_extra("images", "pictures need Pillow", DataError, "PIL")


def opened(encoded: bytes | Path) -> Image:
    """A picture whose header was read, and no pixel yet; to be closed by the caller.

    Raises DataError, without saying where, for what is not a picture of a known format, or one
    that is far too large, in pixels or for its file.
    """
    from PIL import Image

    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_formats())
            pixels = image.width * image.height
            if pixels > _FREE_PIXELS and 3 * pixels > _RATIO * _size_of(encoded):
                image.close()
                raise DataError(f"{pixels:,} pixels in {_size_of(encoded):,} bytes: too many")
            return image
    except (OSError, SyntaxError, ValueError, TypeError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no picture of a known format"
        raise DataError(reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError("too many pixels") from None


def _size_of(encoded: bytes | Path) -> int:
    return len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def decoded(encoded: bytes | Path, shape: tuple[int, int, int]) -> Tensor:
    """uint8 (channels, height, width) of ``shape``: see :func:`fitted`. Raises DataError, without
    saying where, for what cannot be decoded."""
    with opened(encoded) as image:
        try:
            pixels = np.array(fitted(image, shape))
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
            raise DataError(f"cannot be decoded ({one_line(error)})") from None
    return torch.from_numpy(pixels.reshape(*shape[1:], shape[0])).permute(2, 0, 1)


def fitted(image: Image, shape: tuple[int, int, int]) -> Image:
    """``image`` in the channels (1, 3 or 4) and the size of ``shape`` (C, H, W): turned upright as
    its EXIF says, converted, and resized (bilinear, antialiased), its proportions not kept.

    Raises DataError for other channels, and for pixels of more than 8 bits.
    """
    from PIL.Image import Resampling
    from PIL.ImageOps import exif_transpose

    channels, height, width = shape
    if channels not in _MODES:
        raise DataError(f"pictures have 1, 3 or 4 channels, the model takes {channels}")
    if image.mode.startswith(("I", "F")):
        raise DataError(f"pixels of mode {image.mode}, not of 8 bits: convert it")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    return image
