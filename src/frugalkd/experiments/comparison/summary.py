"""``comparison.json``, from the results of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from frugalkd.errors import few
from frugalkd.experiments.comparison.arms import ResolvedArm
from frugalkd.experiments.comparison.plan import PRETRAINED, JobResult, JobResults, Key
from frugalkd.experiments.comparison.statistics import (
    BUDGET_TOLERANCE,
    TOLERANCE,
    Claim,
    claims,
    differences,
    frontier,
    mean_interval,
    spread,
)
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.schema import quality_of
from frugalkd.experiments.runs.summary import mean_history

SCHEMA = 2

FIELDS = (
    "budget: samples backpropagated, of full distillation over the recipe's epochs",
    "cost: (3 x samples backpropagated + screened + r x teacher queries) / (3 x samples), in "
    "epochs of full distillation; r is the teacher's forward pass over the student's, by FLOPs",
    "wall_ratio: mean over seeds of the training's seconds over the reference's. Filling stores of "
    "soft targets before a training is in neither: it is done once for all runs, and counted with "
    "the teacher ('targets'). Querying a teacher within a training (live, or at first visits) is",
    "meters: means over runs, without that filling",
    "peak memory: a process serves several runs, so it is the largest of them so far",
)

BySeed = Mapping[int, JobResult]


def summarise(
    recipe: Recipe,
    arms: Sequence[ResolvedArm],
    seeds: Sequence[int],
    teachers: Sequence[str],
    results: JobResults,
    notes: Sequence[str],
    declared: Sequence[Claim],
) -> dict[str, Any]:
    """The comparison so far, as plain values. Runs without a result yet are left out, and so are
    those of a seed that some arm, of those that have begun, has not finished: means over other
    seeds are not compared with each other."""
    names = [arm.name for arm in arms]
    reference = "vanilla" if "vanilla" in names else names[0]
    finished = {
        name: {s: results[key] for s in seeds if (key := Key("distill", name, s)) in results}
        for name in names
    }
    whole = [seed for seed in seeds if all(seed in found for found in finished.values())]
    begun = [arm for arm in arms if finished[arm.name]]
    shown = set(seeds).intersection(*(finished[arm.name] for arm in begun))
    by_arm = {
        name: {seed: run for seed, run in runs.items() if seed in shown}
        for name, runs in finished.items()
    }
    at_budgets = any(arm.budget is not None for arm in arms)
    rows = [_row(recipe, arm, by_arm, reference, at_budgets) for arm in begun]
    mark_frontiers(rows)
    said = [
        *notes,
        *FIELDS,
        *_other_data(recipe, begun),
        *_mixed(results),
        *(note for row in rows for note in _warnings(row)),
    ]
    if len(seeds) < 2:
        said.append("one seed: there is no interval")
    failed = [
        {"kind": kind, "name": name, "seed": seed, "error": run.error, "traceback": run.traceback}
        for (kind, name, seed, _), run in results.items()
        if run.error is not None
    ]
    run = next((r.results for key, r in results.items() if r.results and key.kind != "targets"), {})
    known = {row["arm"] for row in rows}
    testable = [claim for claim in declared if {claim.arm, claim.against} <= known]
    tested, complete = claims({"arms": rows}, testable), len(whole) == len(seeds)
    if not complete:  # testing early, and stopping then, would be another test
        under_way = f"{len(whole)} of {len(seeds)} seeds are complete"
        for claim in tested:
            why = "; ".join(filter(None, [under_way, claim["why"]]))
            claim |= {"holds": False, "why": why}
    return {
        "schema": SCHEMA,
        "reference": reference,
        "measure": _measure(results),
        "arms": rows,
        "teachers": [_teacher(recipe, name, results) for name in teachers],
        "failed": failed,
        "complete": complete,
        "complete_seeds": whole,
        "planned": names,
        "runs": {"done": sum(map(len, finished.values())), "of": len(names) * len(seeds)},
        "name": recipe.name,
        "seeds": list(seeds),
        "split": run.get("split"),
        "threads": recipe.threads,
        "versions": run.get("versions"),
        "notes": said,
        "recipe": recipe.model_dump(mode="json"),
        "claims": tested,
    }


def _measure(results: JobResults) -> str:
    """The name of what the students are compared by."""
    runs = (run.results or {} for key, run in results.items() if key.kind == "distill")
    return quality_of(next(filter(None, (run.get("evaluation") for run in runs)), None))[0]


def _row(
    recipe: Recipe,
    arm: ResolvedArm,
    by_arm: Mapping[str, BySeed],
    reference: str,
    at_budgets: bool,
) -> dict[str, Any]:
    ours = by_arm[arm.name]
    results = {seed: run.results for seed, run in ours.items() if run.results is not None}
    evaluations = [run["evaluation"] for run in results.values() if run["evaluation"]]
    worst = "worst_class_accuracy"  # of classes alone
    rival = None if arm.budget is None else f"random@{arm.budget:g}"
    by_seed = partial(_by_seed, results, list(ours))
    budget = by_seed(partial(_share, recipe, "samples_backpropagated"))
    spent = [share for share in budget["values"] if share is not None]
    on_budget = arm.budget and all(abs(it / arm.budget - 1) <= BUDGET_TOLERANCE for it in spent)
    return {
        "arm": arm.name,
        "about": arm.about,
        "mode": None if arm.control else arm.recipe.student.mode,
        "seeds": list(ours),
        "accuracy": spread([run.accuracy for run in ours.values()]),
        "worst_class": mean_interval([found[worst] for found in evaluations if worst in found]),
        "difference": _against(reference, arm.name, by_arm),
        "against_random": _against(rival, arm.name, by_arm),
        "budget": budget,
        "budget_asked": arm.budget,
        "own_budget": at_budgets and arm.budget is None and arm.name != reference,
        "on_budget": on_budget,
        "cost": by_seed(cost_of),
        "forwards": by_seed(partial(_share, recipe, "student_forwards")),
        "wall_ratio": mean_interval(_wall_ratios(ours, by_arm[reference])),
        "meters": _means([_apart(run) for run in results.values()]),
        "collapsed": sum(run.collapsed for run in ours.values()),
        "collapsed_seeds": [seed for seed, run in ours.items() if run.collapsed],
        "failed": [seed for seed, run in ours.items() if run.error is not None],
        "teacher": arm.teacher,
        "control": arm.control,
        "control_of": arm.match,
        "matched": None if arm.match is None else _matched(arm, results, by_arm[arm.match]),
        "scoring": next((run["scoring"] for run in results.values() if run.get("scoring")), None),
        "digests": {str(seed): run["digest"] for seed, run in results.items()},
        "history": mean_history([run["history"] for run in results.values()]),
    }


def _against(other: str | None, name: str, by_arm: Mapping[str, BySeed]) -> dict[str, Any] | None:
    """The paired differences of accuracy to another arm; None where there are none."""
    if other is None or other == name or not by_arm.get(other):
        return None
    ours, theirs = (
        {seed: run.accuracy for seed, run in by_arm[arm].items()} for arm in (name, other)
    )
    return mean_interval(differences(ours, theirs)[1])


def _by_seed(
    results: Mapping[int, dict[str, Any]],
    seeds: Sequence[int],
    value: Callable[[dict[str, Any]], float | None],
) -> dict[str, Any]:
    """A number of each run, and their mean where all are known."""
    found = {seed: value(run) for seed, run in results.items()}
    known = [each for each in found.values() if each is not None]
    mean = _mean(known) if len(known) == len(found) else None
    return {"mean": mean, "values": [found.get(seed) for seed in seeds]}


def _share(recipe: Recipe, meter: str, run: Mapping[str, Any]) -> float:
    """A meter of rows as a fraction of full distillation over the recipe's epochs."""
    return run["meters"][meter] / (run["train_samples"] * recipe.student.training.epochs)


