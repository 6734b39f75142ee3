"""An estimate on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from frugalkd.cli.show import Rows, number
from frugalkd.experiments.estimate.model import Range, students_text
from frugalkd.files.parsing import printable
from frugalkd.runtime.formatting import duration, size_text


def estimate_view(result: dict[str, Any]) -> RenderableType:
    """The verdict, the modes, the costs of rows, when stores and ledgers pay off, and warnings."""
    head = f"{result['recipe']}: {result['samples']:,} samples, {result['epochs']:g} epochs"
    lines = [f"warning: {line}" for line in result["warnings"]]
    numbers = ("samples\n%", "forwards\n%", "a\nstudent", "of\nvanilla %", "filling", "disk")
    modes = Rows(
        Column("mode", no_wrap=True),
        *map(number, numbers),
        rows=map(_mode, result["modes"]),
        padding=0,
    )
    return Group(
        Text(printable(head), "bold"),
        Text(printable(result["verdict"]), "green" if result["pays"] else "yellow"),
        modes,
        _costs(result),
        *(Text(printable(line), "yellow") for line in lines),
    )


def _mode(row: dict[str, Any]) -> list[str]:
    stored = row["targets"] == "stored"
    return [
        f"{row['mode']}, {row['targets']}" if row["mode"] == "vanilla" else row["mode"],
        ("~" if row["rough"] else "") + _percent(row["kept"]),
        f"{100 * row['forwards'].point:.0f}",
        duration(row["seconds"].point),
        _percent(row["of_vanilla"]),
        duration(row["fill_seconds"]) if stored else "-",
        size_text(row["disk_bytes"]) if stored else "-",
    ]


def _range(value: Range, text: Callable[[float], str], to: str) -> str:
    point, low, high = map(text, value)
    return point if low == high else f"{point} ({low}{to}{high})"


def _percent(value: Range) -> str:
    return _range(value, lambda each: f"{100 * each:.0f}", "-")


def _costs(result: dict[str, Any]) -> Table:
    costs, teacher, paid = result["costs"], result["teacher"], result["break_even"]
    pilot, r = result["pilot"], result["r"]
    rows: dict[str, str] = {}
    live = ""
    if costs["query"]:
        live = f"; teacher live {_micro(costs['query'])}, into a store {_micro(costs['fill'])}"
        rows["teacher : student"] = (
            f"r = {r['time']:.1f} by time, {r['flops']:.1f} by FLOPs (forward : forward); "
            f"{costs['query'] / costs['step']:.2f} of a student's step"
        )
    rows["a row"] = f"step {_micro(costs['step'])}, screening {_micro(costs['screen'])}{live}"
    rows["teacher's training"] = (
        f"conventional {duration(teacher['conventional'])}; self-regulated "
        f"{_range(teacher['self_regulated'], duration, ' to ')} "
        f"({'as its folder recorded' if teacher['recorded'] else 'forecast'})"
    )
    if paid["store"] is not None or paid["store_mode"] is not None:
        rows["store paid after"] = (
            f"{students_text(paid['store'])} of vanilla, {students_text(paid['store_mode'])} of "
            f"{result['verdict_mode']}"
        )
    rows["ledger paid after"] = (
        f"{students_text(paid['ledger_trained_anyway'])} where a teacher is trained anyway, "
        f"{students_text(paid['ledger'])} where not; against regulated, which needs none: "
        f"{students_text(paid['ledger_over_regulated'])}"
    )
    smaller = f" and {pilot['small_rows']:,}" if pilot["small_rows"] else ""
    rows["pilot"] = (
        f"{pilot['seconds']:.0f} s; miniatures of {pilot['rows']:,}{smaller} samples, "
        f"{pilot['epochs']} epochs; equal work took times that spread by {pilot['spread']:.0%}; "
        f"{result['device']}, threads: {result['threads']}"
    )
    headings = Column(style="dim", no_wrap=True), Column(overflow="fold")
    return Rows(*headings, rows=rows.items(), box=None, show_header=False, padding=(0, 2, 0, 0))


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"
