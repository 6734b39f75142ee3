"""A worker process of a comparison: one run after another, until there is none left."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

from frugalkd.errors import FrugalKDError
from frugalkd.files.opening import Resolved
from frugalkd.runtime.process import keep_freed_memory, release_freed_memory

Task = dict[str, Any]
"""``kind`` (teach, targets, distill), ``recipe`` (plain values), ``out``, ``teacher`` (or None),
``stores`` (the folder of stores that runs share), ``cost`` and ``progress`` (files: what filling a
store has cost, how far the task is)."""


def carry_out(task: Task) -> dict[str, Any]:
    """Do one task; returns ``{"results": ...}``, or ``{"error": one line, "traceback": ...}``.

    A run that went wrong is an answer like any other: the comparison goes on.
    """
    try:
        return {"results": _run(task)}
    except FrugalKDError as error:
        return {"error": str(error), "type": type(error).__name__}
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return {
            "error": f"{type(error).__name__}: {lines[0]}",
            "type": type(error).__name__,
            "traceback": traceback.format_exc(),
        }


def _run(task: Task) -> dict[str, Any]:
    from frugalkd.experiments.comparison.progress import ProgressNote
    from frugalkd.experiments.comparison.stores import CostNote
    from frugalkd.experiments.recipes.schema import Recipe
    from frugalkd.experiments.runs import execute, storing
    from frugalkd.files.writing import make_folder

    recipe = Recipe.model_validate(task["recipe"])
    # By the comparison, whose folders hold no links.
    out, stores = Resolved(task["out"]), Resolved(task["stores"])
    teacher = None if task["teacher"] is None else Resolved(task["teacher"])
    role = recipe.teacher if task["kind"] == "teach" else recipe.student
    with ProgressNote(Resolved(task["progress"]), role.training.epochs) as progress:
        told: dict[str, Any] = {"listener": progress.listen, "progress": progress.say}
        if task["kind"] == "teach":
            return execute.teach(recipe, out, resume=True, **told)
        make_folder(stores)
        if task["kind"] == "targets":
            note = CostNote(Resolved(task["cost"]))
            spent = storing.ensure_targets(
                recipe, teacher, stores, note=note, progress=progress.say
            )
            note(spent, done=True)
            return dict(spent)
        return execute.distill(recipe, out, teacher=teacher, resume=True, stores=stores, **told)


def serve(connection: Connection) -> None:
    """Answer tasks until the other end closes. The process does not outlive its parent: a killed
    comparison must not leave a run behind that the next one would run beside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    while True:
        try:
            task = connection.recv()
            connection.send(carry_out(task))
            release_freed_memory()
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
