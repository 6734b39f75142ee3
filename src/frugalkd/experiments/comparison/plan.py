"""The jobs of a comparison: which runs there are, and what each has to wait for."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from frugalkd.experiments.comparison.arms import (
    ResolvedArm,
    control_settings,
    copies_plans,
    folder_name,
    teacher_recipe,
)
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import (
    digest_of,
    pretrained,
    teacher_files,
    what_decides,
)
from frugalkd.experiments.runs.schema import quality_of
from frugalkd.experiments.runs.targets import encoding_of
from frugalkd.experiments.runs.token_targets import token_encoding_of

SHOWN = 12
"""Digits of a digest that name a folder."""
STORES, PROGRESS = "stores", "progress"
"""Folders of a comparison: what filling stores has cost, with the stores of teachers that have no
folder there; and the progress of running jobs."""
PRETRAINED = "teacher.weights"
"""The name of the recipe's pretrained teacher."""


class Key(NamedTuple):
    """Names a job: a teacher, a store of soft targets (``detail`` says which), or a run."""

    kind: Literal["teach", "targets", "distill"]
    name: str
    seed: int
    detail: str = ""


@dataclass(frozen=True)
class JobResult:
    """How a job ended: ``results``, the content of ``results.json`` (of a store: rows and seconds),
    or ``error``, one line, with the ``traceback`` of an error that is not frugalkd's. ``classes``
    are those of the data, where known."""

    results: dict[str, Any] | None = None
    classes: int | None = None
    error: str | None = None
    traceback: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Or what is measured in its place (:func:`.runs.schema.quality_of`), in [0, 1]; None for a
        failed run, or where nothing was held out."""
        return quality_of((self.results or {}).get("evaluation"))[1]

    @property
    def measure(self) -> str:
        """What :attr:`accuracy` is."""
        return quality_of((self.results or {}).get("evaluation"))[0]

    @property
    def collapsed(self) -> bool:
        """Failed, or at most 1.5 times as accurate as chance; of values no better than their mean,
        of tokens no better than equal probabilities. Other measures have no such limit."""
        if self.error is not None:
            return True
        accuracy = self.accuracy
        if self.measure in ("R2", "entropy saved"):
            return accuracy is not None and accuracy <= 0
        if self.measure != "accuracy" or not self.classes:
            return False
        return accuracy is not None and accuracy <= 1.5 / self.classes


JobResults = Mapping[Key, JobResult]


@dataclass(frozen=True)
class Job:
    """One run to come, in the folder ``out`` (of a store: the one that keeps it). ``digest`` is the
    SHA-256 (hex) of all that decides it, known before anything has run: its recipe, and the digests
    of its teacher and of the run that it matches. Its recipe depends on the results of what it
    ``needs``; the store ``targets`` must be filled before it runs; ``teacher`` is the folder of the
    teacher; ``record_plans``: a control follows its plans; ``given``: a teacher that was trained
    before, outside of the comparison."""

    key: Key
    digest: str
    out: Path
    recipe: Callable[[JobResults], Recipe]
    needs: tuple[Key, ...] = ()
    targets: Key | None = None
    teacher: Path | None = None
    record_plans: bool = False
    given: bool = False

    @property
    def waits_for(self) -> list[Key]:
        """All that must be done before it, the store included."""
        return [*self.needs, *([self.targets] if self.targets is not None else [])]

    @property
    def name(self) -> str:
        """In words: ``regulated seed 3``, ``teacher conventional``."""
        kind = {"teach": "teacher ", "targets": "soft targets of ", "distill": ""}[self.key.kind]
        return kind + self.key.name + f" seed {self.key.seed}" * (self.key.kind == "distill")

    def cost_file(self, out: Path) -> Path:
        """Where the comparison in ``out`` keeps the cost of this store."""
        return out / STORES / f"{self.key.name}-{self.digest[:SHOWN]}.json"

    def progress_file(self, out: Path) -> Path:
        """Where it writes its progress while it runs for the comparison in ``out``."""
        return out / PROGRESS / f"{self.digest[:SHOWN]}.json"

    def task(self, out: Path, recipe: Recipe) -> dict[str, Any]:
        """The job of the comparison in ``out``, for :func:`~.pool.execute`."""
        return {
            "kind": self.key.kind,
            "recipe": recipe.model_dump(mode="json"),
            "out": str(self.out),
            "teacher": None if self.teacher is None else str(self.teacher),
            "stores": str(out / STORES),
            "cost": str(self.cost_file(out)),
            "progress": str(self.progress_file(out)),
            "record_plans": self.record_plans,
        }


def plan_jobs(
    recipe: Recipe,
    arms: Sequence[ResolvedArm],
    seeds: Sequence[int],
    out: Path,
    teachers: Sequence[str],
    given: Mapping[str, Path],
) -> dict[Key, Job]:
    """All jobs, each after those that it needs; the arms of one seed, then those of the next. Those
    of the ``teachers`` that are ``given`` are in these folders already."""
    plan = _Plan(out, {arm.match for arm in arms if copies_plans(arm.control)})
    for name in teachers:
        plan.add_teacher(name, teacher_recipe(recipe, name), given.get(name))
    for seed in seeds:
        for arm in arms:
            plan.add_run(arm, seed)
    return plan.jobs


class _Plan:
    """Jobs as they are added, and the folders that exist already."""

    def __init__(self, out: Path, copied: Container[str | None]):
        self.out = out
        self._copied = copied  # arms whose plans a control follows
        self.jobs: dict[Key, Job] = {}
        self._taught: dict[str, Key] = {}
        self._first: dict[str, Key] = {}  # of the jobs of one digest
        found = [path for kind in ("teachers", "runs") for path in out.glob(f"{kind}/*")]
        self._existing = {path.name[-SHOWN:]: path for path in sorted(found)}

    def add_teacher(self, name: str, recipe: Recipe, given: Path | None) -> None:
        if recipe.teacher.weights is not None:
            return  # trained already; the arm's recipe names the file
        key = self._taught[name] = Key("teach", name, recipe.seed)
        if given is None:
            decides = {"recipe": what_decides("teach", recipe, taught=False)}
        else:  # its files decide, and not what could have made them
            decides = {"files": teacher_files(given)}
        digest = digest_of({"kind": "teach", **decides})
        out = given or self._folder("teachers", folder_name(name), digest)
        self.jobs[key] = Job(key, digest, out, lambda _: recipe, given=given is not None)

    def add_run(self, arm: ResolvedArm, seed: int) -> None:
        key = Key("distill", arm.name, seed)
        recipe = override(arm.recipe, {"seed": seed})
        taught = self._taught.get(arm.teacher or "")
        teacher = None if taught is None else self.jobs[taught]
        targets = self._add_store(arm, teacher, recipe)
        matched = None if arm.match is None else Key("distill", arm.match, seed)
        needs = [need for need in (taught, matched) if need is not None]

        def resolved(results: JobResults) -> Recipe:
            if arm.control is None or matched is None:
                return recipe
            finished = results[matched].results
            assert finished is not None
            own = control_settings(arm.control, recipe.student, finished, self.jobs[matched].out)
            return override(recipe, {**own, **arm.settings})

        copies = matched and [arm.control, self.jobs[matched].digest, arm.settings]
        digest = digest_of(
            {
                "kind": "distill",
                "recipe": what_decides("distill", recipe, taught=teacher is not None),
                "teacher": pretrained(recipe) if teacher is None else teacher.digest,
                "control": copies,
            }
        )
        out = self._folder("runs", f"{folder_name(arm.name)}-seed-{seed}", digest)
        recorded = arm.name in self._copied
        if digest in self._first:  # the same run by another name: done once, found by the other
            first = self.jobs[self._first[digest]]
            needs.append(first.key)
            out, recorded = first.out, first.record_plans or recorded
            self.jobs[first.key] = replace(first, record_plans=recorded)
        self._first.setdefault(digest, key)
        folder = teacher and teacher.out
        self.jobs[key] = Job(key, digest, out, resolved, tuple(needs), targets, folder, recorded)

    def _add_store(self, arm: ResolvedArm, teacher: Job | None, recipe: Recipe) -> Key | None:
        """The job that fills a run's soft targets, once for all runs that read the same."""
        student = recipe.student
        if not (student.stores and student.objective.build().needs_targets):
            return None
        settings = recipe.model_dump(mode="json")
        weighted = student.weighting or student.mode
        parts = [settings["data"], settings["student"]["augment"], settings["student"]["targets"]]
        # The teacher runs on no sample that weighs nothing.
        encoding = (token_encoding_of if recipe.reads_corpus else encoding_of)(recipe)
        parts += [weighted in ("significance", "hybrid"), encoding.settings]
        decides = what_decides("distill", recipe, taught=teacher is not None)
        if student.teachers is not None:
            parts.append(decides["student"]["teachers"])
        own: Any = [pretrained(recipe), decides["teacher"]] if teacher is None else teacher.digest
        digest = digest_of({"kind": "targets", "teacher": own, "parts": parts})
        name = " + ".join(student.teachers.of) if student.teachers else arm.teacher or PRETRAINED
        key = Key("targets", name, 0, digest[:SHOWN])
        out = self.out / STORES if teacher is None else teacher.out
        needs = () if teacher is None else (teacher.key,)
        folder = teacher and teacher.out
        self.jobs.setdefault(key, Job(key, digest, out, lambda _: recipe, needs, teacher=folder))
        return key

    def _folder(self, kind: str, stem: str, digest: str) -> Path:
        """The job's folder, which may exist under another name."""
        short = digest[:SHOWN]
        return self._existing.get(short, self.out / kind / f"{stem}-{short}")
