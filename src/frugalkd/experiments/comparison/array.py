"""One run of a comparison at a time, for the job arrays of schedulers."""

from __future__ import annotations

from typing import Any

from frugalkd.errors import FrugalKDError, RecipeError, RunFolderError
from frugalkd.experiments.comparison.plan import SHOWN, Job, Key, Outcome
from frugalkd.experiments.comparison.run import Comparison, on_disk, task_of
from frugalkd.experiments.comparison.stores import cost_file, read_cost
from frugalkd.experiments.comparison.worker import carry_out
from frugalkd.experiments.runs.material import refuse_other_data

SHORTEST = 6
"""Digits of a digest that name a run."""


def list_jobs(comparison: Comparison) -> list[dict[str, Any]]:
    """Every job of a comparison, each after those that it needs; what has several names, once.

    Returns:
        A dict a job: ``digest``, ``kind`` (teach, targets, distill), ``name``, ``seed``, ``done``,
        ``needs`` (digests), ``out``.
    """
    rows = []
    for job in _distinct(comparison).values():
        rows.append(
            {
                "digest": job.digest[:SHOWN],
                "kind": job.key.kind,
                "name": job.key.name,
                "seed": job.key.seed if job.key.kind == "distill" else None,
                "done": _done(comparison, job),
                "needs": [comparison.jobs[key].digest[:SHOWN] for key in job.waits_for],
                "out": str(job.out),
            }
        )
    return rows


def run_one(comparison: Comparison, digest: str) -> dict[str, Any]:
    """Carry out the job whose digest begins with ``digest``, in this process; what it needs must be
    done. ``comparison.json`` is not written: the whole comparison does that, and runs nothing.

    Returns:
        ``results.json`` of a run; of a store, ``rows`` and ``seconds``.

    Raises:
        RecipeError: no job has that digest, or several have.
        RunFolderError: something that it needs is missing; it is named.
        FrugalKDError: the run failed.
    """
    job = _named(comparison, digest)
    outcomes: dict[Key, Outcome] = {}
    for key in job.waits_for:
        need = comparison.jobs[key]
        if not _done(comparison, need):
            raise RunFolderError(
                f"{job.name} needs {need.name}, which is not done: run it first, with --only "
                f"{need.digest[:SHOWN]}"
            )
        if key.kind == "distill":
            outcomes[key] = Outcome(run_one(comparison, need.digest))
    recipe = job.recipe(outcomes)
    if job.key.kind != "targets":
        found = on_disk(job, recipe)
        if found is not None:
            refuse_other_data(found, recipe, job.out)
            return found
    reply = carry_out(task_of(comparison.out, job, recipe))
    if "error" in reply:
        raise FrugalKDError(f"{job.name} failed: {reply['error']}")
    return reply["results"]


def _done(comparison: Comparison, job: Job) -> bool:
    if job.key.kind == "targets":
        return bool(read_cost(cost_file(comparison.out, job))["done"])
    return (job.out / "results.json").is_file()


def _distinct(comparison: Comparison) -> dict[str, Job]:
    """The jobs by digest. A run of several names is the first of them, which needs no other."""
    found: dict[str, Job] = {}
    for job in comparison.jobs.values():
        found.setdefault(job.digest, job)
    return found


def _named(comparison: Comparison, digest: str) -> Job:
    wanted = digest.strip().lower()
    if len(wanted) < SHORTEST:
        raise RecipeError(f"--only {digest}: give at least {SHORTEST} digits of a digest of --list")
    found = [job for job in _distinct(comparison).values() if job.digest.startswith(wanted)]
    if len(found) != 1:
        said = "several runs have" if found else "no run has"
        raise RecipeError(f"--only {digest}: {said} that digest; --list shows them")
    return found[0]
