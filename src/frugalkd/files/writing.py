"""Writing files: whole or not at all, and an OSError as one line that says what to do."""

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

from frugalkd.errors import WriteFailed
from frugalkd.files import StrPath
from frugalkd.files.opening import entered, list_folder, new_in, open_new, refuse_irregular, remove

_SPACE = "free some space, or name a folder on another disk"
_RIGHT = "get permission to write there, or name another folder"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "name a folder on a disk that takes files of this size",
    errno.EROFS: "name a folder on another disk",
    errno.EIO: "the disk fails; name a folder on another one",
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
}

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What only a write fails with."""


def advice_for(error: OSError) -> str:
    """What to do about an OSError met while writing."""
    return _ADVICE.get(error.errno or 0, "name another folder")


@contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """An OSError inside becomes WriteFailed, which names ``path`` and says what to do."""
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        said = f"cannot write {path}: {error.strerror or error}: {advice_for(error)}"
        raise WriteFailed(error.errno, said) from error


def make_folder(path: StrPath) -> None:
    """Make the folder ``path`` and its missing parents. Raises WriteFailed."""
    with writing(path), entered(Path(path), make=True):
        pass


def write_atomic(path: Path, data: bytes) -> None:
    """``data`` by :func:`atomic`."""
    with atomic(path) as file:
        write_at(file, data, 0)


@contextmanager
def atomic(path: Path) -> Iterator[int]:
    """The open descriptor of a new file beside ``path``, which is then synced, and renamed into
    place. Raises WriteFailed; the old content is then still there, or, where only the folder could
    not be synced, the new one. Raises PathRefused: ``path`` is not a file, or behind a link."""
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
    return re.fullmatch(r"\..+\.[0-9a-f]+\.tmp", name) is not None


def sweep(folder: Path) -> None:
    """Remove what killed processes left aside in ``folder``; no other process may write there."""
    with contextlib.suppress(OSError):
        for name in filter(is_left_aside, list_folder(folder)):
            remove(folder / name)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def allocate(path: Path, size: int) -> None:
    """A new file of ``size`` bytes, by :func:`set_aside`. On an OSError no file is left."""
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
    """Reserve ``size`` bytes on the disk for the new, open ``file``, all zero. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        for start in range(0, size, 1 << 20):
            write_at(file, bytes(min(1 << 20, size - start)), start)


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """All of ``data`` into the open ``file`` at ``offset``. Raises OSError."""
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
