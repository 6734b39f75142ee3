"""Images that a user names: a data set, a folder of pictures, an array in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.data import DATA, ImageData, load_data
from frugalkd.data.decoding import ENDINGS, opened, require_pillow
from frugalkd.errors import DataError, nearest


@dataclass(frozen=True)
class Images:
    """Raw images in any form that ``Preprocess`` takes, their names, int64 labels or None."""

    pixels: Any
    names: Sequence[str]
    labels: NDArray[np.int64] | None


def images_from(spec: str, classes: Sequence[str]) -> Images:
    """The images that ``spec`` names: a data set of ours (its test part), a folder of pictures, or
    an ``.npy`` file. In a folder whose subfolders all are ``classes``, those are the labels.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read.
    """
    path = Path(spec)
    if spec in DATA:
        test = load_data(spec).test
        if not isinstance(test, ImageData):
            raise DataError(f"{spec} is read by a recipe: name its folder of pictures here")
        labels = test.labels.numpy()
        return Images(test.images, [str(id) for id in range(len(test))], labels)
    if path.is_dir():
        return _folder(path, classes)
    if path.suffix == ".npy":
        return _array(path)
    raise DataError(
        f"no data {spec!r}: {nearest(spec, DATA)}; or name a folder of pictures, or a FILE.npy"
    )


def _array(path: Path) -> Images:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path} is not an array of numbers in numpy's format") from None
    if array.ndim < 3:
        array = array[None]
    return Images(array, [str(id) for id in range(len(array))], None)


def _folder(path: Path, classes: Sequence[str]) -> Images:
    require_pillow()
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise DataError(f"no pictures in {path} (known are {', '.join(ENDINGS)})")
    parents = [file.relative_to(path).parts[0] for file in files]
    names = [file.relative_to(path).as_posix() for file in files]
    labels = None
    if classes and all(parent in classes for parent in parents):
        places = {name: place for place, name in enumerate(classes)}
        labels = np.array([places[parent] for parent in parents], dtype=np.int64)
    return Images([_picture(file) for file in files], names, labels)


def _picture(file: Path) -> Any:
    try:
        with opened(file) as image:
            image.load()
            return image.copy()
    except (DataError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} is not a readable picture: {error}") from None
