"""Module paths, with globs: ``layer3.2``, ``stages.*``; ``fc:input`` is what a module gets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from frugalkd.errors import ModelError

INPUT = ":input"
"""After a module's path: not what it returns, but the first of what it gets."""


def feature_paths(model: nn.Module) -> list[str]:
    """All features of ``model`` by path: of each module what it returns, and what it gets."""
    names = [name for name, _ in model.named_modules() if name]
    return [*names, *(name + INPUT for name in names)]


def module_of(model: nn.Module, path: str) -> nn.Module:
    """The module that the feature ``path`` is of."""
    return model.get_submodule(path.removesuffix(INPUT))


def find_paths(patterns: Sequence[str], names: Iterable[str], where: str) -> tuple[str, ...]:
    """The ``names`` that ``patterns`` mean, each once: those of a pattern in the names' own order,
    one pattern's after another's.

    In a pattern ``*``, ``?`` and ``[..]`` stand for what they do in a shell, within one part of a
    path: ``stages.*`` means ``stages.0``, not ``stages.0.conv1``, and ``stages.*:input`` what
    ``stages.0`` gets.

    Args:
        patterns: paths or globs.
        names: all paths that there are; the empty one, a model itself, is never meant.
        where: whose they are, such as ``the student``, for the error.

    Raises:
        ModelError: a pattern means none of them; the nearest ones are listed.
    """
    known = [name for name in names if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        meant = [name for name in known if means(pattern, name)]
        if not meant:
            alike = [name for name in known if name.endswith(INPUT) == pattern.endswith(INPUT)]
            near = difflib.get_close_matches(pattern, alike, n=3, cutoff=0.0)
            hint = f"did you mean {' or '.join(near)}?" if near else "it has none"
            raise ModelError(f"{where} has no module {pattern[:100]!r}: {hint}")
        found |= dict.fromkeys(meant)
    return tuple(found)


def is_glob(pattern: str) -> bool:
    """Whether it may mean several features."""
    return any(mark in pattern for mark in "*?[")


def means(pattern: str, name: str) -> bool:
    """Whether the feature ``name`` is one that ``pattern`` means."""
    if pattern.endswith(INPUT) != name.endswith(INPUT):
        return False
    parts, steps = pattern.split("."), name.split(".")
    return len(parts) == len(steps) and all(map(fnmatchcase, steps, parts))
