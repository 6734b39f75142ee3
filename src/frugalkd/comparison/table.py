"""A comparison as a table: for a terminal, and for Markdown."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

_SHARES = ("budget", "forwards")


def comparison_table(comparison: dict[str, Any]) -> Table:
    """A table of 80 columns at most; ``comparison`` is the content of ``comparison.json``."""
    title = f"{comparison['name']}: {len(comparison['seeds'])} seeds, {comparison['split']} data"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        caption=_caption(comparison),
        caption_justify="left",
        width=80,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("arm", overflow="fold", min_width=12, max_width=16)
    table.add_column("who takes part", ratio=1, min_width=16)
    for heading in _headings(comparison):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison["arms"]:
        table.add_row(row["arm"], _about(row), *_cells(row))
    for row in comparison["teachers"]:
        accuracy, samples = _percent(row["accuracy"], 1), _percent(row["budget"])
        table.add_row(row["teacher"], "a teacher", accuracy, "", samples, "", "", style="dim")
    return table


def markdown_table(comparison: dict[str, Any]) -> str:
    """The same rows as a Markdown table, with the notes below it."""
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
        lines.append(f"| {' | '.join([row['arm'], _about(row), *_cells(row)])} |")
    for row in comparison["teachers"]:
        cells = [row["teacher"], "a teacher", _percent(row["accuracy"], 1), "", ""]
        cells[4:] = [_percent(row["budget"]), "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _caption(comparison), ""])


def _headings(comparison: dict[str, Any]) -> list[str]:
    reference = comparison["reference"]
    return ["accuracy\n%", f"against\n{reference}", "samples\n%", "forwards\n%", "time\nratio"]


def _caption(comparison: dict[str, Any]) -> str:
    teachers = " A teacher's samples are a part of its own training." * bool(comparison["teachers"])
    return (
        "± is half of the 95 % interval over seeds; against "
        f"{comparison['reference']}: the paired difference in points. samples: backpropagated, of "
        "full distillation over the same epochs; forwards: rows through the student, likewise. "
        f"time: of training, over {comparison['reference']}'s.{teachers}"
    )


def _about(row: dict[str, Any]) -> str:
    runs = len(row["seeds"])
    said = [row["about"]]
    if row["failed"]:
        said.append(f"({len(row['failed'])} of {runs} FAILED)")
    if row["collapsed"] > len(row["failed"]):
        said.append(f"({row['collapsed'] - len(row['failed'])} of {runs} COLLAPSED)")
    if row["matched"] and not row["matched"]["within_tolerance"]:
        said.append("(NOT MATCHED)")
    return " ".join(said)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        _points(row["accuracy"]),
        "" if row["difference"] is None else _points(row["difference"], signed=True),
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
