"""The jobs of a comparison: which runs there are, and what each has to wait for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from frugalkd.comparison.arms import ResolvedArm, folder_name, needs_teacher, teacher_recipe
from frugalkd.comparison.controls import control_settings
from frugalkd.recipes.load import override
from frugalkd.recipes.schema import Recipe
from frugalkd.runs.targets import encoding_of


class Key(NamedTuple):
    """Names a job: a teacher, a store of soft targets (``detail`` says which), or a run."""

    kind: Literal["teach", "targets", "distill"]
    name: str
    seed: int
    detail: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``results`` or ``error``.

    Attributes:
        results: the content of ``results.json`` (of a store: rows and seconds), or None.
        classes: of the data, where known.
        error: one line, or None.
        details: what else is known of an error: its type, its traceback.
    """

    results: dict[str, Any] | None = None
    classes: int | None = None
    error: str | None = None
    details: Mapping[str, Any] | None = None

    @property
    def accuracy(self) -> float | None:
        """In [0, 1]; None for a failed run, or where nothing was held out."""
        evaluation = (self.results or {}).get("evaluation")
        return None if evaluation is None else evaluation["accuracy"]

    @property
    def collapsed(self) -> bool:
        """No better than half as much again as chance, or failed."""
        if self.error is not None:
            return True
        accuracy = self.accuracy
        return accuracy is not None and bool(self.classes) and accuracy <= 1.5 / self.classes


Outcomes = Mapping[Key, Outcome]


@dataclass(frozen=True)
class Job:
    """One run to come.

    Attributes:
        key: what it is.
        out: its folder; of a store, the teacher's.
        recipe: its recipe, from the outcomes of what it needs.
        needs: jobs that must have succeeded before its recipe is known.
        targets: the store that must be filled before it runs, or None.
        teacher: the teacher's folder, or None.
    """

    key: Key
    out: Path
    recipe: Callable[[Outcomes], Recipe]
    needs: tuple[Key, ...] = ()
    targets: Key | None = None
    teacher: Path | None = None


def plan_jobs(
    recipe: Recipe,
    arms: Sequence[ResolvedArm],
    seeds: Sequence[int],
    out: Path,
    teachers: Sequence[str],
) -> dict[Key, Job]:
    """All jobs, each after those that it needs; seed by seed, so that arms take turns."""
    jobs: dict[Key, Job] = {}
    taught: dict[str, Key] = {}
    for name in teachers:
        whole = teacher_recipe(recipe, name)
        if whole.teacher.weights is not None:
            continue  # trained already; the arm's recipe names the file
        taught[name] = key = Key("teach", name, whole.seed)
        jobs[key] = Job(key, out / "teachers" / folder_name(name), lambda _, whole=whole: whole)
    for seed in seeds:
        for arm in arms:
            _add_run(jobs, arm, seed, out, taught.get(arm.teacher or ""))
    return jobs


def _add_run(
    jobs: dict[Key, Job], arm: ResolvedArm, seed: int, out: Path, taught: Key | None
) -> None:
    key = Key("distill", arm.name, seed)
    whole = override(arm.recipe, {"seed": seed})
    needs = [] if taught is None else [taught]
    folder = None if taught is None else jobs[taught].out
    targets = None if taught is None else _store(jobs, taught, whole)

    def resolved(outcomes: Outcomes) -> Recipe:
        if arm.control is None or arm.match is None:
            return whole
        results = outcomes[Key("distill", arm.match, seed)].results
        assert results is not None
        return override(whole, {**control_settings(arm.control, results), **arm.settings})

    if arm.match is not None:
        needs.append(Key("distill", arm.match, seed))
    where = out / "runs" / arm.folder / f"seed-{seed}"
    jobs[key] = Job(key, where, resolved, tuple(needs), targets, folder)


def _store(jobs: dict[Key, Job], taught: Key, whole: Recipe) -> Key | None:
    """The job that fills the soft targets of a run, before two processes would both fill them."""
    if whole.student.targets.kind != "stored" or not needs_teacher(whole):
        return None
    said = whole.model_dump(mode="json")
    weighted = whole.student.weighting or whole.student.mode
    parts = [said["data"], said["student"]["augment"], said["student"]["targets"]]
    # Who is never asked for: what weighs nothing.
    parts += [weighted in ("significance", "hybrid"), encoding_of(whole).settings]
    key = Key("targets", taught.name, 0, json.dumps(parts, sort_keys=True))
    folder = jobs[taught].out
    if key not in jobs:
        jobs[key] = Job(key, folder, lambda _: whole, (taught,), teacher=folder)
    return key
