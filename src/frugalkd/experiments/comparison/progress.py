"""How far a job of a comparison is: its process writes a small file, the comparison reads it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from frugalkd.errors import WriteFailed
from frugalkd.files.opening import remove, remove_folder
from frugalkd.files.parsing import one_line, parse_json, read_bounded
from frugalkd.files.writing import make_folder, write_json

FOLDER = "progress"
EVERY = 2.0
"""Seconds between two writes, and before the first one."""

_LARGEST = 10_000


class ProgressNote:
    """Writes down how far a job is; where that fails, the job goes on.

    A context: at its end the file goes away.

    Args:
        path: of the file.
        epochs: of the job's training.
    """

    def __init__(self, path: Path, epochs: float):
        self._path, self._epochs = path, epochs
        self._due = time.monotonic() + EVERY

    def __enter__(self) -> ProgressNote:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, WriteFailed):
            remove(self._path)
            remove_folder(self._path.parent)  # where it was the last one

    def say(self, said: str) -> None:
        """In words, for what comes before the epochs."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        with contextlib.suppress(OSError, WriteFailed):
            make_folder(self._path.parent)
            write_json(self._path, {"said": said})

    def listen(self, record: dict[str, Any]) -> None:
        """The record of an epoch."""
        self.say(f"epoch {record['epoch'] + 1} of {self._epochs:g}")


def read_progress(path: Path) -> str:
    """What was written last; "" where nothing was, or it cannot be read."""
    try:
        said = parse_json(read_bounded(path, _LARGEST))
        return one_line(said["said"], 100)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
