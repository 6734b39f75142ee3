"""What a terminal shows: results as JSON or as tables that fit 80 columns."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import filesize
from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from frugalkd.files.parsing import printable
from frugalkd.runtime.formatting import duration, number, percent

if TYPE_CHECKING:
    from frugalkd.experiments.estimate.model import Range
    from frugalkd.experiments.runs.schema import ArmRecord, Spread

numeric = partial(Column, justify="right", no_wrap=True)
"""A column of numbers."""


class TextTable(Table):
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
    return TextTable(
        Column(style="dim", no_wrap=True), value, rows=rows, title=title, show_header=False
    )


def print_result(
    as_json: bool, content: Any, *shown: RenderableType, following: str | Sequence[str] = ""
) -> None:
    """The result of a command: ``content`` as JSON, or tables, lines and the next command, or
    several."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    console = Console(highlight=False)
    for each in shown:
        print_line(console, each) if isinstance(each, str) else console.print(each)
    commands = [following] if isinstance(following, str) else following
    for each in filter(None, commands):  # on one line, so that it can be copied
        command = Text.assemble(("next: ", "dim"), (printable(each), "cyan"))
        console.print(command, soft_wrap=True)


def command(*words: object, settings: Sequence[str] = ()) -> str:
    """A command of frugalkd as it is typed, with ``--set`` for each setting."""
    given = (word for setting in settings for word in ("--set", setting))
    return shlex.join(["frugalkd", *map(str, words), *given])


def print_line(console: Console, line: str) -> None:
    """A line of text from outside, not wrapped."""
    console.print(Text(printable(line)), soft_wrap=True)


def measures(measured: dict[str, Any], on: str = "") -> dict[str, object]:
    """The measures of a model on held-out data, as facts."""
    from frugalkd.experiments.runs.schema import SHOWN_MEASURES

    facts = {
        words: percent(value, 2) if share else f"{value:.4g}"
        for field, (words, share) in SHOWN_MEASURES.items()
        if (value := measured.get(field)) is not None
    }
    if "perplexity" in measured:
        facts["accuracy of the next token"] = facts.pop("accuracy")
        facts["tokens"] = f"{measured['tokens']:,}"
    if "r2" in measured and measured["r2"] is None:
        facts = {"R2": "not defined: a target does not vary", **facts}
    first, value = next(iter(facts.items()), ("measures", "none, without the teacher"))
    return {**facts, first: value + on}


def summary_table(results: dict[str, Any], out: Path) -> Table:
    """The results of a run: accuracy, what it cost, where its files are."""
    recipe, meters, measured = results["recipe"], results["meters"], results["evaluation"]
    role = recipe["teacher" if results["kind"] == "teach" else "student"]
    what = role["model"]["name"] or role["model"]["path"]
    epochs, trained = role["training"]["epochs"], results.get("epochs")
    facts: dict[str, object] = {"accuracy": "not measured: the data have no held-out part"}
    if measured is not None:
        facts = measures(measured, f" ({measured['samples']:,} {results['split']} samples)")
    facts["samples backpropagated"] = (
        f"{meters['samples_backpropagated']:,} = {percent(results['budget'])} of "
        f"{results['train_samples']:,} samples x {epochs:g} epochs"
    )
    if (share := results.get("token_budget")) is not None:
        learned = f"{meters['tokens_backpropagated']:,}"
        facts["tokens backpropagated"] = f"{learned} = {percent(share)} of full training's"
    gate = role.get("policy") or role.get("regulation") or {}
    limit = role.get("cost") or gate.get("options", gate).get("cost")
    cost = (results.get("cost") or {}).get("epochs")
    if limit is not None and cost is not None:
        planned = [each["planned"] for each in results["history"]]
        whole = planned.count(planned[0])
        on_all = f"{whole} of them on all samples"
        if len(planned) > 2 and set(planned[:-1]) == {planned[0]}:  # the last is what was left
            on_all += ": in effect a shorter schedule"
        facts["cost"] = f"{cost:.2f} of {epochs:g} epochs, over {trained:g}, {on_all}"
    elif trained is not None and trained < epochs - 1e-6:
        why = "no sample was active" if limit is None else "its cost is spent"
        facts["stopped"] = f"after {trained:g} of {epochs:g} epochs: {why}"
    if count := (results.get("history") or [{}])[-1].get("disbelieved"):
        share = percent(count / results["train_samples"])
        facts["labels disbelieved"] = f"{count:,} = {share} of the samples"
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
    if (features := results.get("features")) is not None and features["reused_from"] is not None:
        seconds, file = duration(features["seconds"]), features["reused_from"]
        facts["features"] = f"of an earlier run, which computed them in {seconds}: {file}"
    phases = sorted(meters["phases"].items(), key=lambda phase: -phase[1])
    most = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases[:3])
    facts |= {"seconds": f"{meters['wall_seconds']:.1f} (most: {most})", "files": f"{out}/"}
    return facts_table(f"{results['kind']} {recipe['name']}: {what}, seed {results['seed']}", facts)


