"""The one place that opens, makes and removes files: through no link inside frugalkd's folders.

What the user names may be a link, or behind one: :func:`named` follows those, once. All below it is
reached component by component, each opened relative to the one before without following a link, so
that a link which is put there between a check and a write leads nowhere either.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PosixPath

from frugalkd.errors import PathRefused
from frugalkd.files import StrPath, path_of

# O_PATH (Linux) needs no permission to list a folder on the way.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class Resolved(PosixPath):
    """A path whose links were followed already; a link that is joined to it is refused."""

    __slots__ = ()


def named(path: StrPath) -> Resolved:
    """A folder that the user named, with its links followed: naming it is consent. A path without
    links stays as it was written, and a :class:`Resolved` one is returned as it is."""
    path = path_of(path)
    if isinstance(path, Resolved):
        return path
    real = os.path.realpath(path)
    return Resolved(path if real == os.path.abspath(path) else real)


def named_file(path: StrPath) -> Resolved:
    """A file to write that the user named: the links of its folder are followed; a link
    itself is refused."""
    path = path_of(path)
    return path if isinstance(path, Resolved) else named(path.parent) / path.name


@contextmanager
def entered(folder: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of ``folder`` for ``dir_fd``; ``make`` makes what is missing of it. Raises
    PathRefused, OSError."""
    at, here = Path(folder.anchor), os.open(folder.anchor or ".", _FOLDER)
    try:
        for part in folder.relative_to(folder.anchor).parts:
            at /= part
            try:
                there = os.open(part, _FOLDER, dir_fd=here)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
                there = os.open(part, _FOLDER, dir_fd=here)
            except OSError:
                with suppress(FileNotFoundError):
                    _refuse_kind(at, os.lstat(part, dir_fd=here), wanted=stat.S_IFDIR)
                raise
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def open_file(path: Path, *, write: bool = False, make: bool = False) -> int:
    """An open descriptor of a regular file; ``write`` in place, ``make`` where it is missing.
    Raises PathRefused, OSError."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if make else 0)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    with entered(path.parent) as folder:
        refuse_irregular(path, folder)
        file = os.open(path.name, flags, 0o666, dir_fd=folder)
    try:
        _refuse_kind(path, os.fstat(file), in_place=write)  # it may be another one by now
    except PathRefused:
        os.close(file)
        raise
    return file


def open_new(path: Path) -> int:
    """An open descriptor of a new, empty file; a regular one of that name goes. Raises
    PathRefused, OSError."""
    with entered(path.parent) as folder:
        refuse_irregular(path, folder)
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        return new_in(folder, path.name)


def new_in(folder: int, name: str) -> int:
    """An open descriptor of a file that was not there before. Raises OSError."""
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=folder)


def refuse_irregular(path: Path, folder: int) -> None:
    """Raises PathRefused where ``path``, in the open ``folder``, is there and no regular file."""
    with suppress(FileNotFoundError):
        _refuse_kind(path, os.lstat(path.name, dir_fd=folder))


def refuse_ways_out(folder: Path) -> None:
    """Raises PathRefused where ``folder`` is a link, or something directly in it leads out of it:
    for libraries that write there and follow links. Below, they make folders of new names."""
    inside = os.path.realpath(folder) + os.sep
    for path in (folder / name for name in list_folder(folder)):
        found = path.lstat()
        own_link = stat.S_ISLNK(found.st_mode) and os.path.realpath(path).startswith(inside)
        if not (own_link or stat.S_ISDIR(found.st_mode)):
            _refuse_kind(path, found, in_place=True)


def list_folder(folder: Path) -> list[str]:
    """The names in a folder, sorted; [] where it is missing. Raises PathRefused, OSError."""
    try:
        with entered(folder) as here:
            listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(listing))
    finally:
        os.close(listing)


def remove(path: Path) -> None:
    """Remove a file, or a link itself, where it is there. Raises PathRefused, OSError."""
    with suppress(FileNotFoundError), entered(path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)


def remove_folder(path: Path) -> None:
    """Remove an empty folder. Raises PathRefused, OSError."""
    with entered(path.parent) as folder:
        os.rmdir(path.name, dir_fd=folder)


def _refuse_kind(
    path: Path, found: os.stat_result, *, wanted: int = stat.S_IFREG, in_place: bool = False
) -> None:
    kind, what = stat.S_IFMT(found.st_mode), ""
    if wanted == stat.S_IFDIR and kind not in (wanted, stat.S_IFLNK):
        said = f"{path} is a file, not a folder: name another folder, or delete it"
        raise PathRefused(errno.ENOTDIR, said) from None
    if kind != wanted:
        what = _KINDS.get(kind, "no regular file")
    elif in_place and found.st_nlink > 1:  # the content of the other name would change too
        what = "one of several names of a file (hard links)"
    if what:
        raise PathRefused(
            errno.ELOOP,
            f"{path} is {what}, which frugalkd neither follows nor writes to: delete it, or name "
            "another place",
        ) from None
