"""Filling the stores of a comparison: once for all of its runs, and what that has cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frugalkd.errors import RunFolderError
from frugalkd.experiments.comparison.plan import SHOWN, STORES, Job
from frugalkd.experiments.runs.folder import SCHEMA
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import make_folder, write_json

_AGAIN = "delete it; what filling the store has cost until now is then not counted"

Cost = dict[str, Any]
"""``rows`` that teachers were queried for and ``seconds``, stopped processes included; ``done``:
whether the store is full."""


def cost_file(out: Path, job: Job) -> Path:
    """Where a comparison's folder ``out`` keeps what a store has cost; earlier versions wrote it
    once the store was full."""
    return out / STORES / f"{job.key.name}-{job.digest[:SHOWN]}.json"


def read_cost(path: Path) -> Cost:
    """Zeros where nothing is known. Raises RunFolderError."""
    if not path.is_file():
        return {"rows": 0, "seconds": 0.0, "done": False}
    cost = {"done": True, **read_json(path, again=_AGAIN)}
    if not all(type(cost.get(name)) in (int, float) for name in ("rows", "seconds")):
        raise RunFolderError(f"{path} is damaged: {_AGAIN}")
    return cost


class CostNote:
    """Adds what a process spends on filling a store to what earlier ones have.

    Args:
        path: see :func:`cost_file`.
    """

    def __init__(self, path: Path):
        self._path, self._before = path, read_cost(path)
        make_folder(path.parent)

    def __call__(self, spent: dict[str, float], done: bool = False) -> None:
        """Write it down; ``spent`` so far. Raises WriteFailed."""
        cost = {what: self._before[what] + spent[what] for what in ("rows", "seconds")}
        write_json(self._path, {"schema": SCHEMA, **cost, "done": done})
