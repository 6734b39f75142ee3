"""Carrying a comparison out: teachers, then arms x seeds, several at a time, none of them twice."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    RecipeError,
    RunFolderError,
    SettingError,
    UnknownName,
    WriteFailed,
)
from frugalkd.experiments.comparison.arms import ResolvedArm, resolve_arms
from frugalkd.experiments.comparison.on_ray import RayWorkers
from frugalkd.experiments.comparison.paths import check_feature_paths
from frugalkd.experiments.comparison.plan import SHOWN, STORES, Job, Key, Outcome, plan_jobs
from frugalkd.experiments.comparison.pool import Workers
from frugalkd.experiments.comparison.progress import FOLDER as PROGRESS
from frugalkd.experiments.comparison.progress import read_progress
from frugalkd.experiments.comparison.statistics import MARGIN, Claim, require_statistics
from frugalkd.experiments.comparison.stores import cost_file, read_cost
from frugalkd.experiments.comparison.summary import SCHEMA, filling, summarise, untrained
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.material import refuse_other_data
from frugalkd.experiments.runs.summary import read_summary
from frugalkd.experiments.tracking.tracking import check_installed
from frugalkd.files import StrPath
from frugalkd.files.lock import Lock
from frugalkd.files.opening import named
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import make_folder, write_json
from frugalkd.models.identity import warn_of_torch
from frugalkd.runtime.settings import check_seed, shown

FILE = "comparison.json"

_MOST_SEEDS = 100_000

Event = dict[str, Any]
"""``event`` (begun, running, done, found, failed), ``kind`` (teach, targets, distill), ``name``,
``seed``, ``finished`` and ``total`` (stores of soft targets not counted), ``accuracy`` and
``error`` (or None), ``progress``: of running, every few seconds, how far it is, in words."""

TICK = 5.0
"""Seconds between two such events of a job."""


def compare(
    recipe: Recipe,
    *,
    arms: Sequence[str],
    seeds: int | Sequence[int],
    out: StrPath,
    budgets: Sequence[float] = (),
    jobs: int = 2,
    listener: Callable[[Event], None] | None = None,
    teachers: Sequence[str] = (),
    notes: Sequence[str] = (),
    declared: Sequence[Claim] = (),
    margin: float = MARGIN,
    on: str = "here",
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Run arms x budgets x seeds, and write ``out/comparison.json`` after each finished run.

    Every arm of a seed starts with the same weights and sees samples in the same order. Runs take
    turns by seed, so that all arms meet the same machine. What is done in ``out`` already is not
    run again; what was cut off goes on from its last checkpoint. A run that fails is named, and
    the others go on. Folders, ``out/teachers/NAME-DIGEST`` and ``out/runs/ARM-seed-SEED-DIGEST``,
    end in the digest of what decides the run: an arm that changed is another run.

    Args:
        recipe: its arms and teachers, and the whole that arms differ from.
        arms: names; see :func:`frugalkd.experiments.comparison.resolve_arms`. A control brings
            along the arm that it matches.
        seeds: the seeds, or how many of them (0, 1, ...). Teachers have the recipe's seed.
        out: the comparison's folder.
        budgets: parts of full training, in (0, 1]: an arm that can be made to spend each comes once
            for each, as ``ARM@BUDGET``; see :func:`frugalkd.experiments.comparison.resolve_arms`.
        jobs: processes at a time. Each has the recipe's threads, whatever ``jobs`` is. A script
            that calls this needs the guard ``if __name__ == "__main__"``, as all of
            multiprocessing's children do.
        listener: told of each run as it begins and ends.
        teachers: more of the recipe's teachers to train and show, needed or not.
        notes: lines to keep in the comparison.
        declared: claims to test, see :func:`frugalkd.experiments.comparison.claims`.
        margin: of accuracy, in [0, 1]: by how much "no worse" may be worse.
        on: ``here``: processes of this machine; ``ray``: each run a task of a Ray cluster, begun
            again where its node is lost, as many at a time as the cluster has room for.
        ray_address: of that cluster; None for one of this machine alone.

    Returns:
        The content of ``comparison.json``.

    Raises:
        UnknownName: an arm or a teacher that the recipe does not have.
        ClusterError: Ray is not installed, or there is no cluster at the address.
        RecipeError: no seed, a duplicate or one that no random stream takes, a margin outside
            [0, 1], or an arm that cannot be made.
        ModelError: an arm's objective reads a module that its student or teacher does not have.
        ReportError: the extra ``report`` is not installed.
        TrackerError: a tracker that the recipe names is not installed.
        RunFolderError: ``out`` holds a comparison of another recipe, or finished runs on other
            data; or another process is at work in it.
        WriteFailed: ``out`` cannot be written, and not all of its runs are done.
    """
    if jobs < 1:
        raise RecipeError(f"jobs must be 1 or more, not {jobs}")
    if on not in ("here", "ray"):
        raise UnknownName("place for runs", on, ("here", "ray"))
    if ray_address is not None and on != "ray":
        raise RecipeError("an address of a Ray cluster is for runs on ray: add --on ray")
    comparison = prepare(
        recipe, arms, seeds, named(out), budgets=budgets, teachers=teachers, notes=notes,
        declared=declared, margin=margin, listener=listener,
    )  # fmt: skip
    require_statistics()
    check_installed(recipe.trackers.chosen)
    check_feature_paths(comparison.arms)
    make_folder(comparison.out)
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(Lock(comparison.out).release)
        except WriteFailed:  # what is done can be looked at where nothing can be written
            content = comparison.found()
            if content is None:
                raise
            return content
        if on == "ray":
            workers: Workers | RayWorkers = RayWorkers(recipe.threads, recipe.device, ray_address)
        else:
            workers = Workers(jobs, recipe.threads)
        return comparison.run(stack.enter_context(workers))


