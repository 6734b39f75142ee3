"""What a terminal shows: tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from frugalkd.files.parsing import printable

_MANY_CLASSES = 20


class Rows(Table):
    """A table of what others have named: what stands in it as a string is read as it is, neither as
    rich's markup nor as a sequence that steers the terminal. A heading may have several lines."""

    def __init__(self, *headings: str, title: str | None = None, **options: Any) -> None:
        said = None if title is None else Text(printable(title), "table.title")
        super().__init__(title=said, title_justify="left", **options)
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: RenderableType = "", *rest: Any, **options: Any) -> None:
        """A column under ``header``."""
        if isinstance(header, str):
            header = Text("\n".join(map(printable, header.split("\n"))))
        super().add_column(header, *rest, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """A row of these cells."""
        said = [Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*said, **options)


def stdout() -> Console:
    """A console for results; progress goes to stderr."""
    return Console(highlight=False)


def print_command(console: Console, command: str) -> None:
    """The next command to run, on one line so that it can be copied."""
    said = (printable(command), "cyan")
    console.print(Text.assemble(("next: ", "dim"), said), soft_wrap=True)


def print_line(console: Console, line: str) -> None:
    """A line that is not broken, of words that are not ours."""
    console.print(Text(printable(line)), soft_wrap=True)


def percent(fraction: float | None, digits: int = 1) -> str:
    """``0.123`` as ``12.3 %``; a dash where nothing is known."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def summary_table(results: dict[str, Any], out: Path) -> Table:
    """What a run came to: accuracy, what it cost, where its files are."""
    recipe, meters, measured = results["recipe"], results["meters"], results["evaluation"]
    role = recipe["teacher" if results["kind"] == "teach" else "student"]
    what = role["model"]["name"] or role["model"]["path"]
    title = f"{results['kind']} {recipe['name']}: {what}, seed {results['seed']}"
    table = Rows(title=title, box=SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if measured is None:
        table.add_row("accuracy", "not measured: the data have no held-out part")
    else:
        table.add_row("accuracy", f"{percent(measured['accuracy'], 2)} ({_measured_on(results)})")
        table.add_row("worst class", percent(measured["worst_class_accuracy"]))
        table.add_row("calibration error", percent(measured["expected_calibration_error"]))
        if measured.get("teacher_agreement") is not None:
            table.add_row("agrees with teacher", percent(measured["teacher_agreement"]))
    epochs = role["training"]["epochs"]
    full = f"{results['train_samples']:,} samples x {epochs:g} epochs"
    seen = meters["samples_backpropagated"]
    table.add_row("samples backpropagated", f"{seen:,} = {percent(results['budget'])} of {full}")
    trained = results.get("epochs")
    if trained is not None and trained < epochs - 1e-6:
        table.add_row("stopped", f"after {trained:g} of {epochs:g} epochs: nobody was awake")
    table.add_row("forwards", f"{meters['student_forwards']:,}")
    if results["kind"] == "distill":
        each = [f"{name} {rows:,}" for name, rows in meters.get("queries_of", {}).items()]
        of = f" ({', '.join(each)})" if each else ""
        table.add_row("teacher queries", f"{meters['teacher_queries']:,}{of}")
    if results.get("scoring") is not None:
        table.add_row("scoring run", _scoring(results["scoring"]))
    table.add_row("seconds", f"{meters['wall_seconds']:.1f} ({_where_time_went(meters)})")
    table.add_row("files", f"{out}/")
    return table


def _measured_on(results: dict[str, Any]) -> str:
    return f"{results['evaluation']['samples']:,} {results['split']} samples"


def _scoring(scoring: dict[str, Any]) -> str:
    whose = "for this run and others" if scoring["made_here"] else "for an earlier run"
    seen, seconds = scoring["samples_backpropagated"], scoring["wall_seconds"]
    return f"{scoring['kind']}: {seen:,} more, {seconds:.1f} seconds, {whose}"


def _where_time_went(meters: dict[str, Any]) -> str:
    phases = sorted(meters["phases"].items(), key=lambda phase: -phase[1])
    largest = [f"{name} {seconds:.1f}" for name, seconds in phases[:3]]
    return f"most: {', '.join(largest)}"


def facts_table(title: str, facts: Mapping[str, object]) -> Table:
    """Names and what is said of them, a row each; what is None is left out."""
    table = Rows(title=title, box=SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", max_width=56)
    for name, said in facts.items():
        if said is not None:
            table.add_row(name, str(said))
    return table


def evaluation_table(measured: dict[str, Any], title: str) -> Table:
    """What a model is worth on held-out data."""
    facts = {
        "samples": f"{measured['samples']:,}",
        "accuracy": percent(measured["accuracy"], 2),
        "worst class": percent(measured["worst_class_accuracy"]),
        "calibration error": percent(measured["expected_calibration_error"]),
    }
    return facts_table(title, facts)


def ledger_view(summary: dict[str, Any]) -> RenderableType:
    """A ledger's summary (see ``ledger_summary.summarise``) on one screen."""
    head = Text.assemble(
        (f"{summary['samples']:,} samples, {summary['epochs']:g} epochs", "bold"),
        f"; mean significance {summary['mean']:.3f}; {percent(summary['never'])} never took part, "
        f"{percent(summary['always'])} in every epoch",
    )
    parts: list[RenderableType] = [head]
    if summary["always"] == 1:
        parts.append(Text("All took part in all epochs: a conventional training.", "yellow"))
    if summary["classes"]:
        parts.append(_class_table(summary["classes"]))
    parts.append(_histogram(summary["histogram"]))
    ends = [
        _sample_table("most significant", summary["most"]),
        _sample_table("least significant", summary["least"]),
    ]
    parts.append(Columns(ends, padding=(0, 2)))
    return Group(*parts)


def _class_table(classes: list[dict[str, Any]]) -> Table:
    table = Rows(title="significance by class", box=SIMPLE_HEAD)
    table.add_column("class", max_width=24, overflow="ellipsis", no_wrap=True)
    for name in ("samples", "mean", "never", "always"):
        table.add_column(name, justify="right", no_wrap=True)
    half = _MANY_CLASSES // 2
    shown = classes if len(classes) <= _MANY_CLASSES else [*classes[:half], *classes[-half:]]
    for place, record in enumerate(shown):
        if place == half and len(shown) < len(classes):
            table.add_row(f"... {len(classes) - len(shown)} more", "", "", "", "")
        table.add_row(
            record["class"],
            f"{record['samples']:,}",
            f"{record['mean']:.3f}",
            percent(record["never"]),
            percent(record["always"]),
        )
    return table


def _histogram(counts: list[int]) -> Table:
    table = Rows(title="samples by significance", box=SIMPLE_HEAD)
    table.add_column("from", no_wrap=True)
    table.add_column("samples", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    widest, width = max([*counts, 1]), 50
    for place, count in enumerate(counts):
        table.add_row(
            f"{place / len(counts):.1f}", f"{count:,}", "█" * round(width * count / widest)
        )
    return table


def _sample_table(title: str, samples: list[dict[str, Any]]) -> Table:
    """With their names, where these are known."""
    table = Rows(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("class", max_width=12, overflow="ellipsis", no_wrap=True)
    table.add_column("signif.", justify="right", no_wrap=True)
    table.add_column("conf.", justify="right", no_wrap=True)
    named = all("sample" in sample for sample in samples)
    if named:
        table.add_column("sample", max_width=36, overflow="fold")
    for sample in samples:
        confidence = sample["confidence"]
        table.add_row(
            str(sample["id"]),
            sample["class"] or "-",
            f"{sample['significance']:.3f}",
            "-" if confidence is None else f"{confidence:.2f}",
            *([sample["sample"]] if named else []),
        )
    return table
