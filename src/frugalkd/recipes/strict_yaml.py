"""YAML as recipes use it: the safe loader, without duplicate keys, and with ``1e-3`` a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

from frugalkd.errors import RecipeError


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
        return yaml.load(text, Loader=_Loader)
    except RecipeError as error:
        raise RecipeError(f"{source}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