def prepare(
    recipe: Recipe,
    arms: Sequence[str],
    seeds: int | Sequence[int],
    out: Path,
    *,
    budgets: Sequence[float] = (),
    teachers: Sequence[str] = (),
    notes: Sequence[str] = (),
    declared: Sequence[Claim] = (),
    margin: float = MARGIN,
    listener: Callable[[Event], None] | None = None,
) -> Comparison:
    """A comparison of which nothing is carried out yet; arguments and errors are those of
    :func:`compare`."""
    if isinstance(seeds, int) and seeds > _MOST_SEEDS:
        raise RecipeError(f"seeds must be {_MOST_SEEDS} at most, not {shown(seeds)}")
    try:
        wanted = list(range(seeds)) if isinstance(seeds, int) else list(map(check_seed, seeds))
    except SettingError as error:
        raise RecipeError(f"seeds: each {error}") from None
    if not wanted or len(set(wanted)) != len(wanted):
        raise RecipeError(f"seeds must be one or more, none of them twice: {seeds}")
    if not 0 <= margin <= 1:
        raise RecipeError(f"margin must be a part of all test samples, in [0, 1], not {margin:g}")
    resolved = resolve_arms(recipe, arms, budgets)
    names = [arm.name for arm in resolved]
    for arm, against, _ in declared:
        for name in (arm, against):
            if name not in names:
                raise UnknownName("arm", name, names)
    used = [arm.teacher for arm in resolved if arm.teacher is not None]
    return Comparison(
        recipe,
        resolved,
        wanted,
        list(dict.fromkeys([*used, *teachers])),
        named(out),
        list(notes),
        list(declared),
        margin,
        listener or (lambda event: None),
    )


