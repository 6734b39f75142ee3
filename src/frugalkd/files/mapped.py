"""Columns that are too large for memory: mapped from nameless files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.files import StrPath
from frugalkd.files.atomic import set_aside
from frugalkd.files.opening import named, open_new, remove
from frugalkd.files.writing import make_folder, writing

MAPPED_FROM = 1 << 32
"""Bytes of all columns together from which on they lie in files, where there is a folder for them:
the ledger of 215 million samples."""


def filled_columns(
    samples: int, wanted: Mapping[str, tuple[str, float]], folder: StrPath | None
) -> dict[str, NDArray]:
    """Columns (samples,) of the ``wanted`` dtypes and first values, in memory or, where all of them
    are large and there is a ``folder``, mapped from files in it.

    Mapped columns are arrays like any other; the system writes what does not fit in memory. Their
    files lose their names here, and go with the process. Their space is taken first: a full disk is
    an error here, and not a fault later.

    Raises:
        WriteFailed: there is no room in ``folder``, or it cannot be written.
    """
    size = samples * sum(np.dtype(dtype).itemsize for dtype, _ in wanted.values())
    if folder is None or size < MAPPED_FROM:
        return {name: np.full(samples, fill, dtype) for name, (dtype, fill) in wanted.items()}
    folder = named(folder)
    make_folder(folder)
    with writing(folder):
        return {
            name: _mapped(folder / f".ledger-{secrets.token_hex(4)}", samples, dtype, fill)
            for name, (dtype, fill) in wanted.items()
        }


def _mapped(path: Path, samples: int, dtype: str, fill: float) -> NDArray:
    """One column, whose mapping outlives the name ``path`` of its file. Raises OSError."""
    with os.fdopen(open_new(path), "r+b") as file:
        remove(path)
        set_aside(file.fileno(), samples * np.dtype(dtype).itemsize)
        column = np.memmap(file, dtype=dtype, mode="r+", shape=(samples,))
    if fill != 0:  # what was set aside is zeros
        column[:] = fill
    return column
