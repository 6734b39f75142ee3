"""One process at a time in a folder: what two of them wrote would belong to neither."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from pathlib import Path

from frugalkd.errors import FolderBusy, FrugalKDWarning
from frugalkd.files.opening import open_file, remove
from frugalkd.files.writing import writing

FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def flock(file: int, folder: Path, *, wait: bool = False) -> bool:
    """Lock a file of ``folder`` that is open for writing (NFS requires that). False, with a
    FrugalKDWarning, where the file system has no locks. Raises BlockingIOError, OSError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {folder} has no locks: let no other process run there",
            FrugalKDWarning,
            stacklevel=3,
        )
        return False
    return True


class Lock(contextlib.AbstractContextManager):
    """Exclusive use of ``folder``, which must exist, until :meth:`release`.

    The kernel holds the lock (flock): it ends with the process, and spawned child processes do not
    inherit it. A file that a killed process leaves has no meaning. Over NFS it holds between
    machines where the server has a lock daemon (NFS 3) or speaks NFS 4, and only within one machine
    under the mount options ``nolock`` or ``local_lock=flock``. ``wait``: for another process that
    has it, in place of an error.

    Raises:
        FolderBusy: another process has the folder.
        WriteFailed: the file cannot be made.
        PathRefused: it is there, and a link or no regular file.
    """

    def __init__(self, folder: Path, *, wait: bool = False):
        self._path, self._file = folder / FILE, -1
        try:
            while not self._take(wait):
                pass
        except BlockingIOError:
            raise FolderBusy(
                f"another process{self._holder()} is at work in {folder}: wait for it, or choose "
                "another --out"
            ) from None
        except OSError:
            with writing(folder):
                raise

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the folder. The file is removed first: a process that opened it tries again."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                remove(self._path)
            os.close(self._file)
            self._file = -1

    def _take(self, wait: bool) -> bool:
        """Whether the file that was locked still has its name, so that others would find it."""
        file = open_file(self._path, write=True, make=True)
        try:
            if not flock(file, self._path.parent, wait=wait):
                with contextlib.suppress(OSError):
                    remove(self._path)
                return True
            named = False
            with contextlib.suppress(FileNotFoundError):
                named = os.path.samestat(os.fstat(file), self._path.lstat())
            if named:
                with contextlib.suppress(OSError):  # on a full disk the name alone will do
                    os.ftruncate(file, 0)
                    os.pwrite(file, str(os.getpid()).encode(), 0)
                self._file, file = file, -1
            return named
        finally:
            if file >= 0:
                os.close(file)

    def _holder(self) -> str:
        with contextlib.suppress(OSError), os.fdopen(open_file(self._path), "rb") as file:
            said = file.read(20).decode("ascii", "replace")
            if said.isdecimal():
                return f" ({said})"
        return ""