def cost_of(results: Mapping[str, Any]) -> float | None:
    """Of a run, in epochs of full distillation; None where that is not known."""
    return (results.get("cost") or {}).get("epochs")


def filling(results: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``rows`` and ``seconds`` of the stores that a run itself filled before its training, or None;
    earlier versions did not note it."""
    return ((results or {}).get("targets") or {}).get("filling")


def _apart(results: Mapping[str, Any]) -> dict[str, Any]:
    """A run's meters without the filling of stores that other runs read, too."""
    meters, spent = results["meters"], filling(results)
    if spent is None:
        return meters
    seconds, queries = spent["seconds"], spent["teacher_seconds"]
    phases = dict(meters["phases"])
    for phase, part in (("store", seconds - queries), ("teacher", queries)):
        phases[phase] = max(0.0, phases.get(phase, 0.0) - part)
    return {
        **meters,
        "teacher_queries": max(0, meters["teacher_queries"] - spent["rows"]),
        "wall_seconds": meters["wall_seconds"] - seconds,
        "phases": phases,
    }


def _wall_ratios(ours: BySeed, theirs: BySeed) -> list[float]:
    """Training seconds over the reference's, for each seed that both have run."""
    mine, other = (
        {seed: _apart(run.results)["wall_seconds"] for seed, run in runs.items() if run.results}
        for runs in (ours, theirs)
    )
    return [spent / other[seed] for seed, spent in mine.items() if seed in other]


def _matched(
    arm: ResolvedArm, results: Mapping[int, dict[str, Any]], matched: BySeed
) -> dict[str, Any]:
    """The control's samples (or cost) over those of the run that it matches, by seed."""
    by_cost = (arm.control or "").endswith("-cost")

    def spent(run: Mapping[str, Any]) -> float:
        return run["cost"]["epochs"] if by_cost else run["meters"]["samples_backpropagated"]

    ratios = [
        spent(run) / spent(matched[seed].results)  # pyright: ignore[reportArgumentType]
        for seed, run in results.items()
    ]
    within = all(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
    return {"by": "cost" if by_cost else "samples", "ratios": ratios, "within_tolerance": within}


def _other_data(recipe: Recipe, arms: Sequence[ResolvedArm]) -> list[str]:
    """A note for each arm whose training data are not the recipe's."""
    said, whole = [], recipe.data.model_dump(mode="json")
    for arm in arms:
        own = arm.recipe.data.model_dump(mode="json")
        if other := [f"data.{key} {own[key]}" for key in own if own[key] != whole[key]]:
            said.append(
                f"{arm.name} is trained on other data than the recipe's: {', '.join(other)}"
            )
    return said


def _mixed(results: JobResults) -> list[str]:
    """A note where the runs are of several versions of frugalkd, or of several devices."""
    runs = [job.results for job in results.values() if job.results]
    said = []
    for what, of in (
        ("versions of frugalkd", lambda run: (run.get("versions") or {}).get("frugalkd")),
        ("devices", lambda run: run.get("device")),
    ):
        found = sorted({str(value) for run in runs if (value := of(run)) is not None})
        if len(found) > 1:
            said.append(f"its runs are of several {what}, which are compared here: {few(found)}")
    return said


def _warnings(row: dict[str, Any]) -> list[str]:
    said = []
    if row["matched"] and not row["matched"]["within_tolerance"]:
        said.append(
            f"{row['arm']} is not matched: its {row['matched']['by']} differ from those of "
            f"{row['control_of']} by more than {TOLERANCE:.1%}"
        )
    if row["on_budget"] is False and row["budget"]["mean"] is not None:
        said.append(
            f"{row['arm']} spent {row['budget']['mean']:.1%} of the samples, more than "
            f"{BUDGET_TOLERANCE:.0%} away from its budget: it is not at the budget of the others"
        )
    return said


def mark_frontiers(rows: Sequence[dict[str, Any]]) -> None:
    """Note which rows no other beats in accuracy at their cost, their samples, or their time."""
    costs = {
        "cost": ("cost", BUDGET_TOLERANCE),
        "budget": ("budget", BUDGET_TOLERANCE),
        "time": ("wall_ratio", 0.0),
    }
    for name, (cost, tolerance) in costs.items():
        points = [(row.get(cost, {}).get("mean"), row["accuracy"].get("mean")) for row in rows]
        for row, found in zip(rows, frontier(points, tolerance), strict=True):
            row["frontier"] = {**(row.get("frontier") or {}), name: found}


def _teacher(recipe: Recipe, name: str, results: JobResults) -> dict[str, Any]:
    """A teacher that was trained here, a pretrained one, or several as one."""
    own = {"teacher.weights": recipe.teacher.weights} if name == PRETRAINED else {}
    job = next((job for key, job in results.items() if key[:2] == ("teach", name)), JobResult())
    run = job.results or {}
    meters = run.get("meters", {})
    return {
        "teacher": name,
        "settings": dict(recipe.teachers.get(name, own)),
        "seed": run.get("seed"),
        "accuracy": job.accuracy,
        "budget": run.get("budget"),
        "wall_seconds": meters.get("wall_seconds"),
        "meters": meters or None,
        "features": run.get("features"),
        "digest": run.get("digest"),
        "error": job.error,
    }


def _means(trees: Sequence[Any]) -> Any:
    """The mean of equal trees of numbers; a missing number counts as 0."""
    if any(isinstance(tree, dict) for tree in trees):
        keys = dict.fromkeys(key for tree in trees for key in tree or {})
        return {key: _means([(tree or {}).get(key) for tree in trees]) for key in keys}
    return _mean([tree or 0 for tree in trees]) if trees else {}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
