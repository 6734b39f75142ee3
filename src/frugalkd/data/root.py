"""Where the data lie, and errors that say so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frugalkd.errors import DataError
from frugalkd.files import StrPath

NAME_A_ROOT = "or name the folder of the data (data.root in the recipe, or FRUGALKD_DATA)"
"""What to do about data that are not found."""


def data_root(root: StrPath | None = None) -> Path:
    """The folder of the data: ``root``, else the environment's FRUGALKD_DATA, else
    ``../shared/data`` seen from the current directory where that exists, else ``data``.
    """
    if root is not None:
        return Path(root)
    if named := os.environ.get("FRUGALKD_DATA"):
        return Path(named)
    shared = Path("..", "shared", "data")
    return shared if shared.is_dir() else Path("data")


@contextmanager
def located(where: StrPath) -> Iterator[None]:
    """Puts ``where`` in front of the message of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{os.fspath(where)}: {error}") from error
