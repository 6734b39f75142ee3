"""The tables of comparisons: the accuracy of each arm and the samples that it used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from frugalkd.experiments.comparison.statistics import accuracies, differences, spread
from frugalkd.runtime.meters import Meters

SPENT = ["cost, epochs", "seconds", "time ratio", "scoring run, samples %"]
"""The columns of :func:`costs`."""


def budgets_table(comparison: dict[str, Any]) -> str:
    """A row per arm and a column per budget: accuracy, and in parentheses the paired difference to
    ``random`` with the same number of samples."""
    budgets = sorted({row["budget_asked"] for row in comparison["arms"]} - {None})
    seeds = len(comparison["seeds"])
    head = ["arm", *(f"{budget:.0%} of the samples" for budget in budgets)]
    head += SPENT
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    by_family: dict[str, dict[float, dict[str, Any]]] = {}
    for row in comparison["arms"]:
        if row["budget_asked"] is not None:
            family = row["arm"].rpartition("@")[0]
            by_family.setdefault(family, {})[row["budget_asked"]] = row
    for family, rows in by_family.items():
        cells = [accuracy(rows[b]) if b in rows else "" for b in budgets]
        cells += costs(comparison, [rows[b] for b in budgets if b in rows])
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    others = [row for row in comparison["arms"] if row["budget_asked"] is None]
    if others:
        lines += ["", "Without a set budget:", ""]
        head = ["arm", "samples %", "accuracy %", f"against {comparison['reference']}"]
        head += SPENT
        lines += [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in others:
        cells = [f"{100 * row['budget']['mean']:.1f}", points(row["accuracy"])]
        cells += [points(row["difference"], "+"), *costs(comparison, [row])]
        lines.append(f"| `{row['arm']}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{seeds} seed{'s' * (seeds > 1)}. {collapsed(comparison)}"])


def accuracy(row: dict[str, Any]) -> str:
    said = points(row["accuracy"])
    if row["against_random"] is not None:
        said += f" ({points(row['against_random'], '+')})"
    return said + (" **off its budget**" if row["on_budget"] is False else "")


def costs(comparison: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Cost and time at each budget, and the samples of the scoring run."""
    spent = " / ".join(cost(comparison, row) for row in rows)
    seconds = " / ".join(f"{row['meters']['wall_seconds']:.0f}" for row in rows)
    time = " / ".join(f"{row['wall_ratio']['mean']:.2f}" for row in rows)
    return [spent, seconds, time, scoring(rows[0])]


def cost(comparison: dict[str, Any], row: dict[str, Any]) -> str:
    """In epochs of full distillation; of earlier files, which do not hold it, from their meters."""
    if "cost" in row:
        return f"{row['cost']['mean']:.1f}"
    meters = Meters()
    for name in ("samples_backpropagated", "student_forwards", "teacher_queries", "flops"):
        setattr(meters, name, row["meters"][name])
    epochs = comparison["recipe"]["student"]["training"]["epochs"]
    found = meters.cost(meters.samples_backpropagated / (row["budget"]["mean"] * epochs))
    return f"{found['epochs']:.1f}"


def scoring(row: dict[str, Any]) -> str:
    """The samples of the scoring run, in percent of one full training."""
    if row.get("scoring") is None:
        return ""
    full = row["meters"]["samples_backpropagated"] / row["budget"]["mean"]
    return f"{100 * row['scoring']['samples_backpropagated'] / full:.0f}"


