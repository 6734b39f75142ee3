"""``ledger show`` and ``ledger export``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DownloadOption,
    ImportOption,
    JsonOption,
    LedgerArgument,
    NamesOption,
    NoImportOption,
    RecipeArgument,
    SeedOption,
    SetOption,
    TeacherOption,
)
from frugalkd.cli.progress import EpochProgress
from frugalkd.cli.resolving import fetch_data, resolve
from frugalkd.cli.show import facts_table, percent, print_command, stdout
from frugalkd.errors import LedgerError
from frugalkd.runtime.imports import Allowed

app = typer.Typer(
    help="Outcome into a ledger: how much each sample mattered to the teacher.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def show(
    path: LedgerArgument,
    top: Annotated[
        int,
        typer.Option(
            "--top",
            min=1,
            metavar="N",
            help="How many of the most and the least significant samples: [cyan]--top 20[/cyan].",
        ),
    ] = 8,
    data: NamesOption = False,
    imports: ImportOption = [],  # noqa: B006
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show significance by class, its histogram, the most and least significant samples.

    [bold]Examples[/bold]

    frugalkd ledger show runs/teacher --top 20

    frugalkd ledger show runs/teacher --data
    """
    from frugalkd.cli.show import ledger_view
    from frugalkd.ledger.ledger import Ledger
    from frugalkd.ledger.summary import summarise

    ledger = Ledger.load(path)
    summary = summarise(ledger, top)
    if data:
        from frugalkd.experiments.runs.ledgers import names_of_run

        both = [*summary["most"], *summary["least"]]
        ids = [sample["id"] for sample in both]
        names = names_of_run(path, ledger, Allowed(imports, True, download), ids)
        for sample, name in zip(both, names, strict=True):
            sample["sample"] = name
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    stdout().print(ledger_view(summary))


@app.command()
def export(
    path: LedgerArgument,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Where to: [cyan]--to ledger.csv[/cyan], or .parquet with the extra 'parquet'.",
            show_default=False,
        ),
    ],
    data: NamesOption = False,
    imports: ImportOption = [],  # noqa: B006
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a ledger as a table, one row a sample.

    [bold]Examples[/bold]

    frugalkd ledger export runs/teacher --to ledger.csv

    frugalkd ledger export runs/teacher --to ledger.csv --data
    """
    from frugalkd.files.opening import named_file
    from frugalkd.files.writing import make_folder
    from frugalkd.ledger.ledger import Ledger

    ledger, to = Ledger.load(path), named_file(to)
    names = None
    if data:
        from frugalkd.experiments.runs.ledgers import names_of_run

        names = names_of_run(path, ledger, Allowed(imports, True, download))
    make_folder(to.parent)
    ledger.export(to, names=names)
    if as_json:
        print(json.dumps({"ledger": str(path), "samples": len(ledger), "to": str(to)}, indent=2))
        return
    stdout().print(
        facts_table(f"ledger of {path}", {"samples": f"{len(ledger):,}", "written to": to})
    )


@app.command()
def make(
    recipe: RecipeArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where the ledger goes: [cyan]--out runs/ledger[/cyan].",
            show_default=False,
        ),
    ],
    teacher: TeacherOption = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="What the teacher's training wrote down, in place of the teacher: a .csv, .jsonl "
            "or .parquet with epoch, id, confidence, correct: [cyan]--log run.csv[/cyan].",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            metavar="N",
            help="Epochs of the head's training: [cyan]--epochs 40[/cyan].",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = [],  # noqa: B006
    seed: SeedOption = None,
    as_json: JsonOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Measure significance for a teacher that you already have.

    Only a new head is trained, self-regulated, on the teacher's features, which are asked for
    once; the teacher stays as it is. Or the ledger comes from a log of its training.

    [bold]Examples[/bold]

    frugalkd ledger make digits --teacher runs/teacher --out runs/ledger

    frugalkd ledger make digits --log confidences.csv --out runs/ledger
    """
    if log is not None and (teacher is not None or epochs is not None):
        raise LedgerError("--log takes the teacher's place: leave out --teacher and --epochs")
    made = resolve(recipe, settings, seed, no_import=no_import, download=download)
    fetch_data(made, download)
    from frugalkd.experiments.runs.ledgers import HEAD, make_ledger

    of = HEAD.epochs if epochs is None else epochs
    with (
        resumable(out, runs=True) as stop,
        EpochProgress(f"ledger of {made.name}", of) as progress,
    ):
        said = make_ledger(
            made, out, teacher=teacher, log=log, epochs=epochs, listener=progress, stop=stop
        )
    if as_json:
        print(json.dumps(said, indent=2))
        return
    console = stdout()
    facts = {
        "made from": {"head": "the teacher's features, a new head", "log": str(log)}[said["made"]],
        "samples": f"{said['samples']:,}",
        "took part": f"{said['took_part']:,} = {percent(said['took_part'] / said['samples'])}",
        "mean significance": f"{said['mean_significance']:.3f} over {said['epochs']:g} epochs",
        "seconds": f"{said['seconds']:.1f}",
        "files": f"{out}/",
    }
    console.print(facts_table(f"ledger of {made.name}", facts))
    command = ["frugalkd", "distill", recipe, "--mode", "hybrid", "--ledger", str(out)]
    command += [] if teacher is None else ["--teacher", str(teacher)]
    for setting in settings:
        command += ["--set", setting]
    print_command(console, shlex.join([*command, "--out", str(out.parent / "student")]))
