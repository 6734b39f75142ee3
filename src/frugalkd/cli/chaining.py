"""``chain``."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DownloadOption,
    DryRunOption,
    JsonOption,
    NoImportOption,
    SeedOption,
    SetOption,
    TeacherOption,
)
from frugalkd.cli.progress import EpochProgress
from frugalkd.cli.resolving import fetch_data, print_dry_run, resolve
from frugalkd.cli.show import Rows, percent, print_command, stdout

if TYPE_CHECKING:
    from frugalkd.experiments.runs.chain import Stage


def chain(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes in a chain: the student of each is the teacher of the next: "
            "[cyan]assistant.yaml student.yaml[/cyan].",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The folder to write, a run folder a stage: [cyan]--out runs/chain[/cyan]. What "
            "is done in there is not run again, and what was stopped goes on.",
            show_default=False,
        ),
    ],
    teacher: TeacherOption = None,
    settings: SetOption = [],  # noqa: B006
    seed: SeedOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Distil through teacher assistants: teacher, assistant, student in one go.

    The first recipe's teacher is trained (or is that of --teacher), then each
    recipe's student by the one before. --set holds for all recipes. Writes a
    run folder a stage, and chain.json with the sum of what they cost.

    [bold]Examples[/bold]

    frugalkd chain assistant.yaml student.yaml --out runs/chain

    frugalkd chain assistant.yaml student.yaml --teacher runs/t --out runs/chain
    """
    made = [
        resolve(name, settings, seed, no_import=no_import, download=download) for name in recipes
    ]
    from frugalkd.experiments.runs.chain import chain as run
    from frugalkd.experiments.runs.chain import stages_of

    stages = stages_of(made, taught=teacher is not None)
    if dry_run:
        if as_json:
            print(json.dumps([one.model_dump(mode="json") for one in made], indent=2))
            return
        for place, one in enumerate(made):
            if place:
                print("---")
            print_dry_run(one, as_json=False)
        return
    fetch_data(made[0], download)
    with resumable(out, runs=True) as stop, ExitStack() as bars:

        def begin(stage: Stage) -> EpochProgress:
            bars.close()  # that of the stage before
            title = f"{stage.name} of {len(stages)}: {stage.recipe.name}"
            return bars.enter_context(EpochProgress(title, stage.role.training.epochs))

        whole = run(made, out, teacher=teacher, begin=begin, stop=stop)
    if as_json:
        print(json.dumps(whole, indent=2))
        return
    console = stdout()
    console.print(_table(whole, out))
    print_command(console, shlex.join(["frugalkd", "report", str(out / stages[-1].name)]))


def _table(whole: dict[str, Any], out: Path) -> Rows:
    """A row a stage, and their sum."""
    table = Rows(title=f"chain in {out}/", box=SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    table.add_column("model", max_width=22, overflow="fold")
    for name in ("accuracy", "samples", "queries", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in whole["stages"]:
        measured = one["evaluation"]
        accuracy = percent(None if measured is None else measured["accuracy"], 2)
        table.add_row(one["stage"], one["model"], accuracy, *_costs(one["meters"]))
    table.add_row("all", "", "", *_costs(whole["meters"]))
    return table


def _costs(meters: dict[str, Any]) -> list[str]:
    return [
        f"{meters['samples_backpropagated']:,}",
        f"{meters['teacher_queries']:,}",
        f"{meters['wall_seconds']:.1f}",
    ]
