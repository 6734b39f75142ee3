"""``evaluate`` and ``predict``."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.options import (
    DownloadOption,
    ImportOption,
    JsonOption,
    RunArgument,
    TokenizerOption,
)
from frugalkd.cli.show import evaluation_table, facts_table, stdout
from frugalkd.files.parsing import printable
from frugalkd.runtime.imports import Allowed

OWN = "own"
"""In the place of a data set's name: the data that the run's folder names."""


def with_own_data(arguments: list[str]) -> list[str]:
    """The arguments of a command line, where ``evaluate --data`` may stand without its value."""
    if arguments[:1] != ["evaluate"]:
        return arguments
    said = []
    for argument, following in pairwise([*arguments, "--"]):
        said.append(argument)
        if argument == "--data" and following.startswith("-"):
            said.append(OWN)
    return said


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="[own|NAME|FOLDER]",
            help="What to measure on: own, or no value, those held out of the data that the run's "
            "folder names; a data set's name (its test part); or a folder with one folder of "
            "pictures a class: [cyan]--data mnist[/cyan].",
            show_default=False,
        ),
    ] = None,
    imports: ImportOption = [],  # noqa: B006
    download: DownloadOption = False,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a run's model on held-out data: accuracy, worst class, calibration.

    [bold]Examples[/bold]

    frugalkd evaluate runs/student --data own

    frugalkd evaluate runs/student --data my-images/ --json
    """
    from frugalkd.experiments.runs.use import evaluate_run

    allowed = Allowed(imports, data == OWN, download, tokenizer)
    measured, what = evaluate_run(run, None if data == OWN else data, allowed)
    if as_json:
        print(json.dumps({"run": str(run), "data": what, **measured}, indent=2))
        return
    stdout().print(evaluation_table(measured, f"{run} on {what}"))


def predict(
    run: RunArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME|FOLDER|FILE.npy",
            help="What to classify: a data set's name (its test part), a folder of pictures, or "
            "an array of uint8 images; for a model of texts a .txt or .parquet file: "
            "[cyan]--data my-images/[/cyan].",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.csv",
            help="The table to write: [cyan]--out classes.csv[/cyan].",
            show_default=False,
        ),
    ],
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Add a column a class: [cyan]--probabilities[/cyan].",
        ),
    ] = False,
    imports: ImportOption = [],  # noqa: B006
    download: DownloadOption = False,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images, or texts, with a run's model; one row for each goes to a CSV file.

    A picture that cannot be read has a row that says why, and the exit code is 1.

    [bold]Example[/bold]

    frugalkd predict runs/student --data my-images/ --out classes.csv
    """
    from frugalkd.experiments.runs.use import predict_to_csv

    allowed = Allowed(imports, download=download, tokenizer=tokenizer)
    found = predict_to_csv(run, data, out, probabilities, allowed)
    rows, failed = len(found.names), len(found.failed)
    if as_json:
        said = {"run": str(run), "data": data, found.what: rows, "failed": failed, "out": str(out)}
        print(json.dumps(said, indent=2))
    else:
        facts = {found.what: f"{rows:,}", "of these unreadable": failed or None, "written to": out}
        stdout().print(facts_table(f"{run} on {data}", facts))
    if failed:
        why = found.describe_failed()
        said = f"warning: {failed} of {rows} files are no readable pictures, without a class: {why}"
        print(printable(said), file=sys.stderr)
        raise typer.Exit(1)
