"""Columns that are too large for memory: mapped from nameless files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.files.atomic import allocate
from frugalkd.files.writing import make_folder, writing

MAPPED_FROM = 1 << 32
"""Bytes of all columns together from which on they lie in files, where there is a folder for them:
the ledger of 215 million samples."""


def filled_columns(
    samples: int, wanted: Mapping[str, tuple[str, float]], folder: Path | None
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
    make_folder(folder)
    columns: dict[str, NDArray] = {}
    # The mappings outlive the names.
    with writing(folder), tempfile.TemporaryDirectory(prefix=".ledger-", dir=folder) as nameless:
        for name, (dtype, fill) in wanted.items():
            path = Path(nameless) / name
            allocate(path, samples * np.dtype(dtype).itemsize)
            column = np.memmap(path, dtype=dtype, mode="r+", shape=(samples,))
            if fill != 0:  # what was set aside is zeros
                column[:] = fill
            columns[name] = column
    return columns
