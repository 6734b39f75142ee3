"""What a terminal shows: results as JSON or as tables that fit 80 columns."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from frugalkd.files.parsing import printable
from frugalkd.runtime.formatting import percent

number = partial(Column, justify="right", no_wrap=True)
"""A column of numbers."""


class Rows(Table):
    """A table of texts from outside: a string in it is shown as it is, never read as rich's markup
    nor as a control sequence of the terminal. A heading may have several lines."""

    def __init__(
        self, *headings: str | Column, rows: Iterable[Iterable[str]] = (), title: str | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        columns = [Column(each) if isinstance(each, str) else each for each in headings]
        for column in columns:
            column.header = Text("\n".join(map(printable, str(column.header).split("\n"))))
        shown = None if title is None else Text(printable(title), "table.title")
        options = {"box": SIMPLE_HEAD, "title_justify": "left", **options}
        super().__init__(*columns, title=shown, **options)
        for row in rows:
            self.add_row(*row)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """A row of these cells."""
        shown = [Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*shown, **options)


def facts_table(title: str, facts: Mapping[str, object]) -> Table:
    """A row for each name and its value; a value of None is left out."""
    value = Column(overflow="fold", max_width=56)
    rows = ((name, str(said)) for name, said in facts.items() if said is not None)
    return Rows(Column(style="dim", no_wrap=True), value, rows=rows, title=title, show_header=False)


def print_result(as_json: bool, content: Any, *shown: RenderableType, following: str = "") -> None:
    """The result of a command: ``content`` as JSON, or tables, lines and the next command."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    console = stdout()
    for each in shown:
        print_line(console, each) if isinstance(each, str) else console.print(each)
    if following:
        print_command(console, following)


def command(*words: object, settings: Sequence[str] = ()) -> str:
    """A command of frugalkd as it is typed, with ``--set`` for each setting."""
    given = (word for setting in settings for word in ("--set", setting))
    return shlex.join(["frugalkd", *map(str, words), *given])


def stdout() -> Console:
    """A console for results; progress goes to stderr."""
    return Console(highlight=False)


def print_command(console: Console, command: str) -> None:
    """The next command to run, on one line so that it can be copied."""
    said = (printable(command), "cyan")
    console.print(Text.assemble(("next: ", "dim"), said), soft_wrap=True)


def print_line(console: Console, line: str) -> None:
    """A line of text from outside, not wrapped."""
    console.print(Text(printable(line)), soft_wrap=True)


def measures(measured: dict[str, Any], on: str = "") -> dict[str, object]:
    """The measures of a model on held-out data, as facts."""
    return {
        "accuracy": percent(measured["accuracy"], 2) + on,
        "worst class": percent(measured["worst_class_accuracy"]),
        "calibration error": percent(measured["expected_calibration_error"]),
    }


def summary_table(results: dict[str, Any], out: Path) -> Table:
    """The results of a run: accuracy, what it cost, where its files are."""
    recipe, meters, measured = results["recipe"], results["meters"], results["evaluation"]
    role = recipe["teacher" if results["kind"] == "teach" else "student"]
    what = role["model"]["name"] or role["model"]["path"]
    epochs, trained = role["training"]["epochs"], results.get("epochs")
    facts: dict[str, object] = {"accuracy": "not measured: the data have no held-out part"}
    if measured is not None:
        facts = measures(measured, f" ({measured['samples']:,} {results['split']} samples)")
        if measured.get("teacher_agreement") is not None:
            facts["agrees with teacher"] = percent(measured["teacher_agreement"])
    facts["samples backpropagated"] = (
        f"{meters['samples_backpropagated']:,} = {percent(results['budget'])} of "
        f"{results['train_samples']:,} samples x {epochs:g} epochs"
    )
    if trained is not None and trained < epochs - 1e-6:
        facts["stopped"] = f"after {trained:g} of {epochs:g} epochs: no sample was active"
    facts["forwards"] = f"{meters['student_forwards']:,}"
    if results["kind"] == "distill":
        each = [f"{name} {rows:,}" for name, rows in meters.get("queries_of", {}).items()]
        of = f" ({', '.join(each)})" if each else ""
        facts["teacher queries"] = f"{meters['teacher_queries']:,}{of}"
    if (scoring := results.get("scoring")) is not None:
        made = "for this run and others" if scoring["made_here"] else "for an earlier run"
        facts["scoring run"] = (
            f"{scoring['kind']}: {scoring['samples_backpropagated']:,} more, "
            f"{scoring['wall_seconds']:.1f} seconds, {made}"
        )
    phases = sorted(meters["phases"].items(), key=lambda phase: -phase[1])
    most = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases[:3])
    facts |= {"seconds": f"{meters['wall_seconds']:.1f} (most: {most})", "files": f"{out}/"}
    return facts_table(f"{results['kind']} {recipe['name']}: {what}, seed {results['seed']}", facts)


