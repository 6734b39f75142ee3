"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frugalkd.files.writing import writing

_ASIDE = re.compile(r"\..+\.\d+\.tmp")


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, sync it, and rename it into place.

    Raises:
        WriteFailed: what was there before is there still; but where only the folder could not be
            synced, ``data`` are.
    """
    with atomic(path) as aside:
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_at(file, data, 0)
        finally:
            os.close(file)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file to: it is then synced, and renamed into place. Raises
    WriteFailed as :func:`write_atomic` does."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            yield aside
            file = os.open(aside, os.O_RDWR)
            try:
                os.fchmod(file, 0o666 & ~_umask())  # some writers leave it private
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(aside, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def is_left_aside(path: Path) -> bool:
    """Whether a file is what a killed process leaves of :func:`atomic`."""
    return _ASIDE.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove what killed processes left aside in ``folder``; nobody else may be writing there."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_left_aside(path):
                path.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask of new files' permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def allocate(path: Path, size: int) -> None:
    """A new file of ``size`` bytes, all zero, whose space is set aside: writing into it later does
    not find the disk full. On an OSError no file is left."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:  # macOS
            for start in range(0, size, 1 << 20):
                write_at(file, bytes(min(1 << 20, size - start)), start)
        os.fsync(file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


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
    """Make new names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
