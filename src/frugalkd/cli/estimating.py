"""``estimate``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from frugalkd.cli.options import (
    DownloadOption,
    DryRunOption,
    JsonOption,
    NoImportOption,
    RecipeArgument,
    SetOption,
)
from frugalkd.cli.resolving import fetch_data, print_dry_run, resolve
from frugalkd.cli.show import print_command, stdout


def estimate(
    recipe: RecipeArgument,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            metavar="DIR",
            help="The folder that 'frugalkd teach' made: [cyan]--teacher runs/teacher[/cyan]. "
            "Without it costs are those of an untrained teacher, and kept fractions are rougher.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=1.0,
            max=86_400.0,
            metavar="S",
            help="How long the pilot may take, about: [cyan]--seconds 60[/cyan].",
        ),
    ] = 20.0,
    settings: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Say, before any training, what selection will pay on this pair of models.

    A pilot of seconds times what would run, trains the student in miniature,
    and says what each mode would keep, take and need on the disk.

    [bold]Examples[/bold]

    frugalkd estimate fashion-mnist

    frugalkd estimate fashion-mnist --teacher runs/teacher --seconds 60
    """
    made = resolve(recipe, settings, None, no_import=no_import, download=download)
    if dry_run:
        return print_dry_run(made, as_json)
    fetch_data(made, download)
    from frugalkd.cli.estimate_table import estimate_view
    from frugalkd.experiments.estimate import estimate as run

    console = Console(file=sys.stderr, highlight=False)
    with console.status("pilot") as status:
        result = run(
            made,
            teacher=teacher,
            seconds=seconds,
            say=lambda line: status.update(f"pilot: {line}"),
        )
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    printer = stdout()
    printer.print(estimate_view(result))
    folder = str(teacher) if teacher is not None else "runs/teacher"
    command = ["frugalkd", "distill", recipe, "--teacher", folder, "--out", "runs/student"]
    if teacher is None and made.teacher.weights is None:
        command = ["frugalkd", "teach", recipe, "--out", folder]
    elif teacher is None:
        command = ["frugalkd", "distill", recipe, "--out", "runs/student"]
    for setting in settings:
        command += ["--set", setting]
    print_command(printer, shlex.join(command))
