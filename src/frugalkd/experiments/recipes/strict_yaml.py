"""YAML as recipes use it: the safe loader, without duplicate keys, and with ``1e-3`` a number."""

from __future__ import annotations

import re
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


# PyYAML reads 1e-3 as text, since YAML 1.1 asks for a dot and a sign; people mean the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    "+-0123456789",
)


def load_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; ``source`` names it in errors.

    Raises:
        RecipeError: one line, with the line's number where there is one.
    """
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
    """How many values there would be without aliases; ``known`` counts of the lists and sections
    met so far. One that holds itself never ends, and so raises RecursionError."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]
