"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frugalkd.files.opening import (
    entered,
    list_folder,
    new_in,
    open_new,
    refuse_irregular,
    remove,
)
from frugalkd.files.writing import writing

_ASIDE = re.compile(r"\..+\.[0-9a-f]+\.tmp")


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, sync it, and rename it into place.

    Raises:
        WriteFailed: what was there before is there still; but where only the folder could not be
            synced, ``data`` are.
    """
    with atomic(path) as file:
        write_at(file, data, 0)


@contextmanager
def atomic(path: Path) -> Iterator[int]:
    """The open descriptor of a new file beside ``path``, to write to; it is then synced, and
    renamed into place. Raises WriteFailed as :func:`write_atomic` does, and PathRefused where
    ``path`` is something else than a file, or lies behind a link."""
    aside = f".{path.name}.{secrets.token_hex(4)}.tmp"
    with writing(path), entered(path.parent) as folder:
        refuse_irregular(path, folder)
        try:
            file = new_in(folder, aside)
            try:
                yield file
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            _sync(folder)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=folder)


def is_left_aside(name: str) -> bool:
    """Whether a file of this name is what a killed process leaves of :func:`atomic`."""
    return _ASIDE.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove what killed processes left aside in ``folder``; nobody else may be writing there."""
    with contextlib.suppress(OSError):
        for name in list_folder(folder):
            if is_left_aside(name):
                remove(folder / name)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def allocate(path: Path, size: int) -> None:
    """A new file of ``size`` bytes, all zero, whose space is set aside: writing into it later does
    not find the disk full. On an OSError no file is left."""
    file = open_new(path)
    try:
        set_aside(file, size)
        os.fsync(file)
    except OSError:
        remove(path)
        raise
    finally:
        os.close(file)


def set_aside(file: int, size: int) -> None:
    """Make the new, open ``file`` ``size`` bytes long, all zero, on the disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        for start in range(0, size, 1 << 20):
            write_at(file, bytes(min(1 << 20, size - start)), start)


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """All of ``data`` into the open ``file`` at ``offset``, however often the system takes less.
    Raises OSError, also where it takes nothing at all."""
    rest = memoryview(data).cast("B")
    while len(rest):
        written = os.pwrite(file, rest, offset)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest, offset = rest[written:], offset + written


def sync_folder(path: Path) -> None:
    """Make new names in a folder durable. Raises OSError."""
    with entered(path) as folder:
        _sync(folder)


def _sync(folder: int) -> None:
    file = os.open(".", os.O_RDONLY, dir_fd=folder)
    try:
        os.fsync(file)
    finally:
        os.close(file)
