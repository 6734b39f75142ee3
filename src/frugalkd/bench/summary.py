"""What a case came to: seconds by arm, and the ratios of whole training times."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from frugalkd.bench.case import Case, Ratio
from frugalkd.recipes.schema import Recipe

SCHEMA = 1

Record = dict[str, Any]


def summarise(
    case: Case,
    recipes: Mapping[str, Recipe],
    records: Mapping[str, list[Record | None]],
    fillings: Mapping[str, dict[str, Any] | None],
    failed: Mapping[str, str],
    quick: bool,
) -> dict[str, Any]:
    """The content of ``CASE.json``.

    Args:
        case: says the ratios.
        recipes: by arm.
        records: by arm, one a round; None where that round is not there.
        fillings: what filling a store apart from the runs has taken, by arm.
        failed: errors by name of the run.
        quick: the figures are no results.
    """
    arms = [
        _arm(arm.name, arm.runner, dict(arm.options), recipes[arm.name],
             records[arm.name], fillings.get(arm.name))
        for arm in case.arms
    ]  # fmt: skip
    by_name = {arm["arm"]: arm for arm in arms}
    return {
        "schema": SCHEMA,
        "case": case.name,
        "summary": case.summary,
        "quick": quick,
        "threads": max(recipe.threads for recipe in recipes.values()),
        "commits": sorted({_commit(run) for arm in arms for run in arm["runs"]}),
        "arms": arms,
        "ratios": [_ratio(ratio, by_name) for ratio in case.ratios],
        "failed": [{"run": name, "error": error} for name, error in failed.items()],
    }


def _arm(
    name: str,
    runner: str,
    options: dict[str, Any],
    recipe: Recipe,
    records: list[Record | None],
    filling: dict[str, Any] | None,
) -> dict[str, Any]:
    runs = [_run(turn, record, runner, recipe) for turn, record in enumerate(records) if record]
    accuracies = [run["accuracy"] for run in runs if run["accuracy"] is not None]
    return {
        "arm": name,
        "runner": runner,
        "options": options,
        "recipe": recipe.model_dump(mode="json"),
        "seconds": spread([run["seconds_whole"] for run in runs]),
        "scaled": any(run["part"] is not None for run in runs),
        "accuracy": spread(accuracies),
        "budget": spread([run["budget"] for run in runs]),
        "filling_apart": filling,
        "runs": runs,
    }


def _run(turn: int, record: Record, runner: str, recipe: Recipe) -> dict[str, Any]:
    """One run; ``seconds_whole`` is what the whole training takes, where only a part was run."""
    role = recipe.teacher if runner == "teach" else recipe.student
    epochs = role.training.epochs
    part = record["asked"][0]["part"] if "asked" in record else None
    return {
        "round": turn,
        "seconds": record["seconds"],
        "part": part,
        "epochs": epochs,
        "seconds_whole": record["seconds"] * (epochs / part if part else 1.0),
        "accuracy": record.get("accuracy"),
        "budget": record["budget"],
        "filling_seconds": record.get("filling_seconds"),
        "meters": record.get("meters"),
        "machine": record["machine"],
    }


def _commit(run: dict[str, Any]) -> str:
    return run["machine"]["commit"] or "unknown"


def _ratio(ratio: Ratio, arms: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    over = {run["round"]: run for run in arms[ratio.over]["runs"]}
    under = {run["round"]: run for run in arms[ratio.under]["runs"]}
    by_round = {}
    for turn in sorted(over.keys() & under.keys()):
        value = over[turn]["seconds_whole"] / under[turn]["seconds_whole"]
        by_round[turn] = value / over[turn]["budget"] if ratio.per_budget else value
    found = spread(list(by_round.values()))
    return {
        "ratio": ratio.name,
        "over": ratio.over,
        "under": ratio.under,
        "per_budget": ratio.per_budget,
        "at_most": ratio.at_most,
        "must": ratio.must,
        "aim": ratio.aim,
        "value": found,
        "reached": {
            figure: _reached(found, getattr(ratio, figure), ratio.at_most)
            for figure in ("must", "aim")
        },
    }


def _reached(found: dict[str, Any] | None, bound: float | None, at_most: bool) -> bool | None:
    """Whether the median keeps to the figure; None where one of both is missing."""
    if found is None or bound is None:
        return None
    return found["median"] <= bound if at_most else found["median"] >= bound


def spread(values: list[float]) -> dict[str, Any] | None:
    """``median``, ``min``, ``max``, ``n``; None of nothing."""
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}
