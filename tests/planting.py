"""Run folders and stores from elsewhere: a link, a pipe or a folder in the place of each file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from frugalkd.errors import FrugalKDError

KINDS = ("link", "dangling link", "link to a folder", "hard link", "pipe", "folder")
"""What stands in the place of a file; of a folder, links and a pipe, or a file."""

Snapshot = dict[str, tuple[bytes | None, int]]


def snapshot(folder: Path) -> Snapshot:
    """What must not change outside: names, contents, times of the last change."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def plant(kind: str, place: Path, outside: Path) -> bool:
    """Put a ``kind`` of thing at ``place``, which leads to a copy, ``outside``, of what was there:
    what a writer takes for its own. False where there is no such thing."""
    folder = place.is_dir()
    if kind == "hard link" and folder:
        return False
    copy = outside / "copy"
    if folder:
        shutil.copytree(place, copy)
        shutil.rmtree(place)
    else:
        shutil.copyfile(place, copy)
        place.unlink()
    other = outside / "other"
    other.mkdir()
    for name in ("epoch-00000-step-000000001.safetensors", ".x.1.tmp", "file"):
        (other / name).write_bytes(b"the user's")
    match kind:
        case "link":
            place.symlink_to(copy)
        case "dangling link":
            place.symlink_to(outside / "new")
        case "link to a folder":
            place.symlink_to(other)
        case "hard link":
            place.hardlink_to(copy)
        case "pipe":
            os.mkfifo(place)
        case "folder" if folder:
            place.write_bytes(b"a file")
        case "folder":
            place.mkdir()
            (place / "file").write_bytes(b"a file")
    return True


def refusal(act: Callable[..., object], *given: object) -> str | None:
    """The line of a typed error with which ``act`` ends; None where it succeeds."""
    try:
        act(*given)
    except FrugalKDError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said


def places(folder: Path) -> list[str]:
    """All files and folders below ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """A hang, such as on a pipe, is a failure."""

    def late(*_: object) -> None:
        raise AssertionError(f"it hangs: {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def nothing_is_written_outside(
    sound: Path,
    act: Callable[[Path], object],
    kind: str,
    tmp_path: Path,
    wanted: Iterable[str] | None = None,
) -> int:
    """Plant ``kind`` in each of the ``wanted`` places (default: all) of a copy of the folder
    ``sound`` and ``act`` on the copy, which raises or asserts where something else than a typed
    error comes of it; the number of places."""
    tried = 0
    for number, place in enumerate(places(sound) if wanted is None else wanted):
        copy, outside = tmp_path / f"{number}/copy", tmp_path / f"{number}/outside"
        shutil.copytree(sound, copy)
        outside.mkdir()
        if not plant(kind, copy / place, outside):
            continue
        before = snapshot(outside)
        with within(60):
            try:
                act(copy)
            except Exception as error:
                raise AssertionError(f"{kind} at {place}: {error!r}") from error
        assert snapshot(outside) == before, f"{kind} at {place}: written outside"
        shutil.rmtree(tmp_path / str(number))
        tried += 1
    return tried