def export_table(done: dict[str, Any]) -> Table:
    """A row for the model of a run and for each exported file that can be run."""
    on = "" if done["data"] is None else f", on {done['samples']:,} samples of {done['data']}"
    of = f", texts of {done['tokens']} tokens" if done["tokens"] else ""
    table = TextTable(
        "model",
        *map(numeric, ("bytes", "ms at\nbatch 1", "ms at\nbatch 64", "accuracy", "agreement")),
        title=f"export of {done['run']}{on} ({done['threads']} threads{of})",
    )
    for row in done["table"]:
        times, shares = row.get("milliseconds", {}), (row.get("accuracy"), row.get("agreement"))
        table.add_row(
            row["model"], f"{row['bytes']:,}",
            *(f"{times[rows]:,.3f}" if rows in times else "-" for rows in ("1", "64")),
            *("-" if share is None else percent(share, 2) for share in shares),
        )  # fmt: skip
    return table


def chain_table(done: dict[str, Any], out: Path) -> Table:
    """A row a stage, and their sum."""
    from frugalkd.experiments.runs.schema import quality_of

    table = TextTable(
        Column("stage", no_wrap=True),
        Column("model", max_width=22, overflow="fold"),
        *map(numeric, ("accuracy", "samples", "queries", "seconds")),
        title=f"chain in {out}/",
    )
    total = {"stage": "all", "model": "", "meters": done["meters"]}
    for one in (*done["stages"], total):
        measured, meters = one.get("evaluation"), one["meters"]
        accuracy = "" if one is total else percent(quality_of(measured)[1], 2)
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
        parts.append(
            Text(
                "All were used in all epochs: the training had no gate, or nothing passed it.",
                "yellow",
            )
        )
    if summary["classes"]:
        parts.append(_class_table(summary["classes"]))
    ends = [_sample_table(f"{end} significant", summary[end]) for end in ("most", "least")]
    parts += [_histogram(summary["histogram"]), Columns(ends, padding=(0, 2))]
    return Group(*parts)


