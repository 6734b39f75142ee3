"""``recipes``, ``recipes show`` and ``schema``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from frugalkd.cli.options import JsonOption
from frugalkd.cli.show import Rows, print_command, stdout
from frugalkd.errors import UnknownName
from frugalkd.experiments.recipes.load import SCHEMA, recipe_names, recipe_text
from frugalkd.experiments.recipes.text import load_yaml

app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode="rich",
)
SCHEMAS = ("comparison", "recipe", "results")


@app.callback()
def recipes(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the recipes that come with frugalkd, or print one to start from.

    [bold]Examples[/bold]

    frugalkd recipes

    frugalkd recipes show digits > mine.yaml
    """
    if context.invoked_subcommand is not None:
        return
    about = {
        name: str(load_yaml(recipe_text(name), name).get("summary", "")) for name in recipe_names()
    }
    if as_json:
        print(json.dumps(about, indent=2))
        return
    table = Rows("recipe", "what it does", box=None, pad_edge=False)
    for name, summary in about.items():
        table.add_row(name, summary)
    console = stdout()
    console.print(table)
    print_command(console, "frugalkd recipes show digits > mine.yaml")


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="One that 'frugalkd recipes' lists: [cyan]digits[/cyan].",
            autocompletion=recipe_names,
            show_default=False,
        ),
    ],
) -> None:
    """Print a recipe's YAML, to start your own from.

    [bold]Example[/bold]

    frugalkd recipes show digits > mine.yaml
    """
    print(recipe_text(name), end="")


def schema(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="recipe|results|comparison",
            help="What to describe: [cyan]recipe[/cyan] (the YAML), [cyan]results[/cyan] "
            "(results.json of a run) or [cyan]comparison[/cyan] (comparison.json).",
            autocompletion=lambda: list(SCHEMAS),
            show_default=False,
        ),
    ],
) -> None:
    """Print the JSON schema of a recipe, of results.json or of comparison.json.

    Editors complete and check YAML with a recipe's.

    [bold]Example[/bold]

    frugalkd schema recipe > recipe.schema.json
    """
    if kind not in SCHEMAS:
        raise UnknownName("schema", kind, SCHEMAS)
    if kind == "recipe":
        from frugalkd.experiments.recipes.schema import Recipe as described
    elif kind == "results":
        from frugalkd.experiments.runs.schema import Results as described
    else:
        from frugalkd.experiments.runs.schema import Comparison as described
    found = described.model_json_schema(by_alias=True)
    if kind == "recipe":
        found["properties"]["schema"] = {"const": SCHEMA, "description": "of the recipe's format"}
    print(
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=2)
    )
