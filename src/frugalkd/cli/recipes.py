"""``recipes``, ``recipes show`` and ``schema``."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Literal

import typer

from frugalkd.cli import options
from frugalkd.cli.options import argument
from frugalkd.cli.show import TextTable, print_result
from frugalkd.experiments.recipes.load import SCHEMA, load_yaml, recipe_names, recipe_text

app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode="rich")


@app.callback()
def recipes(context: typer.Context, as_json: bool = options.JSON) -> None:
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
    table = TextTable("recipe", "what it does", rows=about.items(), box=None, pad_edge=False)
    print_result(as_json, about, table, following="frugalkd recipes show digits > mine.yaml")


@app.command()
def show(name: str = options.RECIPE) -> None:
    """Print a recipe's YAML, to start your own from.

    [bold]Example[/bold]
    frugalkd recipes show digits > mine.yaml
    """
    print(recipe_text(name), end="")


def schema(
    kind: Literal["recipe", "results", "comparison"] = argument(
        "KIND", "What to describe: `recipe` (the YAML), `results` of a run, or `comparison`."
    ),
) -> None:
    """Print the JSON schema of a recipe, of results.json or of comparison.json.

    Editors complete and check YAML with a recipe's.

    [bold]Example[/bold]
    frugalkd schema recipe > recipe.schema.json
    """
    module = "recipes" if kind == "recipe" else "runs"
    described = import_module(f"frugalkd.experiments.{module}.schema")
    found = getattr(described, kind.capitalize()).model_json_schema(by_alias=True)
    if kind == "recipe":
        found["properties"]["schema"] = {"const": SCHEMA, "description": "of the recipe's format"}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print(json.dumps({**draft, **found}, indent=2))
