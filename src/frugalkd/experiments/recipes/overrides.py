"""Overrides: ``section.key=value`` as text, and dotted keys written into a recipe's plain form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.strict_yaml import load_yaml

_NAMED = ("name", "path")
_OWN_SETTINGS = ("policy", "objective")
"""Sections that are their name's own settings through and through."""


def parse(setting: str) -> tuple[str, Any]:
    """``"section.key=value"`` as (key, value); the value is YAML. Raises RecipeError."""
    key, equals, value = setting.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"--set {setting!r} is not section.key=value (for example student.training.epochs=5)"
        )
    return key, load_yaml(value, f"--set {key}")


def apply(raw: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Write ``settings`` into ``raw``, a recipe's plain form, in place. Names go first, whatever
    the order: what else is set belongs to the new name. Raises RecipeError."""
    names_first = sorted(settings, key=lambda key: key.rpartition(".")[2] not in _NAMED)
    for key in names_first:
        _write(raw, _steps(key), settings[key], key)


def _steps(key: str) -> list[str]:
    """The keys to walk down; what an arm or a teacher sets is itself a dotted key."""
    parts = key.split(".")
    dotted_from = {"arms": 3, "teachers": 2}.get(parts[0], len(parts))
    if parts[0] == "arms" and (len(parts) < 4 or parts[2] != "set"):
        dotted_from = len(parts)
    head, rest = parts[:dotted_from], parts[dotted_from:]
    return [*head, ".".join(rest)] if rest else head


def _write(raw: dict[str, Any], steps: list[str], value: Any, key: str) -> None:
    section, above = raw, ""
    for depth, step in enumerate(steps[:-1]):
        inner = section.get(step)
        if inner is None:
            inner = section[step] = {}
        if not isinstance(inner, dict):
            name = ".".join(steps[: depth + 1])
            raise RecipeError(f"{key}: {name} is a value ({inner!r}), not a section")
        section, above = inner, step
    last = steps[-1]
    if last in _NAMED and section.get(last) != value:
        _start_afresh(section, above, last)
    section[last] = copy.deepcopy(value)  # what is given stays as it is


def _start_afresh(section: dict[str, Any], called: str, new: str) -> None:
    """Drop what belonged to the old name."""
    if called in _OWN_SETTINGS:
        section.clear()
    elif "options" in section:
        section["options"] = {}
        for other in _NAMED:
            if other != new:
                section[other] = None