def objectives_table(comparison: dict[str, Any]) -> str:
    """A row per objective: trained on all samples (the arm NAME), and on a part of them selected by
    the gate (NAME-early@BUDGET), with the paired difference and the fraction of the time."""
    lines = [
        "| objective | all samples, accuracy % | a part of them | difference | samples % | "
        "cost, epochs | seconds, all and part | time ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    by_name = {row["arm"]: row for row in comparison["arms"]}
    parts = {arm.partition("-early@")[0]: arm for arm in by_name if "-early@" in arm}
    for name, arm in parts.items():
        every, part = by_name[name], by_name[arm]
        _, found = differences(accuracies(comparison, arm), accuracies(comparison, name))
        seconds = [row["meters"]["wall_seconds"] for row in (every, part)]
        cells = [
            f"`{name}`",
            points(every["accuracy"]),
            points(part["accuracy"]),
            points(spread(found), "+"),
            f"{100 * part['budget']['mean']:.1f}",
            cost(comparison, part),
            f"{seconds[0]:.0f} and {seconds[1]:.0f}",
            f"{seconds[1] / seconds[0]:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = len(comparison["seeds"])
    return "\n".join([*lines, "", f"{seeds} seed{'s' * (seeds > 1)}. {collapsed(comparison)}"])


def claims_table(tested: list[dict[str, Any]]) -> str:
    """Claims as :func:`frugalkd.experiments.comparison.claims` returns them."""
    lines = [
        "| claim | difference, points | 95 % interval | p (Holm) | holds |",
        "|---|---:|---:|---:|---|",
    ]
    for claim in tested:
        low, high = claim["difference"]["ci95"]
        said = f"`{claim['arm']}` {claim['claim']} than `{claim['against']}`"
        if claim["margin"]:
            said += f" (margin {100 * claim['margin']:.2g})"
        cells = [
            said,
            f"{100 * claim['difference']['mean']:+.2f}",
            f"{100 * low:+.2f} to {100 * high:+.2f}",
            f"{claim['p_holm']:.1e}",
            "yes" if claim["holds"] else f"no: {claim['why']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arms_table(comparison: dict[str, Any]) -> str:
    """A row per arm, with the samples, cost and time that it used."""
    reference, measure = comparison["reference"], comparison.get("measure") or "accuracy"
    lines = [
        f"| arm | seeds | {measure} % | against {reference} | samples % | cost, epochs | seconds | "
        "time ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in comparison["arms"]:
        cells = [
            f"`{row['arm']}`",
            str(len(row["seeds"])),
            points(row["accuracy"]),
            points(row["difference"], "+"),
            f"{100 * row['budget']['mean']:.1f}",
            *costs(comparison, [row])[:3],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{collapsed(comparison)}{filling(comparison)}"])


VOCABULARIES = {"tiny-language": 4096, "smollm2-language": 49_152}
"""Tokens of the tokenizer, by the recipe."""

ERRORS: dict[str, tuple[str, Callable[[float, str], float]]] = {
    "entropy saved": (
        "perplexity", lambda value, recipe: math.log(VOCABULARIES[recipe]) * (1 - value),
    ),
    "mean cosine": ("1 - cosine", lambda value, recipe: math.log(1 - value)),
    "R2": ("RMSE, in spreads", lambda value, recipe: math.log(1 - value) / 2),
}  # fmt: skip
"""By a comparison's measure: the error that follows from it, and its logarithm; of a recipe."""


def errors_table(comparison: dict[str, Any]) -> str:
    """A row per arm, with the error that follows from the measure, as its geometric mean; ratios of
    errors are paired by seed, their interval that of the logarithms' mean."""
    reference, (error, log) = comparison["reference"], ERRORS[comparison["measure"]]
    tokens = comparison["measure"] == "entropy saved"
    meter = "tokens_backpropagated" if tokens else "samples_backpropagated"
    lines = [
        f"| arm | seeds | {error} | over {reference}'s, % | {'tokens' if tokens else 'samples'} "
        "% | cost, epochs | seconds | time ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole = next(row for row in comparison["arms"] if row["arm"] == reference)["meters"][meter]

    def logs(arm: str) -> dict[int, float | None]:
        return {
            seed: None if value is None else log(value, comparison["recipe"]["name"])
            for seed, value in accuracies(comparison, arm).items()
        }

    for row in comparison["arms"]:
        own = logs(row["arm"])
        known = [value for value in own.values() if value is not None]
        mean = math.exp(sum(known) / len(known))
        cells = [
            f"`{row['arm']}`",
            str(len(known)),
            f"{mean:.2f}" if tokens else f"{mean:.4f}",
            "" if row["arm"] == reference else ratio(differences(own, logs(reference))[1]),
            f"{100 * row['meters'][meter] / whole:.1f}",
            *costs(comparison, [row])[:3],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{collapsed(comparison)}{filling(comparison)}"])


def ratio(logs: list[float]) -> str:
    """The geometric mean of ratios, less 1, in percent, with its 95 % interval."""
    made = spread(logs)
    if made["mean"] is None:
        return ""
    mean, *ends = (100 * math.expm1(each) for each in (made["mean"], *(made["ci95"] or ())))
    return f"{mean:+.2f}" + (f" ({ends[0]:+.2f} to {ends[1]:+.2f})" if ends else "")


def filling(comparison: dict[str, Any]) -> str:
    """What a store costs that every student reads, in the unit of the column *cost*; nothing where
    students do not share one, only a teacher's head was trained, the teacher was not trained, or
    operations are not counted."""
    role, teachers = comparison["recipe"]["student"], comparison["teachers"]
    rows = [row for row in comparison["arms"] if row.get("targets") is not None]
    head = comparison["recipe"]["teacher"].get("trains") == "head"
    if len(teachers) != 1 or not rows or role["targets"]["kind"] != "stored" or head:
        return ""
    counted = [row["meters"] for row in (teachers[0], rows[0])]
    if not all(
        meters and meters["flops"] and meters["flops"]["student_forward"] for meters in counted
    ):
        return ""
    each = [meters["flops"]["student_forward"] / meters["student_forwards"] for meters in counted]
    epochs = each[0] / each[1] * role["targets"]["views"] / 3
    return (
        f" Filling the store, once for all students, costs {epochs:.1f} epochs by the same formula."
    )


def made_ledgers_table(results: dict[str, dict[str, Any]]) -> str:
    """How well a ledger made with a head works, a row per result of `benchmarks/ledger_make.py`."""
    lines = [
        "| | samples | seeds | rank correlation | operations, of full training | "
        "`significance` | `hybrid` |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, made in results.items():
        by_mode: dict[str, dict[str, dict[int, float | None]]] = {}
        for row in made["students"]:
            by_mode.setdefault(row["mode"], {})[row["ledger"]] = dict(enumerate(row["accuracy"]))
        found = [differences(each["head"], each["full"])[1] for each in by_mode.values()]
        cells = [
            name,
            f"{made['samples']:,}",
            str(len(found[0])),
            f"{made['spearman']:.2f}",
            f"{made['flops']['head'] / made['flops']['full']:.0%}",
            *(points(spread(each), "+") for each in found),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reference_table(comparison: dict[str, Any]) -> str:
    """Both candidates for the reference, and the gate against the one that was not chosen."""
    ours, other = accuracies(comparison, "regulated"), accuracies(comparison, "vanilla-self")
    _, found = differences(ours, other)
    difference = points(spread(found), "+")
    return f"{arms_table(comparison)}\n\n`regulated` against `vanilla-self`: {difference} points."


def collapsed(comparison: dict[str, Any]) -> str:
    """The arms that had collapsed or failed runs."""
    arms = [row["arm"] for row in comparison["arms"] if row["collapsed"]]
    return f"Collapsed or failed runs: {', '.join(arms) if arms else 'none'}."


def points(value: dict[str, Any] | None, sign: str = "") -> str:
    """A mean accuracy in percentage points, with half of its 95 % interval."""
    if value is None or value["mean"] is None:
        return ""
    mean = f"{100 * value['mean']:{sign}.2f}"
    if value["ci95"] is None:
        return mean
    return f"{mean} ± {50 * (value['ci95'][1] - value['ci95'][0]):.2f}"


def factorial_table(comparison: dict[str, Any]) -> str:
    """Main effects of {gate, permuted} x {even, early} x two batch sizes at equal samples, in
    points, each a mean over the other factors and paired by seed; then the arms."""
    batches = ("first-", "second-")

    def arm(name: str) -> dict[int, float | None]:
        return accuracies(comparison, name)

    def gate(batch: str, when: str) -> dict[int, float | None]:
        return arm(f"{batch}{when}@0.25")

    def permuted(batch: str, when: str) -> dict[int, float | None]:
        return arm(f"permuted:{batch}{when}@0.25")

    whens, first, second = ("even", "early"), *batches
    every = [(batch, when) for batch in batches for when in whens]
    effects = {
        "which samples: the gate's, not permuted ones": [
            (gate(*cell), permuted(*cell)) for cell in every
        ],
        "repetition: the gate's returns, not a fresh draw": [
            (permuted(*cell), arm(f"{cell[0]}random@0.25")) for cell in every
        ],
        "timing: early, not even": [
            (of(batch, "early"), of(batch, "even")) for of in (gate, permuted) for batch in batches
        ],
        "steps: the first batch size, not the second": [
            (of(first, when), of(second, when)) for of in (gate, permuted) for when in whens
        ],
    }
    lines = ["| effect | points | seeds |", "|---|---:|---:|"]
    for name, pairs in effects.items():
        found = [dict(zip(*differences(*pair), strict=True)) for pair in pairs]
        seeds = sorted(set.intersection(*map(set, found)))
        means = [sum(each[seed] for each in found) / len(found) for seed in seeds]
        lines.append(f"| {name} | {points(spread(means), '+')} | {len(seeds)} |")
    return "\n".join([*lines, "", arms_table(comparison)])
