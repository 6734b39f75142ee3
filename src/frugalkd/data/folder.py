"""Pictures in folders, one sub-folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.images import ENDINGS, Form, opened, require_pillow
from frugalkd.data.probe import files_digest
from frugalkd.data.samples import Splits, data_root, located
from frugalkd.errors import DataError, nearest
from frugalkd.files import StrPath

_NAMED = 8


def load_image_folder(
    root: StrPath | None = None,
    *,
    path: str = "",
    train: str = "train",
    test: str | float = "test",
    size: int | list[int] | None = None,
    channels: int = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    in_memory: bool = False,
) -> Splits:
    """Pictures from ``<root>/<path>/{train,test}/<class>/**``, or from ``<root>/<path>/<class>/**``
    where a part is held out.

    The classes are the sub-folders' names in order, and samples the files in order of their names.
    The header of each file is read now; a picture is decoded on access.

    Args:
        root: the data root.
        path: the folder, in the root or on its own.
        train: the sub-folder to train on.
        test: the sub-folder to evaluate on; or a fraction of the pictures that is held out, the
            same ones every time. The classes then may lie in the folder itself.
        size: a side or [height, width] that all pictures are resized to (bilinear, antialiased,
            without regard to their proportions); default that of the first one.
        channels: 3 (colour) or 1 (grey), to which all are converted.
        mean, std: a number a channel on the [0, 1] scale; default ImageNet's, 0.5 for grey.
        in_memory: decode everything now and keep the pixels: much faster where they fit.

    Raises:
        DataError: a folder is missing or empty, a class of the test part is none of train's, or
            files are no readable pictures (all are named in one error, up to eight of them).
    """
    require_pillow()
    folder = Path(path) if path and Path(path).is_dir() else data_root(root) / path
    places = [folder / train]
    if isinstance(test, str):
        places.append(folder / test)
    elif not places[0].is_dir():
        places = [folder]
    for place in places:
        if not place.is_dir():
            raise DataError(
                f"no folder {place}: put one folder of pictures a class into it, or set test to a "
                "fraction (0.2) that is held out"
            )
    classes = _folders(places[0])
    files = [_files(place, classes) for place in places]
    _refuse_unreadable([file for part in files for file, _ in part])
    parts = [Files(*each) for each in zip(places, files, strict=True)]
    labels = [torch.tensor([label for _, label in part]) for part in files]
    form = Form(size, channels, mean, std, in_memory)
    with located(folder):
        return form.splits(parts, labels, classes, test)


@final
class Files:
    """Pictures as files of a folder, by row."""

    def __init__(self, folder: Path, files: list[tuple[Path, int]]) -> None:
        self._folder, self._files = folder, [file for file, _ in files]

    def __call__(self, row: int) -> Path:
        return self._files[row]

    def name(self, row: int) -> str:
        return str(self._files[row])

    def feed(self, digest: Any, rows: NDArray[np.int64]) -> None:
        names = [os.path.relpath(self._files[row], self._folder) for row in rows.tolist()]
        digest.update(files_digest(os.fspath(self._folder), names).encode())


def _folders(place: Path) -> tuple[str, ...]:
    """The names of the classes. Raises DataError for fewer than two."""
    names = sorted(each.name for each in place.iterdir() if _visible(each) and each.is_dir())
    if len(names) < 2:
        raise DataError(f"{place} holds {len(names)} folders: one folder of pictures a class")
    return tuple(names)


def _files(place: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of ``place`` with their classes, sorted."""
    for name in _folders(place):
        if name not in classes:
            raise DataError(f"{place / name} is no class of train: {nearest(name, classes)}")
    found = []
    for label, name in enumerate(classes):
        files = sorted((place / name).rglob("*"))
        found += [(file, label) for file in files if _visible(file) and file.is_file()]
    if not found:
        raise DataError(f"{place} holds no pictures in its class folders")
    return found


def _visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "Thumbs.db"


def _refuse_unreadable(files: list[Path]) -> None:
    """Raises DataError where some are no pictures by their ending or their head."""
    wrong = []
    for file in files:
        try:
            if file.suffix.lower() not in ENDINGS:
                raise DataError("not the ending of a picture")
            opened(file).close()
        except DataError as error:
            wrong.append(f"{file} ({error})")
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise DataError(
            f"{len(wrong)} of {len(files)} files are no readable pictures, take them away: "
            f"{', '.join(wrong[:_NAMED])}{more}"
        )