def chain_table(done: dict[str, Any], out: Path) -> Table:
    """A row a stage, and their sum."""
    table = Rows(
        Column("stage", no_wrap=True),
        Column("model", max_width=22, overflow="fold"),
        *map(number, ("accuracy", "samples", "queries", "seconds")),
        title=f"chain in {out}/",
    )
    total = {"stage": "all", "model": "", "meters": done["meters"]}
    for one in (*done["stages"], total):
        measured, meters = one.get("evaluation"), one["meters"]
        accuracy = "" if one is total else percent(measured and measured["accuracy"], 2)
        table.add_row(
            one["stage"], one["model"], accuracy, f"{meters['samples_backpropagated']:,}",
            f"{meters['teacher_queries']:,}", f"{meters['wall_seconds']:.1f}",
        )  # fmt: skip
    return table


def ledger_view(summary: dict[str, Any]) -> RenderableType:
    """A ledger's summary (see ``ledger.summary.summarise``) on one screen."""
    head = Text.assemble(
        (f"{summary['samples']:,} samples, {summary['epochs']:g} epochs", "bold"),
        f"; mean significance {summary['mean']:.3f}; {percent(summary['never'])} never used for "
        f"training, {percent(summary['always'])} in every epoch",
    )
    parts: list[RenderableType] = [head]
    if summary["always"] == 1:
        parts.append(Text("All used in all epochs: a conventional training.", "yellow"))
    if summary["classes"]:
        parts.append(_class_table(summary["classes"]))
    ends = [_sample_table(f"{end} significant", summary[end]) for end in ("most", "least")]
    parts += [_histogram(summary["histogram"]), Columns(ends, padding=(0, 2))]
    return Group(*parts)


def _class_table(classes: list[dict[str, Any]]) -> Table:
    name = Column("class", max_width=24, overflow="ellipsis", no_wrap=True)
    table = Rows(
        name, *map(number, ("samples", "mean", "never", "always")), title="significance by class"
    )
    half, hidden = 10, max(0, len(classes) - 20)
    for place, record in enumerate(classes):
        if hidden and place == half:
            table.add_row(f"... {hidden} more")
        if place < half or place >= half + hidden:
            table.add_row(
                record["class"], f"{record['samples']:,}", f"{record['mean']:.3f}",
                percent(record["never"]), percent(record["always"]),
            )  # fmt: skip
    return table


def _histogram(counts: list[int]) -> Table:
    widest, width = max([*counts, 1]), 50
    rows = (
        (f"{place / len(counts):.1f}", f"{count:,}", "█" * round(width * count / widest))
        for place, count in enumerate(counts)
    )
    headings = Column("from", no_wrap=True), number("samples"), Column(no_wrap=True)
    return Rows(*headings, rows=rows, title="samples by significance")


def _sample_table(title: str, samples: list[dict[str, Any]]) -> Table:
    """With the names of the samples, where these are known."""
    name = Column("class", max_width=12, overflow="ellipsis", no_wrap=True)
    headings = [number("id"), name, number("signif."), number("conf.")]
    if named := all("sample" in sample for sample in samples):
        headings.append(Column("sample", max_width=36, overflow="fold"))
    table = Rows(*headings, title=title, padding=(0, 1, 0, 0))
    for sample in samples:
        confidence = sample["confidence"]
        table.add_row(
            str(sample["id"]), sample["class"] or "-", f"{sample['significance']:.3f}",
            "-" if confidence is None else f"{confidence:.2f}",
            *([sample["sample"]] if named else []),
        )  # fmt: skip
    return table
