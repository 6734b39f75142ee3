"""What a comparison says: outcomes of runs in, the content of ``comparison.json`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frugalkd.experiments.comparison.arms import ResolvedArm
from frugalkd.experiments.comparison.controls import TOLERANCE
from frugalkd.experiments.comparison.plan import PRETRAINED, Key, Outcome, Outcomes
from frugalkd.experiments.comparison.statistics import (
    BUDGET_TOLERANCE,
    MARGIN,
    Claim,
    claims,
    differences,
    frontier,
    interval,
    spread,
)
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.summary import mean_history

SCHEMA = 2

FIELDS = (
    "budget: samples backpropagated, of full distillation over the recipe's epochs",
    "wall_ratio: mean over seeds of the training's seconds over the reference's. Filling stores of "
    "soft targets before a training is in neither: it is done once for all runs, and counted with "
    "the teacher ('targets'). Querying a teacher within a training (live, or at first visits) is",
    "meters: means over runs, without that filling",
    "peak memory: a process serves several runs, so it is the largest of them so far",
)


def summarise(
    recipe: Recipe,
    arms: Sequence[ResolvedArm],
    seeds: Sequence[int],
    teachers: Sequence[str],
    outcomes: Outcomes,
    notes: Sequence[str] = (),
    declared: Sequence[Claim] = (),
    margin: float = MARGIN,
) -> dict[str, Any]:
    """The comparison so far, as plain values. Runs without an outcome yet are left out, and so are
    those of a seed that some arm, of those that have begun, has not finished: means over other
    seeds are not compared with each other."""
    names = [arm.name for arm in arms]
    reference = "vanilla" if "vanilla" in names else names[0]
    driven = any(arm.budget is not None for arm in arms)
    by_arm = {
        name: {
            seed: outcomes[key] for seed in seeds if (key := Key("distill", name, seed)) in outcomes
        }
        for name in names
    }
    finished_seeds = [set(by_arm[name]) for name in names]
    whole = [seed for seed in seeds if all(seed in found for found in finished_seeds)]
    begun = [arm for arm in arms if by_arm[arm.name]]
    shown = set(seeds).intersection(*(by_arm[arm.name] for arm in begun))
    by_arm = {
        name: {seed: run for seed, run in runs.items() if seed in shown}
        for name, runs in by_arm.items()
    }
    rows = [_row(recipe, arm, by_arm, reference, driven) for arm in begun]
    _mark_frontiers(rows)
    finished = [
        outcome.results
        for key, outcome in outcomes.items()
        if outcome.results and key.kind != "targets"
    ]
    said = [*notes, *FIELDS, *_unmatched(rows), *_off_budget(rows)]
    if len(seeds) < 2:
        said.append("one seed: there is no interval")
    content = {
        "schema": SCHEMA,
        "reference": reference,
        "arms": rows,
        "teachers": [_teacher(recipe, name, outcomes) for name in teachers],
        "failed": _failures(outcomes),
        "complete": len(whole) == len(seeds),
        "complete_seeds": whole,
        "planned": names,
        "runs": {"done": sum(map(len, finished_seeds)), "of": len(names) * len(seeds)},
        "name": recipe.name,
        "seeds": list(seeds),
        "split": finished[0]["split"] if finished else None,
        "threads": recipe.threads,
        "versions": finished[0]["versions"] if finished else None,
        "notes": said,
        "recipe": recipe.model_dump(mode="json"),
        "claims": [],
    }
    known = {row["arm"] for row in rows}
    testable = [claim for claim in declared if {claim[0], claim[1]} <= known]
    content["claims"] = claims(content, testable, margin)
    return content


def _row(
    recipe: Recipe,
    arm: ResolvedArm,
    by_arm: Mapping[str, Mapping[int, Outcome]],
    reference: str,
    driven: bool,
) -> dict[str, Any]:
    ours = by_arm[arm.name]
    results = {seed: run.results for seed, run in ours.items() if run.results is not None}
    epochs = recipe.student.training.epochs
    accuracy = {seed: run.accuracy for seed, run in ours.items()}
    difference = None
    if arm.name != reference:
        theirs = {seed: run.accuracy for seed, run in by_arm[reference].items()}
        difference = _mean_interval(differences(accuracy, theirs)[1])
    budget = _share(results, list(ours), "samples_backpropagated", epochs)
    rival = None if arm.budget is None else f"random@{arm.budget:g}"
    against_random = None
    if rival is not None and rival != arm.name and by_arm.get(rival):
        theirs = {seed: run.accuracy for seed, run in by_arm[rival].items()}
        against_random = _mean_interval(differences(accuracy, theirs)[1])
    return {
        "arm": arm.name,
        "about": arm.about,
        "mode": None if arm.control else arm.recipe.student.mode,
        "seeds": list(ours),
        "accuracy": spread(list(accuracy.values())),
        "worst_class": _mean_interval(
            [
                run["evaluation"]["worst_class_accuracy"]
                for run in results.values()
                if run["evaluation"]
            ]
        ),
        "difference": difference,
        "against_random": against_random,
        "budget": budget,
        "budget_asked": arm.budget,
        "own_budget": driven and arm.budget is None and arm.name != reference,
        "on_budget": None if arm.budget is None else _on_budget(budget["values"], arm.budget),
        "forwards": _share(results, list(ours), "student_forwards", epochs),
        "wall_ratio": _mean_interval(list(_wall_ratios(ours, by_arm[reference]).values())),
        "meters": _means([_apart(run) for run in results.values()]),
        "collapsed": sum(run.collapsed for run in ours.values()),
        "collapsed_seeds": [seed for seed, run in ours.items() if run.collapsed],
        "failed": [seed for seed, run in ours.items() if run.error is not None],
        "teacher": arm.teacher,
        "control": arm.control,
        "control_of": arm.match,
        "matched": None if arm.match is None else _matched(results, by_arm[arm.match]),
        "scoring": next((run["scoring"] for run in results.values() if run.get("scoring")), None),
        "digests": {str(seed): run["digest"] for seed, run in results.items()},
        "history": mean_history([run["history"] for run in results.values()]),
    }


def _share(
    results: Mapping[int, dict[str, Any]], seeds: Sequence[int], meter: str, epochs: float
) -> dict[str, Any]:
    """A meter of rows as a fraction of full distillation over ``epochs``."""
    values = [
        results[seed]["meters"][meter] / (results[seed]["train_samples"] * epochs)
        if seed in results
        else None
        for seed in seeds
    ]
    return {"mean": _mean([value for value in values if value is not None]), "values": values}


def filling(results: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``rows`` and ``seconds`` of the stores that a run itself filled before its training, or None;
    earlier versions did not note it."""
    return ((results or {}).get("targets") or {}).get("filling")


