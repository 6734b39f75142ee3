"""Executing a comparison: teachers, then arms x seeds, several at a time, none of them twice; or
one of its jobs, for the job arrays of schedulers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    ModelError,
    RecipeError,
    RunFolderError,
    SettingError,
    UnknownName,
    WriteFailed,
)
from frugalkd.experiments.comparison.arms import ResolvedArm, resolve_arms, teacher_recipe
from frugalkd.experiments.comparison.plan import SHOWN, Job, JobResult, Key, plan_jobs
from frugalkd.experiments.comparison.pool import (
    Pool,
    RayWorkers,
    Workers,
    execute,
    read_cost,
    read_progress,
)
from frugalkd.experiments.comparison.statistics import Claim, require_statistics
from frugalkd.experiments.comparison.summary import SCHEMA, filling, summarise
from frugalkd.experiments.comparison.taught import Given, check_given, given_teachers
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.from_recipe import make_data, make_model, refuse_other_data
from frugalkd.experiments.runs.summary import read_summary
from frugalkd.experiments.tracking.trackers import check_installed
from frugalkd.files import StrPath
from frugalkd.files.lock import Lock
from frugalkd.files.opening import named
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import make_folder, write_json
from frugalkd.models.features import feature_paths, find_paths
from frugalkd.models.identity import warn_of_torch
from frugalkd.objectives.criterion import check_paths
from frugalkd.objectives.objective import features_read
from frugalkd.runtime.settings import check_seed, shown

FILE = "comparison.json"
DEMO_ARMS = (
    "vanilla", "cost", "random-cost", "short-cost", "significance", "regulated", "hybrid",
)  # fmt: skip
DEMO_SEEDS = 3
DEMO_NOTE = "360 test digits rank nothing: this shows that it works"

_MOST_SEEDS = 100_000

Event = dict[str, Any]
"""``event`` (begun, running, done, found, failed), ``kind`` (teach, targets, distill), ``name``,
``seed``, ``finished`` and ``total`` (stores of soft targets not counted), ``accuracy`` and
``error`` (or None), ``progress``: of running, every few seconds, in words."""

TICK = 5.0
"""Seconds between two such events of a job."""


def compare(
    recipe: Recipe,
    *,
    arms: Sequence[str],
    seeds: int | Sequence[int],
    out: StrPath,
    budgets: Sequence[float] = (),
    teachers: Sequence[str] = (),
    claims: Sequence[Claim] = (),
    teacher: Given | None = None,
    jobs: int = 2,
    ray: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, Any]:
    """Run arms x budgets x seeds, and write ``out/comparison.json`` after each finished run.

    Every arm of a seed starts with the same weights and sees samples in the same order. Runs are
    interleaved by seed, so that machine conditions affect all arms equally. What is done in ``out``
    already is not run again; a stopped run resumes from its last checkpoint. A run that fails is
    named, and the others continue. Folders, ``out/teachers/NAME-DIGEST`` and
    ``out/runs/ARM-seed-SEED-DIGEST``, end in the digest of what decides the run: an arm that
    changed is another run.

    Args:
        recipe: the default settings of all arms, its own arms and its teachers.
        arms: names; see :func:`frugalkd.experiments.comparison.resolve_arms`. The arm that a
            control matches is added.
        seeds: the seeds, or how many of them (0, 1, ...). Teachers have the recipe's seed.
        out: the comparison's folder.
        budgets: fractions of full training, in (0, 1]: an arm that supports budgets runs once at
            each, as ``ARM@BUDGET``.
        teachers: more of the recipe's teachers to train and show, needed or not.
        claims: to test, see :func:`frugalkd.experiments.comparison.claims`.
        teacher: a folder of ``frugalkd teach``, which is used in place of training the recipe's
            first teacher; or one by the name of each teacher that is trained already.
        jobs: processes at a time on this machine. Each has the recipe's threads, whatever ``jobs``
            is. A script that calls this needs the guard ``if __name__ == "__main__"``, as for all
            of multiprocessing's children.
        ray: the address of a Ray cluster (``auto``: the one of this machine; ``local``: a new one
            on this machine), on which each run is a task, started again where its node is lost;
            None: processes of this machine.
        on_event: receives an :data:`Event` when a run begins, makes progress and ends.

    Returns:
        The content of ``comparison.json``.

    Raises:
        UnknownName: an arm or a teacher that the recipe does not have.
        ClusterError: Ray is not installed, or there is no cluster at the address.
        RecipeError: no seed, a duplicate or one that no random stream accepts, a margin outside
            [0, 1], or an arm that cannot be made.
        ModelError: an arm's objective reads a module that its student or teacher does not have.
        ReportError: the extra ``report`` is not installed.
        TrackerError: a tracker that the recipe names is not installed.
        RunFolderError: ``out`` holds a comparison of another recipe, or finished runs on other
            data; or another process is using it; or ``teacher`` holds no teacher, or one that was
            trained on other data. Of other settings it is a RecipeError, of other classes a
            TargetsError.
        WriteFailed: ``out`` cannot be written, and not all of its runs are done.
    """
    made = ComparisonRun(recipe, arms, seeds, out, budgets, teachers, claims, teacher, on_event)
    return made.execute(jobs, ray)


def demo(
    out: StrPath, jobs: int = 2, on_event: Callable[[Event], None] | None = None
) -> dict[str, Any]:
    """Compare the modes, a cost and its two controls on scikit-learn's digits: :func:`compare` with
    its arguments, result and errors."""
    recipe = load_recipe("digits")
    teachers = list(recipe.teachers)
    made = ComparisonRun(recipe, DEMO_ARMS, DEMO_SEEDS, out, teachers=teachers, on_event=on_event)
    made.notes = [DEMO_NOTE]
    return made.execute(jobs)


class ComparisonRun:
    """The state of one comparison: every job is pending, running, or has a result. Arguments and
    errors are those of :func:`compare`; nothing is executed yet."""

    def __init__(
        self,
        recipe: Recipe,
        arms: Sequence[str],
        seeds: int | Sequence[int],
        out: StrPath,
        budgets: Sequence[float] = (),
        teachers: Sequence[str] = (),
        claims: Sequence[Claim] = (),
        teacher: Given | None = None,
        on_event: Callable[[Event], None] | None = None,
    ):
        self.recipe, self.out, self.seeds = recipe, named(out), _seeds(seeds)
        self.arms = resolve_arms(recipe, arms, budgets)
        self.claims = [Claim(*claim) for claim in claims]
        names = [arm.name for arm in self.arms]
        for claim in self.claims:
            if not 0 <= claim.margin <= 1:
                raise RecipeError(
                    f"margin must be a fraction of all test samples, in [0, 1], not "
                    f"{claim.margin:g}"
                )
            for name in (claim.arm, claim.against):
                if name not in names:
                    raise UnknownName("arm", name, names)
        used = [arm.teacher for arm in self.arms if arm.teacher is not None]
        self.teachers = list(dict.fromkeys([*used, *teachers]))
        self.given = given_teachers(recipe, teacher)
        self.teachers = list(dict.fromkeys([*self.teachers, *self.given]))
        self.notes: list[str] = []
        _refuse_other(self.out / FILE, recipe)
        self.jobs = plan_jobs(recipe, self.arms, self.seeds, self.out, self.teachers, self.given)
        self.pending = dict(self.jobs)
        self.running: dict[Key, Job] = {}
        self.results: dict[Key, JobResult] = {}
        self._on_event = on_event
        self._data: dict[str, Any] = {}

    def execute(self, jobs: int = 2, ray: str | None = None) -> dict[str, Any]:
        """Execute what is not done yet, as :func:`compare` does; returns ``comparison.json``."""
        if jobs < 1:
            raise RecipeError(f"jobs must be 1 or more, not {jobs}")
        require_statistics()
        check_installed(self.recipe.trackers.chosen)
        self._check_given()
        check_feature_paths(self.arms)
        make_folder(self.out)
        with contextlib.ExitStack() as stack:
            try:
                stack.callback(Lock(self.out).release)
            except WriteFailed:  # finished comparisons can be shown where nothing can be written
                content = self._found()
                if content is None:
                    raise
                return content
            threads, device = self.recipe.threads, self.recipe.device
            pool = Workers(jobs, threads) if ray is None else RayWorkers(threads, device, ray)
            return self._run(stack.enter_context(pool))

    def _check_given(self) -> None:
        """Refuse a given teacher of other data or classes; nothing was imported for it before."""
        for name, folder in self.given.items():
            recipe = teacher_recipe(self.recipe, name)
            self._data[recipe.data.model_dump_json()] = check_given(folder, recipe)

    def _run(self, workers: Pool) -> dict[str, Any]:
        self._advance(None)  # finished runs on other data are refused before any other begins
        self._advance(workers)
        content = self._write()
        while workers.busy:
            ended = workers.next(TICK)
            if ended is None:
                for key, job in self.running.items():
                    self._report("running", key, read_progress(job.progress_file(self.out)))
                continue
            key, reply = ended
            job = self.running.pop(key)
            if "error" in reply:
                failed = JobResult(error=reply["error"], traceback=reply.get("traceback"))
                self._settle(key, failed)
            else:
                self._settle(key, JobResult(reply["results"], _classes(job.out)), "done")
            self._advance(workers)
            content = self._write()
        return content

    def _found(self) -> dict[str, Any] | None:
        """The content of ``comparison.json`` where every run is done already, without writing it;
        else None. Where the file differs, that is a FrugalKDWarning."""
        self._advance(None)
        undone = any(key.kind != "targets" for key in self.pending)
        if undone or any(result.error is not None for result in self.results.values()):
            return None
        content, path = self._content(), self.out / FILE
        if not path.is_file() or read_json(path, SCHEMA) != content:
            warnings.warn(
                f"{path} cannot be written, and is not of these runs: they are shown, and not kept",
                FrugalKDWarning,
                stacklevel=4,
            )
        return content

    def _advance(self, workers: Pool | None) -> None:
        """Settle what can be settled, and begin what can begin (nothing without ``workers``), in
        the order of the plan."""
        for job in list(self.pending.values()):
            if job.key in self.pending and job.key.kind != "targets":
                self._consider(job, workers)
            if workers is not None and not workers.free:
                break

    def _consider(self, job: Job, workers: Pool | None) -> None:
        if not self._have(job, job.needs):
            return
        try:
            recipe = job.recipe(self.results)
            found = on_disk(job, recipe)
        except FrugalKDError as error:
            return self._settle(job.key, JobResult(error=str(error)))
        if found is not None:
            refuse_other_data(found, recipe, job.out, self._data)
            return self._settle(job.key, JobResult(found, _classes(job.out)), "found")
        if workers is None:
            return
        if job.targets is not None and job.targets in self.pending and workers.free:
            store = self.pending[job.targets]
            self._begin(store, store.recipe(self.results), workers)
        if (job.targets is None or self._have(job, (job.targets,))) and workers.free:
            self._begin(job, recipe, workers)

    def _have(self, job: Job, needs: Sequence[Key]) -> bool:
        """Whether all of ``needs`` have succeeded; where one has failed, ``job`` has failed."""
        for need in needs:
            result = self.results.get(need)
            if result is None:
                return False
            if result.error is not None:
                what = {
                    "teach": f"its teacher {need.name}",
                    "targets": f"storing the soft targets of {need.name}",
                    "distill": f"{need.name}, which it matches,",
                }[need.kind]
                if self.jobs[need].digest == job.digest:
                    what = f"{need.name}, which is the same run,"
                self._settle(job.key, JobResult(error=f"{what} failed: {result.error}"))
                return False
        return True

    def _begin(self, job: Job, recipe: Recipe, workers: Pool) -> None:
        self.running[job.key] = self.pending.pop(job.key)
        self._report("begun", job.key)
        workers.submit(job.key, job.task(self.out, recipe))

    def _settle(self, key: Key, result: JobResult, event: str = "failed") -> None:
        self.pending.pop(key, None)
        self.results[key] = result
        self._report(event, key)

    def _report(self, event: str, key: Key, progress: str = "") -> None:
        if self._on_event is None:
            return
        result = self.results.get(key, JobResult())
        self._on_event(
            {
                "event": event,
                "kind": key.kind,
                "name": key.name,
                "seed": key.seed,
                "finished": sum(done.kind != "targets" for done in self.results),
                "total": sum(key.kind != "targets" for key in self.jobs),
                "accuracy": result.accuracy,
                "measure": result.measure,
                "error": result.error,
                "progress": progress,
            }
        )

    def _write(self) -> dict[str, Any]:
        content = self._content()
        write_json(self.out / FILE, content)
        return content

    def _content(self) -> dict[str, Any]:
        stored = {job.key.name: job.targets.name for job in self.jobs.values() if job.targets}
        teachers = list(dict.fromkeys([*self.teachers, *stored.values()]))
        content = summarise(
            self.recipe, self.arms, self.seeds, teachers, self.results, self.notes, self.claims
        )
        for row in content["arms"]:
            row["targets"] = stored.get(row["arm"])
        for row in content["teachers"]:
            row["targets"] = self._store_cost(row["teacher"])
            row["folder"] = (
                str(self.given[name]) if (name := row["teacher"]) in self.given else None
            )
            own = [job for key, job in self.jobs.items() if key[:2] == ("teach", row["teacher"])]
            done = [job.out for job in own if self._done(job)]
            found = (read_summary(done[0]) if done else None) or {}
            # Labels are reviewed on the page of the teacher's own folder.
            row["summary"] = {k: v for k, v in found.items() if k != "suspects"} or None
        return content

    def _store_cost(self, name: str) -> dict[str, float] | None:
        """The cost of filling stores of soft targets of ``name``, by jobs and within runs; None for
        no store."""
        jobs = [job for key, job in self.jobs.items() if key[:2] == ("targets", name)]
        paths = {job.cost_file(self.out) for job in jobs}
        found = [read_cost(path) for path in paths if path.is_file()]
        for key, result in self.results.items():
            store = self.jobs[key].targets
            if store is not None and store.name == name and (cost := filling(result.results)):
                found.append(cost)
        if not found:
            return None
        return {what: sum(cost[what] for cost in found) for what in ("rows", "seconds")}

    def list_jobs(self) -> list[dict[str, Any]]:
        """Every job, each after those that it needs; a job of several names once: ``digest``,
        ``kind`` (teach, targets, distill), ``name``, ``seed``, ``done``, ``needs`` (digests),
        ``out``."""
        return [
            {
                "digest": job.digest[:SHOWN],
                "kind": job.key.kind,
                "name": job.key.name,
                "seed": job.key.seed if job.key.kind == "distill" else None,
                "done": self._done(job),
                "needs": [self.jobs[key].digest[:SHOWN] for key in job.waits_for],
                "out": str(job.out),
            }
            for job in self._distinct()
        ]

    def run_one(self, digest: str) -> dict[str, Any]:
        """Execute the job whose digest begins with ``digest``, in this process; what it needs must
        be done. ``comparison.json`` is not written: :func:`compare` does that, and runs nothing.

        Returns:
            ``results.json`` of a run; of a store, ``rows`` and ``seconds``.

        Raises:
            RecipeError: no job has that digest, or several have.
            RunFolderError: something that it needs is missing; it is named.
            FrugalKDError: the run failed.
        """
        wanted = digest.strip().lower()
        if len(wanted) < 6:
            raise RecipeError(f"--only {digest}: give at least 6 digits of a digest of --list")
        matches = [job for job in self._distinct() if job.digest.startswith(wanted)]
        if len(matches) != 1:
            why = "several runs have" if matches else "no run has"
            raise RecipeError(f"--only {digest}: {why} that digest; --list shows them")
        (job,) = matches
        self._check_given()
        results: dict[Key, JobResult] = {}
        for key in job.waits_for:
            need = self.jobs[key]
            if not self._done(need):
                raise RunFolderError(
                    f"{job.name} needs {need.name}, which is not done: run it first, with --only "
                    f"{need.digest[:SHOWN]}"
                )
            if key.kind == "distill":
                results[key] = JobResult(self.run_one(need.digest))
        recipe = job.recipe(results)
        if job.key.kind != "targets":
            found = on_disk(job, recipe)
            if found is not None:
                refuse_other_data(found, recipe, job.out)
                return found
        reply = execute(job.task(self.out, recipe))
        if "error" in reply:
            raise FrugalKDError(f"{job.name} failed: {reply['error']}")
        return reply["results"]

    def _done(self, job: Job) -> bool:
        if job.key.kind == "targets":
            return bool(read_cost(job.cost_file(self.out))["done"])
        return (job.out / "results.json").is_file()

    def _distinct(self) -> list[Job]:
        """One job for each digest: the first of a run's names, which needs no other."""
        found: dict[str, Job] = {}
        for job in self.jobs.values():
            found.setdefault(job.digest, job)
        return list(found.values())


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    count = seeds if isinstance(seeds, int) else len(seeds)
    if count > _MOST_SEEDS:
        raise RecipeError(f"seeds must be at most {_MOST_SEEDS}, not {shown(count)}")
    try:
        found = list(range(seeds)) if isinstance(seeds, int) else list(map(check_seed, seeds))
    except SettingError as error:
        raise RecipeError(f"seeds: each {error}") from None
    if not found or len(set(found)) != len(found):
        raise RecipeError(f"seeds must be one or more, without duplicates: {seeds}")
    return found


