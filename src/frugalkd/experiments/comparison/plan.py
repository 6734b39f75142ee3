"""The jobs of a comparison: which runs there are, and what each has to wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from frugalkd.experiments.comparison.arms import ResolvedArm, folder_name, teacher_recipe
from frugalkd.experiments.comparison.controls import control_settings
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import (
    digest_of,
    forget_later_defaults,
    pretrained,
    what_decides,
)
from frugalkd.experiments.runs.targets import encoding_of


class Key(NamedTuple):
    """Names a job: a teacher, a store of soft targets (``detail`` says which), or a run."""

    kind: Literal["teach", "targets", "distill"]
    name: str
    seed: int
    detail: str = ""


def run_name(key: Key) -> str:
    """A job as it is spoken of: ``regulated seed 3``, ``teacher conventional``."""
    kind = {"teach": "teacher ", "targets": "soft targets of ", "distill": ""}[key.kind]
    return f"{kind}{key.name}" + (f" seed {key.seed}" if key.kind == "distill" else "")


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
        digest: SHA-256 (hex) of all that decides it, known before anything has run: its recipe, and
            the digests of its teacher and of the run that it matches.
        out: its folder; of a store, the one that keeps it.
        recipe: its recipe, from the outcomes of what it needs.
        needs: jobs that must have succeeded before its recipe is known.
        targets: the store that must be filled before it runs, or None.
        teacher: the teacher's folder, or None.
    """

    key: Key
    digest: str
    out: Path
    recipe: Callable[[Outcomes], Recipe]
    needs: tuple[Key, ...] = ()
    targets: Key | None = None
    teacher: Path | None = None

    @property
    def waits_for(self) -> list[Key]:
        """All that must be done before it, the store included."""
        return [*self.needs, *([self.targets] if self.targets is not None else [])]

    @property
    def name(self) -> str:
        """As it is spoken of."""
        return run_name(self.key)


SHOWN = 12
"""Digits of a digest that name a folder."""

STORES = "stores"
"""The folder of a comparison that keeps what filling stores has cost, and the stores of teachers
that have no folder there."""

PRETRAINED = "teacher.weights"
"""What the recipe's pretrained teacher is called."""


def plan_jobs(
    recipe: Recipe,
    arms: Sequence[ResolvedArm],
    seeds: Sequence[int],
    out: Path,
    teachers: Sequence[str],
) -> dict[Key, Job]:
    """All jobs, each after those that it needs; seed by seed, so that arms take turns."""
    plan = _Plan(out)
    for name in teachers:
        plan.add_teacher(name, teacher_recipe(recipe, name))
    for seed in seeds:
        for arm in arms:
            plan.add_run(arm, seed)
    return plan.jobs


class _Plan:
    """Jobs as they are added, and the folders that there are already."""

    def __init__(self, out: Path):
        self.out = out
        self.jobs: dict[Key, Job] = {}
        self._taught: dict[str, Key] = {}
        self._first: dict[str, Key] = {}  # of the jobs of one digest
        self._there = {
            path.name[-SHOWN:]: path
            for kind in ("teachers", "runs")
            for path in _inside(out / kind)
        }

    def add_teacher(self, name: str, whole: Recipe) -> None:
        if whole.teacher.weights is not None:
            return  # trained already; the arm's recipe names the file
        key = self._taught[name] = Key("teach", name, whole.seed)
        digest = digest_of({"kind": "teach", "recipe": what_decides("teach", whole, taught=False)})
        where = self._folder("teachers", folder_name(name), digest)
        self.jobs[key] = Job(key, digest, where, lambda _: whole)

    def add_run(self, arm: ResolvedArm, seed: int) -> None:
        key = Key("distill", arm.name, seed)
        whole = override(arm.recipe, {"seed": seed})
        taught = self._taught.get(arm.teacher or "")
        needs = [] if taught is None else [taught]
        teacher = None if taught is None else self.jobs[taught].out
        targets = self._add_store(arm, taught, whole)
        matched = None
        if arm.match is not None:
            matched = Key("distill", arm.match, seed)
            needs.append(matched)

        def resolved(outcomes: Outcomes) -> Recipe:
            if arm.control is None or matched is None:
                return whole
            results = outcomes[matched].results
            assert results is not None
            return override(whole, {**control_settings(arm.control, results), **arm.settings})

        digest = digest_of(
            {
                "kind": "distill",
                "recipe": what_decides("distill", whole, taught=taught is not None),
                "teacher": pretrained(whole) if taught is None else self.jobs[taught].digest,
                "control": None
                if matched is None
                else [arm.control, self.jobs[matched].digest, arm.settings],
            }
        )
        where = self._folder("runs", f"{arm.folder}-seed-{seed}", digest)
        if digest in self._first:  # the same run by another name: done once, found by the other
            needs.append(self._first[digest])
            where = self.jobs[self._first[digest]].out
        self._first.setdefault(digest, key)
        self.jobs[key] = Job(key, digest, where, resolved, tuple(needs), targets, teacher)

    def _add_store(self, arm: ResolvedArm, taught: Key | None, whole: Recipe) -> Key | None:
        """The job that fills a run's soft targets, once for all runs that read the same."""
        student = whole.student
        if not (student.stores and student.objective.build().needs_targets):
            return None
        said = whole.model_dump(mode="json")
        forget_later_defaults(said["student"]["targets"])
        weighted = student.weighting or student.mode
        parts = [said["data"], said["student"]["augment"], said["student"]["targets"]]
        # The teacher runs on no sample that weighs nothing.
        parts += [weighted in ("significance", "hybrid"), encoding_of(whole).settings]
        decides = what_decides("distill", whole, taught=taught is not None)
        if student.teachers is not None:
            parts.append(decides["student"]["teachers"])
        if taught is None:
            teacher, out = None, self.out / STORES
            who: Any = [pretrained(whole), decides["teacher"]]
        else:
            teacher = out = self.jobs[taught].out
            who = self.jobs[taught].digest
        digest = digest_of({"kind": "targets", "teacher": who, "parts": parts})
        name = " + ".join(student.teachers.of) if student.teachers else arm.teacher or PRETRAINED
        key = Key("targets", name, 0, digest[:SHOWN])
        if key not in self.jobs:
            needs = () if taught is None else (taught,)
            self.jobs[key] = Job(key, digest, out, lambda _: whole, needs, teacher=teacher)
        return key

    def _folder(self, kind: str, stem: str, digest: str) -> Path:
        """Where a job's folder is, under whatever name, or will be."""
        short = digest[:SHOWN]
        return self._there.get(short, self.out / kind / f"{stem}-{short}")


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
