"""``ledger show`` and ``ledger export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.options import JsonOption, LedgerArgument
from frugalkd.show import facts_table, stdout

app = typer.Typer(
    help="Look into a ledger: how much each sample mattered to the teacher.",
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
    as_json: JsonOption = False,
) -> None:
    """Show significance by class, its histogram, the most and least significant samples.

    [bold]Example[/bold]

    frugalkd ledger show runs/teacher --top 20
    """
    from frugalkd.ledger import Ledger
    from frugalkd.ledger_summary import summarise
    from frugalkd.show import ledger_view

    summary = summarise(Ledger.load(path), top)
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
    as_json: JsonOption = False,
) -> None:
    """Write a ledger as a table, one row a sample.

    [bold]Example[/bold]

    frugalkd ledger export runs/teacher --to ledger.csv
    """
    from frugalkd.ledger import Ledger
    from frugalkd.writing import make_folder, writing

    ledger = Ledger.load(path)
    make_folder(to.parent)
    with writing(to):
        ledger.export(to)
    if as_json:
        print(json.dumps({"ledger": str(path), "samples": len(ledger), "to": str(to)}, indent=2))
        return
    stdout().print(
        facts_table(f"ledger of {path}", {"samples": f"{len(ledger):,}", "written to": to})
    )