@dataclass
class Comparison:
    """The state of one comparison: every job is pending, running, or has an outcome."""

    recipe: Recipe
    arms: list[ResolvedArm]
    seeds: list[int]
    teachers: list[str]
    out: Path
    notes: list[str]
    declared: list[Claim]
    margin: float
    tell: Callable[[Event], None]
    running: dict[Key, Job] = field(default_factory=dict)
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    _begun: bool = False
    _data: dict[str, Any] = field(default_factory=dict)
    _summaries: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_other(self.out / FILE, self.recipe)
        self.jobs = plan_jobs(self.recipe, self.arms, self.seeds, self.out, self.teachers)
        self.pending = dict(self.jobs)
        self.total = sum(key.kind != "targets" for key in self.pending)

    def run(self, workers: Workers | RayWorkers) -> dict[str, Any]:
        """Carry out what is not done yet; returns the content of ``comparison.json``."""
        self._advance(None)  # finished runs on other data are refused before any other begins
        self._advance(workers)
        content = self._write()
        while workers.busy:
            ended = workers.next(TICK)
            if ended is None:
                for key, job in self.running.items():
                    self._say("running", key, read_progress(progress_file(self.out, job)))
                continue
            self._finish(*ended)
            self._advance(workers)
            content = self._write()
        return content

    def found(self) -> dict[str, Any] | None:
        """The content of ``comparison.json`` where every run is done already, without writing it;
        else None. Where the file says something else, that is a FrugalKDWarning."""
        self._advance(None)
        undone = any(key.kind != "targets" for key in self.pending)
        if undone or any(outcome.error is not None for outcome in self.outcomes.values()):
            return None
        content, path = self._content(), self.out / FILE
        if not path.is_file() or read_json(path, SCHEMA) != content:
            warnings.warn(
                f"{path} cannot be written, and is not of these runs: they are shown, and not kept",
                FrugalKDWarning,
                stacklevel=3,
            )
        return content

    def _advance(self, workers: Workers | RayWorkers | None) -> None:
        """Settle what can be settled, and begin what can begin (nothing without ``workers``), in
        the order of the plan."""
        for job in list(self.pending.values()):
            if job.key in self.pending and job.key.kind != "targets":
                self._consider(job, workers)
            if self._begun and workers is not None and not workers.free:
                break  # what is done already was found when the first of them began
        self._begun = True

    def _consider(self, job: Job, workers: Workers | RayWorkers | None) -> None:
        if not self._have(job, job.needs):
            return
        try:
            recipe = job.recipe(self.outcomes)
            found = on_disk(job, recipe)
        except FrugalKDError as error:
            self._settle(job.key, Outcome(error=str(error)), "failed")
            return
        if found is not None:
            refuse_other_data(found, recipe, job.out, self._data)
            self._settle(job.key, Outcome(found, _classes(job.out)), "found")
            return
        if workers is None:
            return
        if job.targets is not None and job.targets in self.pending and workers.free:
            store = self.pending[job.targets]
            self._begin(store, store.recipe(self.outcomes), workers)
        if (job.targets is None or self._have(job, (job.targets,))) and workers.free:
            self._begin(job, recipe, workers)

    def _have(self, job: Job, needs: Sequence[Key]) -> bool:
        """Whether all of ``needs`` have succeeded; where one has failed, ``job`` has failed."""
        for need in needs:
            outcome = self.outcomes.get(need)
            if outcome is None:
                return False
            if outcome.error is not None:
                what = {
                    "teach": f"its teacher {need.name}",
                    "targets": f"storing the soft targets of {need.name}",
                    "distill": f"{need.name}, which it matches,",
                }[need.kind]
                if self.jobs[need].digest == job.digest:
                    what = f"{need.name}, which is the same run,"
                error = f"{what} failed: {outcome.error}"
                self._settle(job.key, Outcome(error=error), "failed")
                return False
        return True

    def _begin(self, job: Job, recipe: Recipe, workers: Workers | RayWorkers) -> None:
        self.running[job.key] = self.pending.pop(job.key)
        self._say("begun", job.key)
        workers.submit(job.key, task_of(self.out, job, recipe))

    def _finish(self, key: Key, reply: dict[str, Any]) -> None:
        job = self.running.pop(key)
        if "error" in reply:
            self._settle(key, Outcome(error=reply["error"], details=reply), "failed")
            return
        self._settle(key, Outcome(reply["results"], _classes(job.out)), "done")

    def _settle(self, key: Key, outcome: Outcome, event: str) -> None:
        self.pending.pop(key, None)
        self.outcomes[key] = outcome
        self._say(event, key)

    def _say(self, event: str, key: Key, progress: str = "") -> None:
        outcome = self.outcomes.get(key, Outcome())
        self.tell(
            {
                "event": event,
                "kind": key.kind,
                "name": key.name,
                "seed": key.seed,
                "finished": sum(done.kind != "targets" for done in self.outcomes),
                "total": self.total,
                "accuracy": outcome.accuracy,
                "error": outcome.error,
                "progress": progress,
            }
        )

    def _write(self) -> dict[str, Any]:
        content = self._content()
        write_json(self.out / FILE, content)
        return content

    def _content(self) -> dict[str, Any]:
        content = summarise(
            self.recipe,
            self.arms,
            self.seeds,
            self.teachers,
            self.outcomes,
            self.notes,
            self.declared,
            self.margin,
        )
        stored = {job.key.name: job.targets.name for job in self.jobs.values() if job.targets}
        for row in content["arms"]:
            row["targets"] = stored.get(row["arm"])
        known = {teacher["teacher"] for teacher in content["teachers"]}
        content["teachers"] += [
            untrained(self.recipe, name)
            for name in dict.fromkeys(stored.values())
            if name not in known
        ]
        for teacher in content["teachers"]:
            teacher["targets"] = self._store_cost(teacher["teacher"])
            teacher["summary"] = self._summary(teacher["teacher"])
        return content

    def _summary(self, teacher: str) -> dict[str, Any] | None:
        """What a finished teacher's ledger says."""
        if teacher not in self._summaries:
            outs = [job.out for key, job in self.jobs.items() if key[:2] == ("teach", teacher)]
            if not outs or not (outs[0] / "results.json").is_file():
                return None
            self._summaries[teacher] = read_summary(outs[0])
        return self._summaries[teacher]

    def _store_cost(self, name: str) -> dict[str, float] | None:
        """What filling stores of soft targets of ``name`` has cost, all that these runs use: by
        itself, and within runs that did it; None for none."""
        files = {
            cost_file(self.out, self.jobs[key]) for key in self.jobs if key[:2] == ("targets", name)
        }
        found = [read_cost(path) for path in files if path.is_file()]
        for key, outcome in self.outcomes.items():
            store = self.jobs[key].targets
            if store is not None and store.name == name and (cost := filling(outcome.results)):
                found.append(cost)
        if not found:
            return None
        return {what: sum(cost[what] for cost in found) for what in ("rows", "seconds")}


