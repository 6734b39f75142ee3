"""How much less an arm costs than a shorter schedule that is as accurate.

The arms of a comparison are called ``NAME-T``, with T the cost in epochs of full training.
``short-T`` trains on everything for T epochs. For each seed an isotonic curve is fitted to its
accuracies over the logarithm of its costs; the cost at which it reaches the other arm's accuracy is
read from that curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.isotonic import IsotonicRegression

from benchmarks.comparisons import points
from frugalkd.experiments.comparison.statistics import accuracies, differences, spread

RESAMPLES = 2000


class Ratio(NamedTuple):
    """``value``: cost over that of ``short`` at equal accuracy. ``bound``: ``<`` where no run of
    ``short`` was as accurate, and ``value`` is over the dearest one; ``>`` where all were more
    accurate, and it is over the cheapest."""

    value: float
    bound: str = ""


def costs_of(comparison: dict[str, Any], name: str) -> dict[float, str]:
    """The arms ``name-T`` by T."""
    arms = [row["arm"] for row in comparison["arms"]]
    found = {arm.rpartition("-")[2]: arm for arm in arms if arm.rpartition("-")[0] == name}
    return {
        float(cost): arm for cost, arm in sorted(found.items(), key=lambda each: float(each[0]))
    }


def ratio(short: Mapping[float, float], cost: float, accuracy: float) -> Ratio:
    """Of an arm of this ``cost`` and ``accuracy``, where ``short`` has accuracies by cost."""
    known = sorted(short)
    logs = np.log(known)
    fitted = IsotonicRegression().fit_transform(logs, [short[each] for each in known])
    if accuracy > fitted[-1]:
        return Ratio(cost / known[-1], "<")
    place = int(np.searchsorted(fitted, accuracy))  # the first that reaches it
    if place == 0:
        return Ratio(cost / known[0], ">" if accuracy < fitted[0] else "")
    low, high = fitted[place - 1], fitted[place]
    share = (accuracy - low) / (high - low)
    return Ratio(cost / math.exp(logs[place - 1] + share * (logs[place] - logs[place - 1])))


def ratios(comparison: dict[str, Any], name: str) -> dict[float, dict[int, Ratio]]:
    """By cost and seed, of the arms ``name-T``."""
    short = {
        cost: accuracies(comparison, arm) for cost, arm in costs_of(comparison, "short").items()
    }
    spent = {
        row["arm"]: dict(zip(row["seeds"], row["cost"]["values"], strict=True))
        for row in comparison["arms"]
    }
    found: dict[float, dict[int, Ratio]] = {}
    for cost, arm in costs_of(comparison, name).items():
        found[cost] = {}
        for seed, accuracy in accuracies(comparison, arm).items():
            frontier = {each: value for each, of in short.items() if (value := of.get(seed))}
            if accuracy is not None and len(frontier) == len(short):
                found[cost][seed] = ratio(frontier, spent[arm][seed], accuracy)
    return found


def interval(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The geometric mean over groups of the geometric means of their seeds, and its 95 % interval
    by a bootstrap over the seeds of each group."""
    logs = [np.log(group) for group in values]
    draw = np.random.default_rng(0)
    means = np.stack(
        [
            group[draw.integers(len(group), size=(RESAMPLES, len(group)))].mean(axis=1)
            for group in logs
        ]
    )
    low, high = np.exp(np.percentile(means.mean(axis=0), [2.5, 97.5]))
    return float(np.exp(np.mean([group.mean() for group in logs]))), float(low), float(high)


def by_seed(comparison: dict[str, Any], name: str) -> list[float]:
    """The geometric mean over the costs of one task, for each seed that has all of them."""
    found = list(ratios(comparison, name).values())
    seeds = set.intersection(*(set(each) for each in found))
    return [
        math.exp(np.mean([math.log(each[seed].value) for each in found])) for seed in sorted(seeds)
    ]


def cost_table(tasks: Mapping[str, dict[str, Any]], names: Sequence[str]) -> str:
    """A row per task, arm and cost: both accuracies, their difference at equal cost, the cost ratio
    at equal accuracy. Then a row per arm: the geometric mean over the tasks."""
    lines = [
        "| task | arm | seeds | cost, epochs | accuracy % | `short` at that cost | difference | "
        "cost ratio at equal accuracy |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for task, comparison in tasks.items():
        rows = {row["arm"]: row for row in comparison["arms"]}
        for name in names:
            for cost, each in ratios(comparison, name).items():
                arm, other = f"{name}-{cost:g}", f"short-{cost:g}"
                _, found = differences(accuracies(comparison, arm), accuracies(comparison, other))
                mean, low, high = interval([[one.value for one in each.values()]])
                bounds = "".join(f", {sum(one.bound == sign for one in each.values())} {said}"
                                 for sign, said in (("<", "above all"), (">", "below all"))
                                 if any(one.bound == sign for one in each.values()))  # fmt: skip
                cells = [
                    task, f"`{name}`", str(len(each)), f"{rows[arm]['cost']['mean']:.2f}",
                    points(rows[arm]["accuracy"]), points(rows[other]["accuracy"]),
                    points(spread(found), "+"), f"{mean:.2f} ({low:.2f} – {high:.2f}{bounds})",
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| arm | cost ratio at equal accuracy, geometric mean of all costs and tasks | by task |",
        "|---|---:|---|",
    ]
    for name in names:
        own = {task: by_seed(each, name) for task, each in tasks.items() if costs_of(each, name)}
        mean, low, high = interval(list(own.values()))
        each = ", ".join(f"{task} {interval([values])[0]:.2f}" for task, values in own.items())
        lines.append(f"| `{name}` | {mean:.2f} ({low:.2f} – {high:.2f}) | {each} |")
    return "\n".join(lines)


def variants_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracies of the variants of ``benchmarks.hard.variants``, a column per task and cost: the
    mean over the seeds, and how many there were."""
    columns = [(task, cost) for task, found in tasks.items() for cost in found["short"]]
    names = dict.fromkeys(name for found in tasks.values() for name in found)
    head = ["variant", *(f"{task}, cost {cost}" for task, cost in columns)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(columns)}"]
    for name in names:
        cells = [f"`{name}`" if name == "short" else name]
        for task, cost in columns:
            runs = [run["accuracy"] for run in tasks[task].get(name, {}).get(cost, {}).values()]
            cells.append(f"{100 * sum(runs) / len(runs):.2f} ({len(runs)})" if runs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
