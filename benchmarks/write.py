"""Write the tables of BENCHMARKS.md from the result files beside this script.

    python -m benchmarks.write            # rewrite the tables between the markers
    python -m benchmarks.write --check    # fail if a table is out of date

A table is placed between ``<!-- NAME -->`` and ``<!-- /NAME -->``. Its numbers come only from
``benchmarks/results/*.json``. Each file is the ``comparison.json`` of a command that BENCHMARKS.md
lists, with these exceptions: ``time-CASE.json`` is the ``CASE.json`` of ``make bench CASES=CASE``,
and ``torture.json``, ``soak.json`` and ``fuzz.json`` are those of ``make torture``, ``soak`` and
``fuzz``, which write below ``runs/``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.comparisons import (
    arms_table,
    budgets_table,
    claims_table,
    errors_table,
    factorial_table,
    made_ledgers_table,
    objectives_table,
    reference_table,
)
from benchmarks.cost_ratio import cost_table, variants_table
from benchmarks.language.gains import table as gains_table
from benchmarks.language.rivals import table as rivals_table
from benchmarks.language.seconds import table as seconds_table
from benchmarks.noise.table import table as noise_table
from benchmarks.outputs.embeddings_time import table as embeddings_time_table
from benchmarks.outputs.thresholds import table as thresholds_table
from benchmarks.timing import CASES, Measurement, find_case
from benchmarks.timing.table import bound, figure, seconds
from frugalkd.experiments.comparison.statistics import MARGIN, Claim, claims_together

HERE = Path(__file__).parent
PAGE = HERE.parent / "BENCHMARKS.md"

CLAIMS: list[Claim] = [
    Claim("regulated", "vanilla", "no worse"),
    Claim("regulated-now", "vanilla", "no worse"),
    Claim("regulated-loose", "vanilla", "no worse"),
    Claim("regulated", "random:regulated", "better"),
    Claim("regulated", "short:regulated", "better"),
    Claim("regulated-now", "random:regulated-now", "better"),
    Claim("regulated-now", "short:regulated-now", "better"),
]
"""Declared before the final runs."""

WITH_CLAIMS = {
    "evidence-claims": "evidence-fashion-mnist",
    "banking77-claims": "banking77",
    "fair-claims": "fair-fashion-mnist",
    "fair-claims-banking77": "fair-banking77",
    "hard-claims": "hard-fashion-mnist",
    "hard-claims-banking77": "hard-banking77",
    "fine-tuning-claims": "hard-fine-tuning",
    "language-claims": "language-students",
}
"""The tables of the claims that a comparison's file declares."""


