"""``evaluate`` and ``predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.options import ImportOption, JsonOption, RunArgument
from frugalkd.show import evaluation_table, facts_table, stdout


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|FOLDER",
            help="Other data than those held out in the run: a data set's name (its test part), "
            "or a folder with one folder of pictures a class: [cyan]--data mnist[/cyan].",
            show_default=False,
        ),
    ] = None,
    imports: ImportOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Measure a run's model on held-out data: accuracy, worst class, calibration.

    [bold]Examples[/bold]

    frugalkd evaluate runs/student

    frugalkd evaluate runs/student --data my-images/ --json
    """
    from frugalkd.runs.use import evaluate_run

    measured, what = evaluate_run(run, data, imports)
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
            "an array of uint8 images: [cyan]--data my-images/[/cyan].",
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
    as_json: JsonOption = False,
) -> None:
    """Classify images with a run's model; one row an image goes to a CSV file.

    [bold]Example[/bold]

    frugalkd predict runs/student --data my-images/ --out classes.csv
    """
    from frugalkd.runs.use import predict_to_csv

    rows = predict_to_csv(run, data, out, probabilities, imports)
    if as_json:
        said = {"run": str(run), "data": data, "images": rows, "out": str(out)}
        print(json.dumps(said, indent=2))
        return
    stdout().print(facts_table(f"{run} on {data}", {"images": f"{rows:,}", "written to": out}))
