"""A comparison as tables of at most 80 columns."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table
from rich.text import Text

from frugalkd.cli.show import Rows, number
from frugalkd.files.parsing import printable
from frugalkd.runtime.formatting import percent

_LAYOUT: dict[str, Any] = {"width": 80, "padding": (0, 1, 0, 0), "pad_edge": False}


def comparison_table(comparison: dict[str, Any]) -> Table:
    """The arms and the teachers; ``comparison`` is the content of ``comparison.json``."""
    budgets = any(row["budget_asked"] is not None for row in comparison["arms"])
    teachers = [row for row in comparison["teachers"] if {row["accuracy"], row["budget"]} != {None}]
    first = [Column("arm", overflow="fold", ratio=1, min_width=16)]
    if not budgets:
        first = [
            Column("arm", overflow="fold", min_width=12, max_width=16),
            Column("samples used", ratio=1, min_width=16),
        ]
    against = [f"against\n{comparison['reference']}", *["against\nrandom"] * budgets]
    seeds = len(comparison["seeds"])
    of_seeds = f"{seeds} seed{'s' * (seeds > 1)}"
    if not comparison.get("complete", True):
        of_seeds = f"{len(comparison['complete_seeds'])} of {of_seeds} complete"
    numbers = ("accuracy\n%", *against, "samples\n%", "cost\nepochs", "time\nratio")
    table = Rows(
        *first,
        *map(number, numbers),
        title=f"{comparison['name']}: {of_seeds}, {comparison['split']} data",
        caption=Text(printable(_caption(comparison, budgets, bool(teachers))), "table.caption"),
        caption_justify="left",
        show_edge=False,
        **_LAYOUT,
    )
    for row in comparison["arms"]:
        about = " ".join([row["arm" if budgets else "about"], *_marks(row)])
        names = [about] if budgets else [row["arm"], about]
        table.add_row(*names, *_cells(row, budgets))
    for row in teachers:
        accuracy, samples = percent(row["accuracy"], 1, ""), percent(row["budget"], 0, "")
        name = [f"{row['teacher']} (a teacher)"] if budgets else [row["teacher"], "a teacher"]
        table.add_row(*name, accuracy, *[""] * len(against), samples, style="dim")
    return table


def claims_table(comparison: dict[str, Any]) -> Table:
    """The declared claims."""
    table = Rows(
        Column("claim", overflow="fold", ratio=1),
        *map(number, ("difference", "95 % interval", "p (Holm)")),
        Column("holds", overflow="fold", max_width=24),
        **_LAYOUT,
    )
    for claim in comparison["claims"]:
        mean, ci95 = claim["difference"]["mean"], claim["difference"]["ci95"]
        table.add_row(
            f"{claim['arm']} {claim['claim']} than {claim['against']}",
            "–" if mean is None else f"{100 * mean:+.2f}",
            "–" if ci95 is None else f"{100 * ci95[0]:+.2f} to {100 * ci95[1]:+.2f}",
            f"{claim['p_holm']:.2g}",
            "yes" if claim["holds"] else f"no: {claim['why']}",
        )
    return table


def _caption(comparison: dict[str, Any], budgets: bool, teachers: bool) -> str:
    reference = comparison["reference"]
    text = (
        f"± is half of the 95 % interval over seeds; against {reference}: the paired difference in "
        "points. samples: backpropagated, of full distillation over the same epochs; cost: with "
        "screening and teacher queries, in epochs of full distillation. time: of training, over "
        f"{reference}'s. Cost and time are without the filling of stores."
    )
    if budgets:
        text += (
            " ARM@BUDGET was made to spend that part of the samples; against random: as many, "
            "drawn again each epoch."
        )
    if teachers:
        text += " A teacher's samples are a part of its own training."
    # Of few arms, what an average hides; earlier comparisons do not have it.
    worst = [
        row for row in comparison["arms"] if row.get("worst_class", {}).get("mean") is not None
    ]
    if 0 < len(worst) <= 8:
        each = ", ".join(f"{row['arm']} {_points(row['worst_class'])}" for row in worst)
        text += f" Accuracy of the worst class, %: {each}."
    return text


def _marks(row: dict[str, Any]) -> list[str]:
    """Warnings that belong to a row's numbers."""
    runs, failed = len(row["seeds"]), len(row["failed"])
    collapsed = row["collapsed"] - failed
    marks = {
        f"({failed} of {runs} FAILED)": failed,
        f"({collapsed} of {runs} COLLAPSED)": collapsed > 0,
        "(NOT MATCHED)": row["matched"] and not row["matched"]["within_tolerance"],
        "(OFF ITS BUDGET)": row["on_budget"] is False,
        "(own budget)": row["own_budget"],
    }
    return [mark for mark, holds in marks.items() if holds]


def _cells(row: dict[str, Any], budgets: bool) -> list[str]:
    differences = [row["difference"], *([row["against_random"]] if budgets else [])]
    cost, ratio = row["cost"]["mean"], row["wall_ratio"]["mean"]
    return [
        _points(row["accuracy"]),
        *("" if each is None else _points(each, "+") for each in differences),
        percent(row["budget"]["mean"], 0, ""),
        *("" if it is None else f"{it:.{digits}f}" for it, digits in ((cost, 1), (ratio, 2))),
    ]


def _points(value: dict[str, Any], sign: str = "") -> str:
    if value["mean"] is None:
        return "–"
    mean = f"{100 * value['mean']:{sign}.1f}"
    if value["ci95"] is None:
        return mean
    return f"{mean} ±{50 * (value['ci95'][1] - value['ci95'][0]):.1f}"
