"""Images that a user names: a data set, a folder of pictures, an array in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data import DATA, ImageData, load_data
from frugalkd.data.class_names import labels_by_name
from frugalkd.data.decoding import ENDINGS, decoded, require_pillow
from frugalkd.errors import DataError, nearest

Read = Callable[[slice], tuple[Any, dict[int, str]]]
"""Of some rows: the images, in any form that ``Preprocess`` takes, and why others of them, by their
place in the slice, cannot be read. Those are left out of the images."""


@dataclass(frozen=True)
class Images:
    """Raw images, read a batch at a time, their names, int64 labels or None."""

    read: Read
    names: Sequence[str]
    labels: NDArray[np.int64] | None


def images_from(
    spec: str, classes: Sequence[str], shape: tuple[int, int, int], *, download: bool = False
) -> Images:
    """The images that ``spec`` names: a data set of ours (its test part), a folder of pictures, or
    an ``.npy`` file. In a folder whose subfolders all are ``classes``, those are the labels; those
    of a data set count the ``classes`` by their names.

    Args:
        spec: as above.
        classes: of the model.
        shape: (channels, height, width) that pictures are resized to as they are read.
        download: as of :func:`frugalkd.data.load_data`.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read, or is of other classes.
    """
    path = Path(spec)
    if spec in DATA:
        test = load_data(spec, download=download).test
        if not isinstance(test, ImageData):
            raise DataError(f"{spec} is read by a recipe: name its folder of pictures here")
        labels = labels_by_name(test.labels.numpy(), test.classes, classes, spec)
        return _of_array(test.images, labels)
    if path.is_dir():
        return _folder(path, classes, shape)
    if path.suffix == ".npy":
        return _of_array(_array(path, shape), None)
    raise DataError(
        f"no data {spec!r}: {nearest(spec, DATA)}; or name a folder of pictures, or a FILE.npy"
    )


def _of_array(array: Any, labels: NDArray[np.int64] | None) -> Images:
    names = [str(id) for id in range(len(array))]
    return Images(lambda rows: (array[rows], {}), names, labels)


def _array(path: Path, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Mapped: its header can claim no more than the file holds, and batches are read from it."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path} is not an array of numbers in numpy's format") from None
    if not isinstance(array, np.ndarray):  # an archive of several, under another ending
        raise DataError(f"{path} is not an array of numbers in numpy's format")
    channels, height, width = shape
    one = array.shape in (shape, (height, width, channels)) or array.ndim < 3
    return array[None] if one else array


def _folder(path: Path, classes: Sequence[str], shape: tuple[int, int, int]) -> Images:
    require_pillow()
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file()
    )
    if not files:
        raise DataError(f"no pictures in {path} (known are {', '.join(ENDINGS)})")
    parents = [file.relative_to(path).parts[0] for file in files]
    names = [file.relative_to(path).as_posix() for file in files]
    labels = None
    if classes and all(parent in classes for parent in parents):
        places = {name: place for place, name in enumerate(classes)}
        labels = np.array([places[parent] for parent in parents], dtype=np.int64)
    return Images(partial(_read_files, files, shape), names, labels)


def _read_files(
    files: Sequence[Path], shape: tuple[int, int, int], rows: slice
) -> tuple[torch.Tensor, dict[int, str]]:
    pixels, failed = [], {}
    for place, file in enumerate(files[rows]):
        try:
            pixels.append(decoded(file, shape))
        except DataError as error:
            failed[place] = str(error)
    empty = torch.empty((0, *shape), dtype=torch.uint8)
    return (torch.stack(pixels) if pixels else empty), failed
