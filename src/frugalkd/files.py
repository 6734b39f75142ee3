"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, sync it, and rename it into place."""
    with atomic(path) as aside:
        aside.write_bytes(data)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file to: it is then synced, and renamed into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # some writers leave it private
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


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
    """All of ``data`` into the open ``file`` at ``offset``, however often the system takes less."""
    rest = memoryview(data).cast("B")
    while len(rest):
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_folder(path: Path) -> None:
    """Make new names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
