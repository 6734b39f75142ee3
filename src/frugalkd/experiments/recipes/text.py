"""Recipes as text: strict YAML, and ``section.key=value`` overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import yaml

from frugalkd.errors import RecipeError

MOST_VALUES = 100_000
_TOO_MANY = f"more than {MOST_VALUES} values, aliases counted each time"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; it refuses duplicate keys and keys that are not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = getattr(key, "value", "?")
                raise RecipeError(f"line {line}: key {shown!r} is not text: write it in quotes")
            if key.value in first:
                raise RecipeError(
                    f"line {line}: {key.value!r} stands twice (first in line {first[key.value]})"
                )
            first[key.value] = line
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """PyYAML before 6.0.4 repeats what is merged more than once."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise RecipeError(f"line {node.start_mark.line + 1}: {_TOO_MANY}")


# PyYAML reads 1e-3 as text, since YAML 1.1 requires a dot and a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    "+-0123456789",
)


def load_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; ``source`` names it in errors. Raises RecipeError: one line, with
    the line's number where there is one."""
    try:
        value = yaml.load(text, Loader=_Loader)
        if _count(value, {}) > MOST_VALUES:
            raise RecipeError(f"not a recipe: {_TOO_MANY}")
        return value
    except RecipeError as error:
        raise RecipeError(f"{source}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not YAML: {' '.join(str(error).split())}") from None


def _count(value: Any, known: dict[int, int]) -> int:
    """The number of values without aliases; ``known`` holds the counts of earlier containers. A
    container that holds itself raises RecursionError."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


_NAMED = ("name", "path")
_OWN_SETTINGS = ("policy", "objective")
"""Sections in which all settings belong to the name."""


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
    """Write ``settings`` into ``raw``, a recipe's plain form, in place. Names come first, whatever
    the order: the other settings belong to the new name. Raises RecipeError."""
    for key in sorted(settings, key=lambda key: key.rpartition(".")[2] not in _NAMED):
        _write(raw, key, settings[key])


def _write(raw: dict[str, Any], key: str, value: Any) -> None:
    parts = key.split(".")
    # Settings of an arm or of a teacher are dotted keys themselves.
    keep = 3 if parts[0] == "arms" and parts[2:3] == ["set"] else 2 if parts[0] == "teachers" else 0
    *above, last = [*parts[:keep], ".".join(parts[keep:])] if len(parts) > keep > 0 else parts
    section, name = raw, ""
    for depth, name in enumerate(above):
        inner = section.get(name)
        if inner is None:
            inner = section[name] = {}
        if not isinstance(inner, dict):
            where = ".".join(above[: depth + 1])
            raise RecipeError(f"{key}: {where} is a value ({inner!r}), not a section")
        section = inner
    if last in _NAMED and section.get(last) != value:  # drop the settings of the old name
        if name in _OWN_SETTINGS:
            section.clear()
        elif "options" in section:
            section.update(options={}, **dict.fromkeys(_NAMED))
    section[last] = copy.deepcopy(value)  # the caller's object is not shared
