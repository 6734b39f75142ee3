"""The runners of arms. A runner prepares a run, which is not timed, and returns the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frugalkd.errors import RunFolderError
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs import execute, targets
from frugalkd.experiments.runs.folder import read_results
from frugalkd.files.opening import Resolved
from frugalkd.files.writing import write_json

Record = dict[str, Any]
"""``seconds`` of the training; if known ``accuracy``, ``budget``, ``meters``."""


@dataclass(frozen=True)
class Task:
    """One run of an arm.

    Attributes:
        runner: a key of :data:`RUNNERS`.
        recipe: of the arm.
        options: further options of the runner.
        teacher: the teacher's folder.
        folder: for files of the run; it is removed afterwards.
        part: the number of epochs to run; None for all.
    """

    runner: str
    recipe: Recipe
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    teacher: Path | None = None
    part: int | None = None


Runner = Callable[[Task], Callable[[], Record]]


def teach(task: Task) -> Callable[[], Record]:
    """A teacher's training."""
    recipe = _in_part(task, "teacher")
    return lambda: _record(execute.teach(recipe, task.folder / "run"), task)


def distill(task: Task) -> Callable[[], Record]:
    """A distillation as the command line runs it.

    Options: ``filling`` is ``counted`` (the run includes filling the store) or ``apart`` (the store
    is filled beforehand); ``teacher_precision`` overrides the precision of the teacher's folder.
    """
    recipe = _in_part(task, "student")
    assert task.teacher is not None
    teacher = task.teacher
    precision = task.options.get("teacher_precision")
    if task.options.get("filling") == "counted" or precision is not None:
        teacher = _copy(teacher, task.folder / "teacher", precision)
        if task.options.get("filling") == "apart":
            targets.ensure_targets(recipe, teacher)
    return lambda: _record(execute.distill(recipe, task.folder / "run", teacher=teacher), task)


def _in_part(task: Task, role: str) -> Recipe:
    if task.part is None:
        return task.recipe
    return override(task.recipe, {f"{role}.training.epochs": task.part})


def _copy(teacher: Path, to: Path, precision: str | None) -> Path:
    """Copy a teacher's folder without its soft targets, with another precision if given."""
    shutil.copytree(teacher, to, ignore=shutil.ignore_patterns("targets-*", "checkpoints"))
    if precision is not None:
        results = read_results(to)
        if results["kind"] != "teach":
            raise RunFolderError(f"{teacher} holds no teacher: give a folder made by teach")
        results["recipe"]["teacher"]["training"] |= {
            "precision": precision,
            "channels_last": False,
        }
        write_json(to / "results.json", results)
    return to


def _record(results: dict[str, Any], task: Task) -> Record:
    meters = results["meters"]
    whole = task.part is None
    return {
        "seconds": meters["wall_seconds"],
        "accuracy": results["evaluation"]["accuracy"] if whole else None,
        "budget": results["budget"],
        "meters": meters,
    }


def _torchdistill(task: Task) -> Callable[[], Record]:
    from benchmarks.timing.torchdistill import prepare

    return prepare(task)


def _plain(task: Task) -> Callable[[], Record]:
    from benchmarks.timing.loops import plain

    return plain(task)


def _engine(task: Task) -> Callable[[], Record]:
    from benchmarks.timing.loops import engine

    return engine(task)


RUNNERS: dict[str, Runner] = {
    "teach": teach,
    "distill": distill,
    "torchdistill": _torchdistill,
    "plain": _plain,
    "engine": _engine,
}


def as_plain(task: Task) -> dict[str, Any]:
    """A task as a JSON object."""
    return {
        "runner": task.runner,
        "recipe": task.recipe.model_dump(mode="json"),
        "folder": str(task.folder),
        "options": dict(task.options),
        "teacher": None if task.teacher is None else str(task.teacher),
        "part": task.part,
    }


def from_plain(plain: dict[str, Any]) -> Task:
    """The task that :func:`as_plain` converted."""
    return Task(
        runner=plain["runner"],
        recipe=Recipe.model_validate(plain["recipe"]),
        folder=Resolved(plain["folder"]),
        options=plain["options"],
        teacher=None if plain["teacher"] is None else Resolved(plain["teacher"]),
        part=plain["part"],
    )
