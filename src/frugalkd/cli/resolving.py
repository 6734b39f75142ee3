"""From what the command line says to a checked recipe, and a dry run's output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from frugalkd.errors import RankError
from frugalkd.experiments.recipes.load import (
    check_names,
    fetched_names,
    import_paths,
    load_recipe,
    override,
    refuse_imports,
)
from frugalkd.files.parsing import printable
from frugalkd.runtime.process import rank_and_world

if TYPE_CHECKING:
    from frugalkd.experiments.recipes.schema import Recipe


def resolve(
    name: str,
    settings: Sequence[str],
    seed: int | None,
    extra: Mapping[str, Any] | None = None,
    *,
    no_import: bool = False,
    download: bool = False,
) -> Recipe:
    """The recipe with its overrides, ``seed`` and ``extra`` settings; all names checked.

    ``no_import``: refuse one that names import paths, or without ``download`` what would be
    fetched.
    """
    recipe = load_recipe(name, settings)
    more = dict(extra or {})
    if seed is not None:
        more["seed"] = seed
    if more:
        recipe = override(recipe, more)
    check_names(recipe)
    if no_import:
        refuse_imports(recipe, download=download)
    return recipe


def fetch_data(recipe: Recipe, download: bool) -> None:
    """With ``download``, fetch the recipe's data where their files are missing.

    Raises:
        RankError: this is one of several processes.
        DataError: they cannot be fetched.
    """
    from frugalkd.data import FETCHED, fetch

    if not download or recipe.data.name not in FETCHED:
        return
    if rank_and_world()[1] > 1:
        raise RankError(
            "--download is for one process: fetch the data with a command without torchrun, then "
            "leave it out"
        )
    fetch(recipe.data.name, recipe.data.root)


def print_dry_run(recipe: Recipe, as_json: bool) -> None:
    """The resolved recipe as YAML that can be run again, or as JSON, and what it would import and
    fetch."""
    from frugalkd.runtime.devices import check_threads

    check_threads(recipe.threads)
    resolved, paths = recipe.model_dump(mode="json"), import_paths(recipe)
    names = fetched_names(recipe)
    if as_json:
        print(json.dumps({"recipe": resolved, "imports": paths, "fetches": names}, indent=2))
        return
    print(printable(f"# would import: {', '.join(paths) or 'nothing of your own'}"))
    print(printable(f"# would fetch: {', '.join(names) or 'nothing'}"))
    print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")
