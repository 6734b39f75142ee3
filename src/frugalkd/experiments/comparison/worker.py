"""The process of a job: it trains, or fills a store, and notes its progress and costs in files."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from frugalkd.errors import FrugalKDError, RunFolderError, WriteFailed
from frugalkd.files.opening import Resolved, remove, remove_folder
from frugalkd.files.parsing import one_line, parse_json, read_bounded, read_json
from frugalkd.files.writing import make_folder, write_json
from frugalkd.runtime.process import keep_freed_memory, release_freed_memory

EVERY = 2.0
"""Seconds between two writes of a job's progress, and before the first one."""
_LARGEST = 10_000
_AGAIN = "delete it; what filling the store has cost until now is then not counted"

Task = dict[str, Any]
"""``kind`` (teach, targets, distill), ``recipe`` (plain values), ``out``, ``teacher`` (or None),
``stores`` (the folder of stores that runs share), ``cost`` and ``progress`` (files)."""


def execute(task: Task) -> dict[str, Any]:
    """Do one task; returns ``{"results": ...}``, or ``{"error": one line, "traceback": ...}``."""
    try:
        return {"results": _execute(task)}
    except FrugalKDError as error:
        return {"error": str(error), "type": type(error).__name__}
    except Exception as error:
        name, lines = type(error).__name__, str(error).splitlines() or [""]
        error_line = f"{name}: {lines[0]}"
        return {"error": error_line, "type": name, "traceback": traceback.format_exc()}


def _execute(task: Task) -> dict[str, Any]:
    from frugalkd.experiments.recipes.schema import Recipe
    from frugalkd.experiments.runs import execute, targets

    recipe = Recipe.model_validate(task["recipe"])
    # The comparison resolved the folders: they hold no links.
    out, stores = Resolved(task["out"]), Resolved(task["stores"])
    teacher = None if task["teacher"] is None else Resolved(task["teacher"])
    role = recipe.teacher if task["kind"] == "teach" else recipe.student
    note = ProgressNote(Resolved(task["progress"]), role.training.epochs)
    with contextlib.closing(note) as progress:
        report: dict[str, Any] = {"listener": progress.listen, "progress": progress.write}
        if task["kind"] == "teach":
            return execute.teach(recipe, out, resume=True, **report)
        make_folder(stores)
        if task["kind"] == "targets":
            cost, write = CostNote(Resolved(task["cost"])), progress.write
            spent = targets.ensure_targets(recipe, teacher, stores, note=cost, progress=write)
            cost(spent, done=True)
            return dict(spent)
        return execute.distill(recipe, out, teacher=teacher, resume=True, stores=stores, **report)


def serve(connection: Connection) -> None:
    """Execute tasks until the other end closes. The process ends with its parent: a killed
    comparison must not leave a run behind that the next one would run beside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    while True:
        try:
            connection.send(execute(connection.recv()))
            release_freed_memory()
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class ProgressNote:
    """Writes the progress of a job, whose training has ``epochs``, to the file ``path``; the file
    is removed when it is closed. A file that cannot be written does not stop the job."""

    def __init__(self, path: Path, epochs: float):
        self._path, self._epochs = path, epochs
        self._due = time.monotonic() + EVERY

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError, WriteFailed):
            remove(self._path)
            remove_folder(self._path.parent)  # if it was the last one

    def write(self, progress: str) -> None:
        """In words, for what comes before the epochs."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            with contextlib.suppress(OSError, WriteFailed):
                make_folder(self._path.parent)
                write_json(self._path, {"said": progress})

    def listen(self, record: dict[str, Any]) -> None:
        """The record of an epoch."""
        self.write(f"epoch {record['epoch'] + 1} of {self._epochs:g}")


def read_progress(path: Path) -> str:
    """What was written last; "" where nothing was, or it cannot be read."""
    try:
        return one_line(parse_json(read_bounded(path, _LARGEST))["said"], 100)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class CostNote:
    """Adds the cost of filling a store to what earlier processes noted in the file ``path``."""

    def __init__(self, path: Path):
        self._path, self._before = path, read_cost(path)
        make_folder(path.parent)

    def __call__(self, spent: dict[str, float], done: bool = False) -> None:
        """Write it, with what this process has ``spent`` so far. Raises WriteFailed."""
        cost = {what: self._before[what] + spent[what] for what in ("rows", "seconds")}
        write_json(self._path, {"schema": 1, **cost, "done": done})


def read_cost(path: Path) -> dict[str, Any]:
    """``rows`` that teachers were queried for and ``seconds``, stopped processes included, and
    whether the store is full (``done``); zeros where there is no file. Raises RunFolderError."""
    if not path.is_file():
        return {"rows": 0, "seconds": 0.0, "done": False}
    # Earlier versions wrote it once the store was full, without "done".
    cost = {"done": True, **read_json(path, again=_AGAIN)}
    if not all(type(cost.get(name)) in (int, float) for name in ("rows", "seconds")):
        raise RunFolderError(f"{path} is damaged: {_AGAIN}")
    return cost