def check_feature_paths(arms: Sequence[ResolvedArm]) -> None:
    """Refuse an arm whose objective reads a module that its student or its teacher does not have,
    before a teacher is trained for it. Only arms that read features build models and read data.

    Raises:
        ModelError: with the arm's name and the nearest paths.
        FrugalKDError: the data or a model cannot be made.
    """
    checked = set()
    for arm in arms:
        recipe, role = arm.recipe, arm.recipe.student
        if role.objective.imports or not features_read(role.objective.build()):
            continue
        parts = (recipe.data, role.augment, role.model, recipe.teacher.model, role.objective)
        settings = repr(parts)
        if settings in checked:
            continue
        checked.add(settings)
        train = make_data(recipe, role.augment, recipe.seed).train
        objective = role.objective.build()
        try:
            with torch.random.fork_rng(devices=[]):
                check_paths(objective, make_model(role.model, train, recipe.seed))
                teacher = make_model(recipe.teacher.model, train, recipe.seed)
                find_paths(features_read(objective), feature_paths(teacher), "the teacher")
        except ModelError as error:
            raise ModelError(f"arm {arm.name}: {error}") from None


def on_disk(job: Job, recipe: Recipe) -> dict[str, Any] | None:
    """The results, where this very run is done.

    Raises:
        RunFolderError: they are damaged, or of a run that learned from another teacher.
    """
    if not job.given and not (job.out / "results.json").is_file():
        return None
    results = read_results(job.out)
    if not job.given and results["digest"] != run_digest(job.key.kind, recipe, job.teacher):
        raise RunFolderError(
            f"{job.out} holds a run that learned from another teacher's files: delete it, and it "
            "is run again"
        )
    with contextlib.suppress(KeyError, TypeError):
        warn_of_torch(results["versions"]["torch"], "a finished run")
    return results


def _classes(folder: Path) -> int | None:
    """The number of classes, where the run's model card has it."""
    path = folder / "model.json"
    return read_json(path).get("num_classes") if path.is_file() else None


def _refuse_other(path: Path, recipe: Recipe) -> None:
    """Raises RunFolderError for a comparison of another recipe, or of another version."""
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
