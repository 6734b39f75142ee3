"""From what the command line says to a checked recipe, and a dry run's output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from frugalkd.files.parsing import printable
from frugalkd.recipes.load import (
    check_names,
    import_paths,
    load_recipe,
    override,
    refuse_imports,
)

if TYPE_CHECKING:
    from frugalkd.recipes.schema import Recipe


def resolve(
    name: str,
    settings: Sequence[str],
    seed: int | None,
    extra: Mapping[str, Any] | None = None,
    *,
    no_import: bool = False,
) -> Recipe:
    """The recipe with its overrides, ``seed`` and ``extra`` settings; all names checked.

    ``no_import``: refuse one that names import paths.
    """
    recipe = load_recipe(name, settings)
    more = dict(extra or {})
    if seed is not None:
        more["seed"] = seed
    if more:
        recipe = override(recipe, more)
    check_names(recipe)
    if no_import:
        refuse_imports(recipe)
    return recipe


def print_dry_run(recipe: Recipe, as_json: bool) -> None:
    """The resolved recipe as YAML that can be run again, or as JSON, and what it would import."""
    resolved, paths = recipe.model_dump(mode="json"), import_paths(recipe)
    if as_json:
        print(json.dumps({"recipe": resolved, "imports": paths}, indent=2))
        return
    print(printable(f"# would import: {', '.join(paths) or 'nothing of your own'}"))
    print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")