def _apart(results: Mapping[str, Any]) -> dict[str, Any]:
    """A run's meters without the filling of stores that other runs read, too."""
    meters, spent = results["meters"], filling(results)
    if spent is None:
        return meters
    seconds, asked = spent["seconds"], spent["teacher_seconds"]
    phases = dict(meters["phases"])
    for phase, taken in (("store", seconds - asked), ("teacher", asked)):
        phases[phase] = max(0.0, phases.get(phase, 0.0) - taken)
    return {
        **meters,
        "teacher_queries": max(0, meters["teacher_queries"] - spent["rows"]),
        "wall_seconds": meters["wall_seconds"] - seconds,
        "phases": phases,
    }


def _wall_ratios(ours: Mapping[int, Outcome], theirs: Mapping[int, Outcome]) -> dict[int, float]:
    """Training seconds over the reference's, for each seed that both have run."""
    return {
        seed: _apart(run.results)["wall_seconds"] / _apart(other.results)["wall_seconds"]
        for seed, run in ours.items()
        if run.results and (other := theirs.get(seed)) is not None and other.results
    }


def _matched(
    results: Mapping[int, dict[str, Any]], matched: Mapping[int, Outcome]
) -> dict[str, Any]:
    """The control's samples over those of the run that it matches, by seed."""
    ratios = {
        seed: run["meters"]["samples_backpropagated"]
        / matched[seed].results["meters"]["samples_backpropagated"]  # pyright: ignore
        for seed, run in results.items()
    }
    return {
        "ratios": list(ratios.values()),
        "within_tolerance": all(abs(ratio - 1) <= TOLERANCE for ratio in ratios.values()),
    }


