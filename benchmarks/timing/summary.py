"""The results of a case: seconds per arm, ratios of complete training times, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.timing.case import Arm, Case, Figure, Measurement, Ratio
from frugalkd.experiments.recipes.schema import Recipe

SCHEMA = 1

Record = dict[str, Any]

_COUNTS = ("samples_backpropagated", "student_forwards", "teacher_queries")


def summarise(
    case: Case,
    recipes: Mapping[str, Recipe],
    records: Mapping[str, Sequence[Record | None]],
    fillings: Mapping[str, dict[str, Any] | None],
    failed: Mapping[str, str],
    quick: bool,
) -> dict[str, Any]:
    """The content of ``CASE.json``, a summary; the files of the runs have the details.

    Args:
        case: defines the arms and the ratios.
        recipes: by arm.
        records: by arm, one per round; None for a missing round.
        fillings: by arm, the cost of filling its store separately.
        failed: errors by the name of the run.
        quick: a quick run, not a result.
    """
    arms = [
        _arm(case, arm, recipes[arm.name], records[arm.name], fillings.get(arm.name))
        for arm in case.arms
    ]
    by_name = {arm["arm"]: arm for arm in arms}
    return {
        **_head(case, quick),
        "threads": max(recipe.threads for recipe in recipes.values()),
        "machines": _machines([record for some in records.values() for record in some if record]),
        "recipe": case.recipe,
        "set": dict(case.set),
        "per_rows": case.per_rows,
        "arms": arms,
        "ratios": [_ratio(ratio, by_name) for ratio in case.ratios],
        "figures": [],
        "failed": _failed(failed),
    }


def summarise_figures(
    case: Measurement, measured: Mapping[str, Any] | None, failed: Mapping[str, str], quick: bool
) -> dict[str, Any]:
    """The same for a case without arms. ``measured`` has its figures by name, None for
    one that this machine cannot measure, and ``machine``."""
    return {
        **_head(case, quick),
        "threads": 1,
        "machines": [] if measured is None else _machines([measured]),
        "samples": None if measured is None else measured["samples"],
        "per_rows": False,
        "arms": [],
        "ratios": [],
        "figures": [
            _figure(each, measured)
            for each in case.figures
            if measured is not None and measured[each.name] is not None
        ],
        "failed": _failed(failed),
    }


def _head(case: Case | Measurement, quick: bool) -> dict[str, Any]:
    return {"schema": SCHEMA, "case": case.name, "summary": case.summary, "quick": quick}


def _failed(failed: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"run": name, "error": error} for name, error in failed.items()]


def _machines(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The distinct machines of the runs, without start time and load."""
    found: list[dict[str, Any]] = []
    for record in records:
        machine = {k: v for k, v in record["machine"].items() if k not in ("started", "load")}
        if machine not in found:
            found.append(machine)
    return found


def _arm(
    case: Case,
    arm: Arm,
    recipe: Recipe,
    records: Sequence[Record | None],
    filling: dict[str, Any] | None,
) -> dict[str, Any]:
    role = recipe.teacher if arm.runner == "teach" else recipe.student
    runs = [
        _run(turn, record, role.training.epochs) for turn, record in enumerate(records) if record
    ]
    meters = [record["meters"] for record in records if record and record.get("meters")]
    return {
        "arm": arm.name,
        "runner": arm.runner,
        "recipe": arm.recipe or case.recipe,
        "set": dict(arm.set),
        "options": dict(arm.options),
        "seconds": spread([run["seconds_whole"] for run in runs]),
        "seconds_per_1000": spread(
            [run["seconds_per_1000"] for run in runs if run["seconds_per_1000"] is not None]
        ),
        "scaled": any(run["part"] is not None for run in runs),
        "accuracy": spread([run["accuracy"] for run in runs if run["accuracy"] is not None]),
        "budget": spread([run["budget"] for run in runs]),
        "filling_apart": filling,
        "first_seconds": next((r["first"] for r in records if r and "first" in r), None),
        "meters": _medians(meters),
        "runs": runs,
    }


def _run(turn: int, record: Record, epochs: float) -> dict[str, Any]:
    """One run; ``seconds_whole`` are the seconds scaled to the complete training."""
    part = record["tasks"][0]["part"] if "tasks" in record else None
    rows = (record.get("meters") or {}).get("samples_backpropagated")
    return {
        "round": turn,
        "seconds": record["seconds"],
        "part": part,
        "epochs": epochs,
        "seconds_whole": record["seconds"] * (epochs / part if part else 1.0),
        "seconds_per_1000": 1000 * record["seconds"] / rows if rows else None,
        "accuracy": record.get("accuracy"),
        "budget": record["budget"],
        "started": record["machine"]["started"],
        "load": record["machine"]["load"],
    }


def _medians(meters: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Medians over the runs of rows, seconds by phase and memory, not scaled."""
    if not meters:
        return None
    phases = {name for each in meters for name in each.get("phases", {})}
    return {
        **{name: median(each[name] for each in meters) for name in _COUNTS},
        "phases": {
            name: median(each.get("phases", {}).get(name, 0.0) for each in meters)
            for name in sorted(phases)
        },
        "peak_memory_bytes": median(each["peak_memory_bytes"]["process"] for each in meters),
    }


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
        "value": found,
        **_bounds(ratio, None if found is None else found["median"]),
    }


def _figure(figure: Figure, measured: Mapping[str, Any]) -> dict[str, Any]:
    value = measured[figure.name]
    runs = measured.get("runs", {}).get(figure.name, [value])
    return {
        "figure": figure.name,
        "about": figure.about,
        "value": {**spread(runs), "median": value},  # pyright: ignore[reportGeneralTypeIssues]
        **_bounds(figure, value),
    }


def _bounds(what: Ratio | Figure, value: float | None) -> dict[str, Any]:
    """The bounds, and whether ``value`` reaches them; None if either is missing."""
    reached = {}
    for name, bound in (("must", what.must), ("aim", what.aim)):
        if value is None or bound is None:
            reached[name] = None
        else:
            reached[name] = value <= bound if what.at_most else value >= bound
    return {"at_most": what.at_most, "must": what.must, "aim": what.aim, "reached": reached}


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """``median``, ``min``, ``max``, ``n``; None without values."""
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}
