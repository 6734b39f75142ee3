"""An OSError met while writing, as one typed line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frugalkd.errors import WriteFailed
from frugalkd.files import StrPath
from frugalkd.files.opening import entered

_SPACE = "free some space, or name a folder on another disk"
_RIGHT = "ask for the right to write there, or name another folder"
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
        what = error.strerror or error
        raise WriteFailed(
            error.errno, f"cannot write {path}: {what}: {advice_for(error)}"
        ) from error


def make_folder(path: StrPath) -> None:
    """The folder ``path`` and those above it, where they are not there yet. Raises WriteFailed."""
    with writing(path), entered(Path(path), make=True):
        pass