def _unmatched(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{row['arm']} is not matched: its samples differ from those of {row['control_of']} by "
        f"more than {TOLERANCE:.1%}"
        for row in rows
        if row["matched"] and not row["matched"]["within_tolerance"]
    ]


def _on_budget(values: Sequence[float | None], budget: float) -> bool:
    return all(abs(v / budget - 1) <= BUDGET_TOLERANCE for v in values if v is not None)


def _off_budget(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{row['arm']} spent {row['budget']['mean']:.1%} of the samples, more than "
        f"{BUDGET_TOLERANCE:.0%} away from its budget: it is not at the budget of the others"
        for row in rows
        if row["on_budget"] is False and row["budget"]["mean"] is not None
    ]


def _mark_frontiers(rows: Sequence[dict[str, Any]]) -> None:
    """Note which rows no other beats in accuracy at their samples, or at their time."""
    accuracy = [row["accuracy"]["mean"] for row in rows]
    for name, costs, alike in (
        ("budget", [row["budget"]["mean"] for row in rows], BUDGET_TOLERANCE),
        ("time", [row["wall_ratio"]["mean"] for row in rows], 0.0),
    ):
        points = list(zip(costs, accuracy, strict=True))
        for row, found in zip(rows, frontier(points, alike), strict=True):
            row.setdefault("frontier", {})[name] = found


def _teacher(recipe: Recipe, name: str, outcomes: Outcomes) -> dict[str, Any]:
    found = [run for key, run in outcomes.items() if key[:2] == ("teach", name)]
    run = found[0] if found else Outcome()
    results = run.results or {}
    meters = results.get("meters", {})
    return {
        "teacher": name,
        "settings": dict(recipe.teachers[name]),
        "seed": results.get("seed"),
        "accuracy": run.accuracy,
        "budget": results.get("budget"),
        "wall_seconds": meters.get("wall_seconds"),
        "meters": meters or None,
        "digest": results.get("digest"),
        "error": run.error,
    }


def untrained(recipe: Recipe, name: str) -> dict[str, Any]:
    """A teacher that was not trained here, or several as one: the same keys as others have."""
    settings = {"teacher.weights": recipe.teacher.weights} if name == PRETRAINED else {}
    nothing = ("seed", "accuracy", "budget", "wall_seconds", "meters", "digest", "error")
    return {"teacher": name, "settings": settings, **dict.fromkeys(nothing)}


def _failures(outcomes: Outcomes) -> list[dict[str, Any]]:
    return [
        {
            "kind": key.kind,
            "name": key.name,
            "seed": key.seed,
            "error": run.error,
            "traceback": (run.details or {}).get("traceback"),
        }
        for key, run in outcomes.items()
        if run.error is not None
    ]


def _means(trees: Sequence[Any]) -> Any:
    """The mean of equal trees of numbers; what one of them lacks is 0 there."""
    first = next((tree for tree in trees if tree is not None), None)
    if isinstance(first, dict):
        keys = dict.fromkeys(key for tree in trees for key in tree or {})
        return {key: _means([(tree or {}).get(key) for tree in trees]) for key in keys}
    return _mean([tree or 0 for tree in trees]) if trees else {}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _mean_interval(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": _mean(values), "ci95": interval(values)}