def _class_table(classes: list[dict[str, Any]]) -> Table:
    name = Column("class", max_width=24, overflow="ellipsis", no_wrap=True)
    table = TextTable(
        name, *map(numeric, ("samples", "mean", "never", "always")), title="significance by class"
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
    headings = Column("from", no_wrap=True), numeric("samples"), Column(no_wrap=True)
    return TextTable(*headings, rows=rows, title="samples by significance")


def _sample_table(title: str, samples: list[dict[str, Any]]) -> Table:
    """With the names of the samples, where these are known."""
    name = Column("class", max_width=12, overflow="ellipsis", no_wrap=True)
    headings = [numeric("id"), name, numeric("signif."), numeric("conf.")]
    if named := all("sample" in sample for sample in samples):
        headings.append(Column("sample", max_width=36, overflow="fold"))
    table = TextTable(*headings, title=title, padding=(0, 1, 0, 0))
    for sample in samples:
        confidence = sample["confidence"]
        table.add_row(
            str(sample["id"]), sample["class"] or "-", f"{sample['significance']:.3f}",
            "-" if confidence is None else f"{confidence:.2f}",
            *([sample["sample"]] if named else []),
        )  # fmt: skip
    return table


def audit_view(content: dict[str, Any]) -> RenderableType:
    """The most suspicious labels of a ledger, on one screen."""
    samples, rows = content["samples"], content["suspects"]
    head = Text.assemble(
        (f"{content['refused']:,} of {samples:,} labels", "bold"),
        f" ({percent(content['refused'] / max(1, samples))}) had a negative mean margin: training "
        "preferred another class. Not all of these are wrong; the first ones are the likeliest.",
    )
    name = partial(Column, max_width=16, overflow="ellipsis", no_wrap=True)
    more = [key for key in ("teacher", "sample") if rows and key in rows[0]]
    table = TextTable(
        *map(numeric, ("", "id")), name("given"), name("suggested"),
        *map(numeric, ("score", "margin", "prob.")), *map(name, more),
        title="most suspicious labels", padding=(0, 1, 0, 0),
    )  # fmt: skip
    for place, row in enumerate(rows, 1):
        table.add_row(
            str(place), str(row["id"]), row["given"] or "-", row["suggested"] or "-",
            *(f"{row[key]:.2f}" for key in ("score", "margin", "probability")),
            *(row[key] or "-" for key in more),
        )  # fmt: skip
    return Group(head, table)


_LAYOUT: dict[str, Any] = {"width": 80, "padding": (0, 1, 0, 0), "pad_edge": False}
"""Of the tables of a comparison."""


def comparison_table(comparison: dict[str, Any]) -> Table:
    """The arms and the teachers of ``comparison``, the content of ``comparison.json``."""
    from frugalkd.experiments.runs.schema import ArmRecord

    arms = [ArmRecord.model_validate(row) for row in comparison["arms"]]
    budgets = any(arm.target_budget is not None for arm in arms)
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
    measure = comparison.get("measure", "accuracy")
    numbers = (f"{measure}\n%", *against, "samples\n%", "cost\nepochs", "seconds\n(ratio)")
    table = TextTable(
        *first,
        *map(numeric, numbers),
        title=f"{comparison['name']}: {of_seeds}, {comparison['split']} data",
        caption=Text(printable(_caption(comparison["reference"], arms, budgets)), "table.caption"),
        caption_justify="left",
        show_edge=False,
        **_LAYOUT,
    )
    for arm in arms:
        about = " ".join([arm.arm if budgets else arm.about, *(f"({mark})" for mark in arm.marks)])
        differences = [arm.difference, arm.against_random][: len(against)]
        table.add_row(
            *([about] if budgets else [arm.arm, about]),
            _points(arm.accuracy),
            *("" if each is None else _points(each, "+") for each in differences),
            percent(arm.budget.mean, 0, ""),
            number(arm.cost.mean, 1),
            _time(arm),
        )
    for row in teachers:
        accuracy, samples = percent(row["accuracy"], 1, ""), percent(row["budget"], 0, "")
        name = [f"{row['teacher']} (a teacher)"] if budgets else [row["teacher"], "a teacher"]
        table.add_row(*name, accuracy, *[""] * len(against), samples, style="dim")
    return table


def _caption(reference: str, arms: list[ArmRecord], budgets: bool) -> str:
    text = (
        f"± is half of the 95 % interval over seeds; against {reference}: the paired difference in "
        "points. samples: backpropagated, of full training over the same epochs; cost: with "
        "screening and teacher queries, in epochs of full distillation. time: of training, over "
        f"{reference}'s. Cost and time are without the filling of stores."
    )
    if budgets:
        text += (
            " ARM@BUDGET was made to spend that part of the samples; against random: as many, "
            "drawn again each epoch."
        )
    spreads = [(arm.arm, arm.worst_class) for arm in arms]
    worst = [(name, found) for name, found in spreads if found and found.mean is not None]
    if 0 < len(worst) <= 8:
        each = ", ".join(f"{name} {_points(value)}" for name, value in worst)
        text += f" Accuracy of the worst class, %: {each}."
    return text


def _time(arm: ArmRecord) -> str:
    ratio = "" if arm.wall_ratio.mean is None else f" ({arm.wall_ratio.mean:.2f})"
    return number(arm.meters.wall_seconds, 0) + ratio


def _points(value: Spread, sign: str = "") -> str:
    if value.mean is None:
        return "–"
    mean = f"{100 * value.mean:{sign}.1f}"
    return mean if value.ci95 is None else f"{mean} ±{50 * (value.ci95[1] - value.ci95[0]):.1f}"


def claims_table(comparison: dict[str, Any]) -> Table:
    """The declared claims."""
    table = TextTable(
        Column("claim", overflow="fold", ratio=1),
        *map(numeric, ("difference", "95 % interval", "p (Holm)")),
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


def estimate_view(result: dict[str, Any]) -> RenderableType:
    """The verdict, the modes, the costs of rows, when stores and ledgers pay off, and warnings."""
    head = f"{result['recipe']}: {result['samples']:,} samples, {result['epochs']:g} epochs"
    modes = TextTable(
        Column("mode", no_wrap=True),
        *map(
            numeric,
            ("samples\n%", "cost\nepochs", "a\nstudent", "of\nvanilla %", "filling", "disk"),
        ),
        rows=map(_mode, result["modes"]),
        title=None if result["at_cost"] is None else "without a limit of the cost",
        padding=0,
    )
    return Group(
        Text(printable(head), "bold"),
        Text(printable(result["verdict"]), "green" if result["pays"] else "yellow"),
        modes,
        _costs(result),
        *(Text(printable(f"warning: {line}"), "yellow") for line in result["warnings"]),
    )


def _mode(row: dict[str, Any]) -> list[str]:
    stored = row["targets"] == "stored"
    return [
        f"{row['mode']}, {row['targets']}" if row["mode"] == "vanilla" else row["mode"],
        ("~" if row["rough"] else "") + _percent(row["kept"]),
        f"{row['cost'].point:.1f}",
        duration(row["seconds"].point),
        _percent(row["of_vanilla"]),
        duration(row["fill_seconds"]) if stored else "-",
        filesize.decimal(row["disk_bytes"]) if stored else "-",
    ]


def _range(value: Range, text: Callable[[float], str], to: str) -> str:
    point, low, high = map(text, value)
    return point if low == high else f"{point} ({low}{to}{high})"


def _percent(value: Range) -> str:
    return _range(value, lambda each: f"{100 * each:.0f}", "-")


def _costs(result: dict[str, Any]) -> Table:
    from frugalkd.experiments.estimate.model import students_text

    costs, teacher, paid = result["costs"], result["teacher"], result["break_even"]
    pilot, r, live = result["pilot"], result["r"], ""
    rows: dict[str, str] = {}
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
    return TextTable(
        *headings, rows=rows.items(), box=None, show_header=False, padding=(0, 2, 0, 0)
    )


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"
