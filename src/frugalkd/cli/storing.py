"""``store``."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DownloadOption,
    DryRunOption,
    JsonOption,
    NoImportOption,
    RecipeArgument,
    SetOption,
    TeacherOption,
)
from frugalkd.cli.resolving import fetch_data, print_dry_run, resolve
from frugalkd.cli.show import facts_table, print_command, print_line, stdout
from frugalkd.errors import RecipeError

if TYPE_CHECKING:
    from frugalkd.teachers.store import Header


def store(
    recipe: RecipeArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The store's folder: [cyan]--out runs/targets[/cyan]. One that is half filled is "
            "gone on with.",
            show_default=False,
        ),
    ],
    teacher: TeacherOption = None,
    shard: Annotated[
        str,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Fill the I-th of N parts, the first being 0; other processes fill the others: "
            "[cyan]--shard 0/2[/cyan]. Under torchrun they share the work without it.",
        ),
    ] = "0/1",
    features: Annotated[
        list[str],
        typer.Option(
            "--features",
            metavar="PATH",
            help="Also the features of the teacher's module at this path, or of those that a glob "
            "means, in float16, for objectives that read them; as often as you like: "
            "[cyan]--features 'layer3.*'[/cyan].",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Ask a teacher once, and keep its soft targets for all students to come.

    The recipe's student.targets say how many views and which encoding; its mode says who may take
    part: nothing is asked for the others. Disk use is announced before it is taken.

    [bold]Examples[/bold]

    frugalkd store digits --teacher runs/teacher --out runs/targets

    frugalkd store mine.yaml --set student.targets.views=8 --teacher runs/t --out runs/targets

    frugalkd store mine.yaml --features layer3 --teacher runs/t --out runs/targets
    """
    if features:
        kept = ["student.targets.kind=stored", f"student.targets.features={json.dumps(features)}"]
        settings = [*settings, *kept]
    made = resolve(recipe, settings, None, no_import=no_import, download=download)
    part = _part(shard)
    if dry_run:
        return print_dry_run(made, as_json)
    fetch_data(made, download)
    from frugalkd.experiments.runs.targets import store as run
    from frugalkd.teachers.store import size_text

    console = Console(file=sys.stderr, highlight=False)

    def announce(header: Header) -> None:
        there = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
        feature = header.about.get("feature")
        what = f"{out}" if feature is None else f"features of {feature} in {out}"
        said = (
            f"{what} will take {size_text(header.disk_bytes)}: {header.samples:,} samples x "
            f"{header.views} views x {header.row_bytes} bytes; "
            f"{size_text(shutil.disk_usage(there).free)} are free"
        )
        print_line(console, said)

    columns = (TextColumn("store"), BarColumn(bar_width=None),
               TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
               TimeRemainingColumn())  # fmt: skip
    quiet = not console.is_terminal
    with (
        resumable(out, runs=True),
        Progress(*columns, console=console, transient=True, disable=quiet) as bar,
    ):
        task = bar.add_task("store", total=1)
        done = run(
            made,
            out,
            teacher=teacher,
            shard=part,
            announce=announce,
            listener=lambda rows, of: bar.update(task, completed=rows, total=of),
        )
    if as_json:
        print(json.dumps(done, indent=2))
        return
    printer = stdout()
    facts = {
        "rows": f"{done['rows']:,} of {done['of']:,}",
        "asked for now": f"{done['asked']:,}",
        "seconds": f"{done['seconds']:.1f}",
        **({"features": ", ".join(done["features"])} if done["features"] else {}),
        "on the disk": size_text(done["bytes"]),
        "files": f"{out}/",
    }
    printer.print(facts_table(f"store {made.name}", facts))
    command = ["frugalkd", "distill", recipe]
    command += [] if teacher is None else ["--teacher", str(teacher)]
    for setting in settings:
        command += ["--set", setting]
    command += ["--set", f"student.targets.folder={out}", "--out", str(out.parent / "student")]
    print_command(printer, shlex.join(command))


def _part(shard: str) -> tuple[int, int]:
    """``(i, n)`` from ``i/n``."""
    index, _, shards = shard.partition("/")
    if not (index.isdecimal() and shards.isdecimal() and int(index) < int(shards)):
        raise RecipeError(f"--shard is {shard!r}: give I/N, such as 0/2 and 1/2")
    return int(index), int(shards)
