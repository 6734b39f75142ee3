"""The demonstration: real data that come with scikit-learn, every mode, and what it must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from frugalkd.experiments.comparison.run import Event, compare
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.files import StrPath

ARMS = ("vanilla", "significance", "regulated", "hybrid", "ce", "random", "short")
SEEDS = 3
NOTE = "360 test digits rank nothing: this shows that it works"


def demo(
    out: StrPath, jobs: int = 2, listener: Callable[[Event], None] | None = None
) -> dict[str, Any]:
    """Compare the modes and three controls on scikit-learn's digits; prints nothing.

    Args:
        out: the folder of the comparison.
        jobs: processes at a time.
        listener: told of each run as it begins and ends.

    Returns:
        The content of ``out/comparison.json``; :func:`comparison_table` shows it.

    Raises:
        RunFolderError: ``out`` holds another comparison.
    """
    recipe = load_recipe("digits")
    return compare(
        recipe,
        arms=ARMS,
        seeds=SEEDS,
        out=out,
        jobs=jobs,
        listener=listener,
        teachers=list(recipe.teachers),
        notes=[NOTE],
    )