def read(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def time_tables(content: dict[str, Any]) -> str:
    """The tables of a case of ``benchmarks.timing``: arms, ratios of times, figures."""
    if content["quick"]:
        sys.exit(f"time-{content['case']}.json is from a quick run, not a result")
    tables = []
    if arms := [arm for arm in content["arms"] if arm["seconds"]]:
        tables.append(timed_arms_table(arms, content["per_rows"]))
    if ratios := [ratio for ratio in content["ratios"] if ratio["value"]]:
        tables.append(bounds_table("ratio of times", [(row["ratio"], row) for row in ratios]))
    if content["figures"]:
        tables.append(figures_table(content))
    tables.append(circumstances(content))
    return "\n\n".join(tables)


def timed_arms_table(arms: list[dict[str, Any]], per_rows: bool) -> str:
    if per_rows:
        return options_table(arms)
    lines = [
        "| arm | runs | seconds | min – max | accuracy % | samples % | run |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for arm in arms:
        cells = [
            f"`{arm['arm']}`",
            str(arm["seconds"]["n"]),
            seconds(arm["seconds"]["median"]),
            f"{seconds(arm['seconds']['min'])} – {seconds(arm['seconds']['max'])}",
            accuracy_range(arm["accuracy"]),
            f"{100 * arm['budget']['median']:.1f}",
            part_run(arm["runs"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options_table(arms: list[dict[str, Any]]) -> str:
    """Seconds for the same rows; the first run includes loading and compilation."""
    lines = [
        "| arm | runs | s / 1000 rows | min – max | first run, s | later runs, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in arms:
        each = arm["seconds_per_1000"]
        cells = [
            f"`{arm['arm']}`",
            str(each["n"]),
            seconds(each["median"]),
            f"{seconds(each['min'])} – {seconds(each['max'])}",
            seconds(arm["first_seconds"]),
            seconds(arm["seconds"]["median"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy_range(value: dict[str, Any] | None) -> str:
    """The median accuracy in percent and, for several runs, the range."""
    if value is None:
        return ""
    median, low, high = (f"{100 * value[key]:.2f}" for key in ("median", "min", "max"))
    return median if value["n"] == 1 else f"{median} ({low} – {high})"


def part_run(runs: list[dict[str, Any]]) -> str:
    """Whether complete trainings were run, or some of the epochs with scaled seconds."""
    parts = sorted({run["part"] for run in runs if run["part"] is not None})
    if not parts:
        return "complete"
    some = any(run["part"] is None for run in runs)
    scaled = " and ".join(map(str, parts))
    return f"{'some ' if some else ''}{scaled} of {runs[0]['epochs']:g} epochs, scaled"


def figures_table(content: dict[str, Any]) -> str:
    """The figures of a case without arms, with the descriptions of the current code."""
    case = find_case(content["case"], CASES)
    assert isinstance(case, Measurement)
    about = {figure.name: figure.about for figure in case.figures}
    return bounds_table("figure", [(about[row["figure"]], row) for row in content["figures"]])


def bounds_table(title: str, rows: list[tuple[str, dict[str, Any]]]) -> str:
    lines = [
        f"| {title} | median | min – max | n | must | aim |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows:
        value = row["value"]
        cells = [
            f"`{name}`" if title.startswith("ratio") else name,
            figure(value["median"]),
            f"{figure(value['min'])} – {figure(value['max'])}",
            str(value["n"]),
            bound(row, "must"),
            bound(row, "aim"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def circumstances(content: dict[str, Any]) -> str:
    """The conditions of the timing in one line, and the failed runs."""
    machines = content["machines"]
    cpus = sorted({machine["cpu"] for machine in machines})
    torches = sorted({machine["versions"]["torch"] for machine in machines})
    commits = sorted({machine["commit"] or "unknown" for machine in machines})
    threads = content["threads"]
    said = f"{threads} thread{'s' * (threads > 1)}, {', '.join(cpus)}, torch {', '.join(torches)}"
    if any(arm["runner"] == "torchdistill" for arm in content["arms"]):
        theirs = sorted({str(machine["versions"]["torchdistill"]) for machine in machines})
        said += f", torchdistill {', '.join(theirs)}"
    failed = ", ".join(each["run"] for each in content["failed"]) or "none"
    return f"{said}, commit {', '.join(commits)}. Failed runs: {failed}."


def torture_table(content: dict[str, Any]) -> str:
    """Killed runs by kind of run; ``restarted``: kills that left no checkpoint to resume from."""
    lines = ["| | runs | kills | resumed | restarted | equal |", "|---|---:|---:|---:|---:|---:|"]
    names = list(content["seconds"])
    for name in [*names, "all"]:
        own = [trial for trial in content["trials"] if name in ("all", trial["work"])]
        kept = [what for trial in own for what in trial["kept"]]
        restarted = kept.count("nothing")
        equal = sum(trial["equal"] for trial in own)
        cells = [name, len(own), len(kept), len(kept) - restarted, restarted, equal]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", f"torch {content['versions']['torch']}, seed {content['seed']}."])


def soak_line(content: dict[str, Any]) -> str:
    """The resources of one process after its first round of runs, and after its last run."""
    held = content["held"]
    first, last = held[content["warm_up"]], held[-1]
    megabytes = [f"{one['memory'] / 2**20:.0f}" for one in (first, last)]
    leaks = "; ".join(content["leaks"]) or "none"
    return (
        f"{content['runs']} runs in one process: {megabytes[0]} MiB after run "
        f"{content['warm_up'] + 1} and {megabytes[1]} MiB after the last "
        f"({content['bytes_a_run']:.0f} bytes per run), "
        f"{last['threads']} threads and {last['open_files']} open files at the end. Leaks: {leaks}."
    )


def fuzz_table(content: dict[str, Any]) -> str:
    """Malformed files by kind. A file that is not refused must be read correctly."""
    lines = [
        "| | files | refused | read | failed | MiB beyond twice the file, at most |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, tally in content["kinds"].items():
        counts = [tally["cases"], tally["refused"], tally["read"], len(tally["failures"])]
        memory = f"{max(tally['worst'], 0) / 2**20:.1f}"
        cells = [name, *(f"{count:,}" for count in counts), memory]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return "\n".join([*lines, "", f"{versions}, seed {content['seed']}."])


@cache
def claims_of_page() -> dict[str, list[dict[str, Any]]]:
    """The claims of each table, corrected by Holm over those of all tables."""
    declared = [(read("fashion-mnist-claims"), CLAIMS)]
    for content in map(read, WITH_CLAIMS.values()):
        own = [
            Claim(c["arm"], c["against"], c["claim"], c.get("margin") or MARGIN)
            for c in content["claims"]
        ]
        declared.append((content, own))
    tested = iter(claims_together(declared))
    names = ("claims", *WITH_CLAIMS)
    return {
        name: [next(tested) for _ in own] for name, (_, own) in zip(names, declared, strict=True)
    }


BY_FILE = {
    arms_table: (
        "fashion-mnist-teacher", "fashion-mnist-claims", "fashion-mnist-modes",
        "fashion-mnist-controls", "fashion-mnist-case-a", "cifar10-precision", "fair-fashion-mnist",
        "fair-cifar10", "fair-banking77", "fair-rivals-cifar10", "fair-rivals-banking77",
        "efficientnet-cifar10", "hard-fashion-mnist-long", "hard-cifar10-long",
        "hard-fashion-mnist-which", "hard-cifar10-complete", "hard-cifar10-mixup",
        "hard-efficientnet", "hard-cifar10-60",
        "outputs-packages",
    ),
    budgets_table: (
        "evidence-fashion-mnist", "evidence-validation", "evidence-rivals", "infobatch-digits",
        "evidence-cifar10", "banking77", "banking77-validation", "fair-tune-fashion-mnist",
        "fair-tune-cifar10", "fair-tune-banking77",
    ),
    factorial_table: ("fair-factorial-fashion-mnist", "fair-factorial-cifar10"),
    reference_table: ("fashion-mnist-reference",),
    objectives_table: ("objectives",),
    errors_table: (
        "language-students", "language-draws", "language-parts", "language-once", "language-fixed",
        "language-cut", "language-smollm2", "outputs-trec6-table", "outputs-trec6-encoder",
        "outputs-banking77-encoder", "outputs-banking77-table", "outputs-diamonds",
    ),
    thresholds_table: ("outputs-thresholds",),
    embeddings_time_table: ("embeddings-time",),
    gains_table: ("language-gains",),
    rivals_table: ("language-rivals",),
    seconds_table: ("language-seconds", "language-seconds-50k"),
    fuzz_table: ("fuzz",),
    torture_table: ("torture",),
    soak_line: ("soak",),
}  # fmt: skip
"""The tables that have the name of their result file."""

TABLES = {
    **{
        name: lambda name=name, make=make: make(read(name))
        for make, names in BY_FILE.items()
        for name in names
    },
    **{
        name: lambda name=name: claims_table(claims_of_page()[name])
        for name in ("claims", *WITH_CLAIMS)
    },
    "hard-cost": lambda: cost_table(
        {
            "Fashion-MNIST": read("hard-fashion-mnist"),
            "CIFAR-10": read("hard-cifar10"),
            "Banking77": read("hard-banking77"),
            "MiniLM": read("hard-fine-tuning"),
        },
        ["cost"],
    ),
    "fine-tuning": lambda: cost_table({"MiniLM": read("hard-fine-tuning")}, ["cost"]),
    "hard-variants": lambda: variants_table(
        {
            "Fashion-MNIST": read("hard-variants-fashion-mnist"),
            "Banking77": read("hard-variants-banking77"),
        }
    ),
    "hard-horizon": lambda: variants_table({"Fashion-MNIST": read("hard-horizon-fashion-mnist")}),
    "ledger-make": lambda: made_ledgers_table(
        {
            "digits": read("ledger-make-digits"),
            "Fashion-MNIST": read("ledger-make-fashion-mnist"),
            "Fashion-MNIST, the head at a fixed rate of 0.003": read(
                "ledger-make-fashion-mnist-fast"
            ),
        }
    ),
}
"""Every table needs its markers on the page."""


def timed() -> dict[str, Callable[[], str]]:
    """The tables of timed cases and of noisy data that have a result file."""
    makers = {"time": time_tables, "noise": noise_table}
    return {
        file.stem: lambda name=file.stem, make=make: make(read(name))
        for kind, make in makers.items()
        for file in sorted((HERE / "results").glob(f"{kind}-*.json"))
    }


def filled(page: str) -> str:
    """``page`` with every marked table replaced."""
    for name, table in {**TABLES, **timed()}.items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(page):
            sys.exit(f"{PAGE.name} has no markers for the table {name!r}")
        text = table()
        page = marked.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def main() -> None:
    before = PAGE.read_text()
    after = filled(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            sys.exit(f"{PAGE.name} differs from benchmarks/results: run python -m benchmarks.write")
    else:
        PAGE.write_text(after)


if __name__ == "__main__":
    main()
