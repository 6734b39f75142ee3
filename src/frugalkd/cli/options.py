"""Options that several commands share, each explained once, with an example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frugalkd.experiments.recipes.load import recipe_names

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A shipped recipe's name ('frugalkd recipes' lists them) or a YAML file: "
        "[cyan]digits[/cyan], [cyan]mine.yaml[/cyan].",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
ResultsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="The folder of a comparison or of a run, or a comparison.json of any name: "
        "[cyan]runs/comparison[/cyan].",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The run folder to write: [cyan]--out runs/first[/cyan]. A run that is done in there "
        "is not run again.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the recipe, as often as you like; the value is YAML: "
        "[cyan]--set student.training.epochs=5[/cyan].",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="Another seed than the recipe's: [cyan]--seed 3[/cyan].",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the newest checkpoint in --out, bit for bit: "
        "[cyan]frugalkd teach digits --out runs/t --resume[/cyan].",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON in place of tables, for scripts: [cyan]--json | jq .[/cyan]",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check and print the resolved recipe, what it would import and what it would fetch; "
        "run and fetch nothing, import nothing of yours: [cyan]--dry-run > mine.yaml[/cyan].",
    ),
]
NoImportOption = Annotated[
    bool,
    typer.Option(
        "--no-import",
        help="Refuse a recipe that names code to import, or without --download something to fetch "
        "from a network, and list it: "
        "[cyan]frugalkd teach downloaded.yaml --no-import --out runs/t[/cyan].",
    ),
]
ImportOption = Annotated[
    list[str],
    typer.Option(
        "--import",
        metavar="MODULE:NAME",
        help="An import path that the run folder may name, as often as you like; nothing else is "
        "imported: [cyan]--import mine:Net[/cyan].",
        show_default=False,
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Let torchvision fetch mnist and fashion-mnist where their files are missing, and "
        "what a run folder, or a recipe under --no-import, names on the Hugging Face hub: "
        "[cyan]--download[/cyan].",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="FOLDER|NAME",
        help="For a model of texts: the tokenizer, in place of the one that the run folder names; "
        "a folder is read only where it is named here: [cyan]--tokenizer my-tokenizer/[/cyan].",
        show_default=False,
    ),
]
NamesOption = Annotated[
    bool,
    typer.Option(
        "--data",
        help="Name the samples, by their files or as their texts begin; this reads the data that "
        "the run's folder names: [cyan]--data[/cyan].",
    ),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        metavar="DIR",
        help="The folder that 'frugalkd teach' made: [cyan]--teacher runs/teacher[/cyan]. "
        "Without it the recipe's teacher.weights are used.",
        show_default=False,
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A run folder that 'teach' or 'distill' made: [cyan]runs/student[/cyan].",
        show_default=False,
    ),
]
LedgerArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A ledger file, or the run folder that holds it: [cyan]runs/teacher[/cyan].",
        show_default=False,
    ),
]
