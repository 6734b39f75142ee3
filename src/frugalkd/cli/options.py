"""Options that several commands share, and the recipe that they resolve to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
import yaml

from frugalkd.errors import RankError
from frugalkd.experiments.recipes.load import (
    check_names,
    fetched_names,
    import_paths,
    load_recipe,
    override,
    recipe_names,
    refuse_imports,
)
from frugalkd.files.parsing import printable
from frugalkd.runtime.process import rank_and_world

if TYPE_CHECKING:
    from frugalkd.experiments.recipes.schema import Recipe


def option(names: str, help: str, default: Any = None, **settings: Any) -> Any:
    """An option, from its flag and metavar, such as ``--out DIR``; one without a metavar is off by
    default. `code` in ``help`` is cyan."""
    flag, _, metavar = names.partition(" ")
    default = default if metavar else False
    return typer.Option(default, flag, metavar=metavar or None, help=_cyan(help), **settings)


def argument(metavar: str, help: str, **settings: Any) -> Any:
    """An argument; `code` in ``help`` is cyan."""
    return typer.Argument(..., metavar=metavar, help=_cyan(help), show_default=False, **settings)


def _cyan(help: str) -> str:
    return re.sub("`(.*?)`", r"[cyan]\1[/cyan]", help)


RECIPE = argument(
    "RECIPE",
    "A shipped recipe ('frugalkd recipes' lists them) or a YAML file: `digits`, `mine.yaml`.",
    autocompletion=recipe_names,
)
RUN = argument(
    "DIR", "A run folder of 'teach' or 'distill', or USER/NAME on the hub: `runs/student`."
)
RESULTS = argument("DIR", "The folder of a comparison or of a run, or a comparison.json: `runs/c`.")
LEDGER = argument("PATH", "A ledger file, or the run folder that holds it: `runs/teacher`.")
OUT = option(
    "--out DIR", "The folder to write; finished work in it is not repeated: `--out runs/a`.", ...
)
SET = option(
    "--set KEY=VALUE",
    "Override a field of the recipe with YAML; repeatable: `--set student.training.epochs=5`.",
    [],
)
COST = option(
    "--cost C",
    "What the training may cost, screening included, as a fraction of training on all samples: "
    "`--cost 0.5`.",
)
SEED = option("--seed N", "Another seed than the recipe's: `--seed 3`.")
RESUME = option("--resume", "Continue from the newest checkpoint in --out, bit for bit.")
JSON = option("--json", "Print JSON instead of tables, for scripts: `--json | jq .`")
DRY_RUN = option(
    "--dry-run",
    "Only check and print the resolved recipe, and what it would import and download; import none "
    "of your code: `--dry-run > mine.yaml`.",
)
NO_IMPORT = option(
    "--no-import",
    "Refuse a recipe that names code to import, or without --download something to download.",
)
IMPORT = option(
    "--import MODULE:NAME",
    "An import path that the run folder may name; repeatable, and nothing else is imported: "
    "`--import mine:Net`.",
    [],
)
DOWNLOAD = option(
    "--download",
    "Let torchvision download mnist and fashion-mnist where their files are missing, and what "
    "a run folder, or a recipe under --no-import, names on the Hugging Face hub, or DIR itself.",
)
TOKENIZER = option(
    "--tokenizer FOLDER|NAME",
    "Of a model of texts, instead of the one that the run folder names; a folder is read only if "
    "it is named here.",
)
DATA = option(
    "--data",
    "Show the samples (names, texts or pictures), and so read the data that the folder names.",
)
TEACHER = option(
    "--teacher DIR",
    "A folder of 'frugalkd teach', instead of the recipe's teacher.weights: `--teacher runs/t`.",
)


def split(names: str) -> list[str]:
    """``"a, b"`` as names."""
    return [name.strip() for name in names.split(",") if name.strip()]


def resolve(
    name: str,
    settings: Sequence[str],
    seed: int | None,
    extra: Mapping[str, Any] | None = None,
    *,
    cost: float | None = None,
    no_import: bool = False,
    download: bool = False,
) -> Recipe:
    """The recipe with its overrides, ``seed``, the student's ``cost`` and ``extra`` settings; all
    names checked. With ``no_import``, import paths are refused, and without ``download`` what would
    be downloaded."""
    recipe = load_recipe(name, settings)
    given = {"seed": seed, "student.cost": cost}
    more = {**(extra or {}), **{key: value for key, value in given.items() if value is not None}}
    if more:
        recipe = override(recipe, more)
    check_names(recipe)
    if no_import:
        refuse_imports(recipe, download=download)
    return recipe


def start(*recipes: Recipe, dry_run: bool, as_json: bool, download: bool) -> None:
    """With ``dry_run``, print the resolved recipes and end the command; with ``download``, download
    the first one's data where their files are missing. Raises RankError, DataError."""
    from frugalkd.data import FETCHED, fetch

    if dry_run:
        _print_dry_run(recipes, as_json)
        raise typer.Exit()
    data = recipes[0].data
    if not download or data.name not in FETCHED:
        return
    if rank_and_world()[1] > 1:
        raise RankError(
            "--download is for one process: fetch the data with a command without torchrun, then "
            "leave it out"
        )
    fetch(data.name, data.root)


def _print_dry_run(recipes: Sequence[Recipe], as_json: bool) -> None:
    """As YAML that can be run again, or as JSON, with what each would import and download."""
    from frugalkd.runtime.devices import check_threads

    resolved = []
    for recipe in recipes:
        check_threads(recipe.threads)
        paths, names = import_paths(recipe), fetched_names(recipe)
        content = recipe.model_dump(mode="json")
        resolved.append({"recipe": content, "imports": paths, "fetches": names})
    if as_json:
        print(json.dumps(resolved if len(resolved) > 1 else resolved[0], indent=2))
        return
    for place, one in enumerate(resolved):
        print("---\n" * bool(place), end="")
        print(printable(f"# would import: {', '.join(one['imports']) or 'nothing of your own'}"))
        print(printable(f"# would fetch: {', '.join(one['fetches']) or 'nothing'}"))
        print(yaml.safe_dump(one["recipe"], sort_keys=False, allow_unicode=True), end="")
