"""A comparison as a table: for a terminal, and for Markdown."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from frugalkd.cli.show import Rows
from frugalkd.files.parsing import printable

_SHARES = ("budget", "forwards")
_FEW = 8
"""Arms whose worst classes are said below the table."""


def comparison_table(comparison: dict[str, Any]) -> Table:
    """A table of 80 columns at most; ``comparison`` is the content of ``comparison.json``."""
    title = f"{comparison['name']}: {_seeds(comparison)}, {comparison['split']} data"
    table = Rows(
        box=box.SIMPLE_HEAD,
        title=title,
        caption=Text(printable(_caption(comparison)), "table.caption"),
        caption_justify="left",
        width=80,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    driven = _driven(comparison)
    if driven:
        table.add_column("arm", overflow="fold", ratio=1, min_width=16)
    else:
        table.add_column("arm", overflow="fold", min_width=12, max_width=16)
        table.add_column("who takes part", ratio=1, min_width=16)
    for heading in _headings(comparison):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison["arms"]:
        said = [" ".join([row["arm"], *_marks(row)])] if driven else [row["arm"], _about(row)]
        table.add_row(*said, *_cells(row, driven))
    for row in _trained(comparison):
        table.add_row(*_teacher_cells(row, driven), style="dim")
    return table


def _seeds(comparison: dict[str, Any]) -> str:
    seeds = len(comparison["seeds"])
    said = f"{seeds} seed{'s' * (seeds > 1)}"
    if comparison.get("complete", True):
        return said
    return f"{len(comparison['complete_seeds'])} of {said} complete"


def claims_table(comparison: dict[str, Any]) -> Table:
    """The declared claims, 80 columns wide at most."""
    table = Rows(box=box.SIMPLE_HEAD, width=80, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("claim", overflow="fold", ratio=1)
    for heading in ("difference", "95 % interval", "p (Holm)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("holds", overflow="fold", max_width=24)
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


def markdown_table(comparison: dict[str, Any]) -> str:
    """The same rows as a Markdown table, with the notes below it."""
    driven = _driven(comparison)
    headings = [
        "arm",
        "who takes part",
        *(name.replace("\n", " ") for name in _headings(comparison)),
    ]
    lines = [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * 2}{'---:|' * (len(headings) - 2)}",
    ]
    for row in comparison["arms"]:
        lines.append(f"| {' | '.join([row['arm'], _about(row), *_cells(row, driven)])} |")
    for row in _trained(comparison):
        name, *cells = _teacher_cells(row, driven)
        cells = cells if not driven else ["a teacher", *cells]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join([*lines, "", _caption(comparison), ""])


def _headings(comparison: dict[str, Any]) -> list[str]:
    against = [f"against\n{comparison['reference']}"]
    against += ["against\nrandom"] if _driven(comparison) else []
    return ["accuracy\n%", *against, "samples\n%", "forwards\n%", "time\nratio"]


def _driven(comparison: dict[str, Any]) -> bool:
    """Whether arms were made to spend budgets."""
    return any(row["budget_asked"] is not None for row in comparison["arms"])


def _trained(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The teachers of which something was measured here."""
    known = ("accuracy", "budget")
    return [row for row in comparison["teachers"] if any(row[name] is not None for name in known)]


def _teacher_cells(row: dict[str, Any], driven: bool) -> list[str]:
    accuracy, samples = _percent(row["accuracy"], 1), _percent(row["budget"])
    if driven:
        return [f"{row['teacher']} (a teacher)", accuracy, "", "", samples, "", ""]
    return [row["teacher"], "a teacher", accuracy, "", samples, "", ""]


def _caption(comparison: dict[str, Any]) -> str:
    budgets = (
        " ARM@BUDGET was made to spend that part of the samples; against random: as many, drawn "
        "anew each epoch."
    ) * _driven(comparison)
    teachers = " A teacher's samples are a part of its own training." * bool(_trained(comparison))
    return (
        "± is half of the 95 % interval over seeds; against "
        f"{comparison['reference']}: the paired difference in points. samples: backpropagated, of "
        "full distillation over the same epochs; forwards: rows through the student, likewise. "
        f"time: of training, over {comparison['reference']}'s, without the filling of stores."
        f"{budgets}{teachers}"
        f"{_worst_classes(comparison['arms'])}"
    )


def _worst_classes(rows: list[dict[str, Any]]) -> str:
    """Of few arms, what an average hides; earlier comparisons do not know it."""
    known = [row for row in rows if row.get("worst_class", {}).get("mean") is not None]
    if not known or len(known) > _FEW:
        return ""
    said = ", ".join(f"{row['arm']} {_points(row['worst_class'])}" for row in known)
    return f" Accuracy of the worst class, %: {said}."


def _about(row: dict[str, Any]) -> str:
    return " ".join([row["about"], *_marks(row)])


def _marks(row: dict[str, Any]) -> list[str]:
    """What has to be said of a row beside its numbers."""
    runs = len(row["seeds"])
    said = []
    if row["failed"]:
        said.append(f"({len(row['failed'])} of {runs} FAILED)")
    if row["collapsed"] > len(row["failed"]):
        said.append(f"({row['collapsed'] - len(row['failed'])} of {runs} COLLAPSED)")
    if row["matched"] and not row["matched"]["within_tolerance"]:
        said.append("(NOT MATCHED)")
    if row["on_budget"] is False:
        said.append("(OFF ITS BUDGET)")
    if row["own_budget"]:
        said.append("(own budget)")
    return said


def _cells(row: dict[str, Any], driven: bool) -> list[str]:
    random = "" if row["against_random"] is None else _points(row["against_random"], signed=True)
    return [
        _points(row["accuracy"]),
        "" if row["difference"] is None else _points(row["difference"], signed=True),
        *([random] if driven else []),
        *(_percent(row[share]["mean"]) for share in _SHARES),
        "" if row["wall_ratio"]["mean"] is None else f"{row['wall_ratio']['mean']:.2f}",
    ]


def _points(value: dict[str, Any], *, signed: bool = False) -> str:
    if value["mean"] is None:
        return "–"
    mean = f"{100 * value['mean']:{'+' if signed else ''}.1f}"
    if value["ci95"] is None:
        return mean
    return f"{mean} ±{50 * (value['ci95'][1] - value['ci95'][0]):.1f}"


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