def task_of(out: Path, job: Job, recipe: Recipe) -> dict[str, Any]:
    """A job of the comparison in ``out``, for a worker process."""
    return {
        "kind": job.key.kind,
        "recipe": recipe.model_dump(mode="json"),
        "out": str(job.out),
        "teacher": None if job.teacher is None else str(job.teacher),
        "stores": str(out / STORES),
        "cost": str(cost_file(out, job)),
        "progress": str(progress_file(out, job)),
    }


def progress_file(out: Path, job: Job) -> Path:
    """Where a running job of the comparison in ``out`` writes how far it is."""
    return out / PROGRESS / f"{job.digest[:SHOWN]}.json"


def on_disk(job: Job, recipe: Recipe) -> dict[str, Any] | None:
    """The results, where this very run is done.

    Raises:
        RunFolderError: they are damaged, or of a run that learned from another teacher.
    """
    if not (job.out / "results.json").is_file():
        return None
    results = read_results(job.out)
    if results["digest"] != run_digest(job.key.kind, recipe, job.teacher):
        raise RunFolderError(
            f"{job.out} holds a run that learned from another teacher's files: delete it, and it "
            "is run again"
        )
    with contextlib.suppress(KeyError, TypeError):
        warn_of_torch(results["versions"]["torch"], "a finished run")
    return results


def _classes(folder: Path) -> int | None:
    """How many classes the data have, where the run's model card says it."""
    path = folder / "model.json"
    return read_json(path).get("num_classes") if path.is_file() else None


def _refuse_other(path: Path, recipe: Recipe) -> None:
    """Refuse a folder whose comparison is of another recipe, or of another version.

    Raises:
        RunFolderError: as it says.
    """
    if not path.is_file():
        return
    before = read_json(path, SCHEMA, "delete it (its runs stay), or choose another --out")
    try:
        name, data = before["recipe"]["name"], before["recipe"]["data"]
    except (KeyError, TypeError):
        raise RunFolderError(f"{path} is damaged: it does not hold its recipe") from None
    for what, theirs, ours in (
        ("recipe", name, recipe.name),
        ("section 'data'", data, recipe.model_dump(mode="json")["data"]),
    ):
        if theirs != ours:
            raise RunFolderError(
                f"{path.parent} holds a comparison of another {what}: choose another --out"
            )
