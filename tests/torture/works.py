"""What is run again and again here: the digits' teacher, students in each mode, a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frugalkd.recipes.load import load_recipe, override
from frugalkd.recipes.schema import Recipe
from frugalkd.runs.execute import distill, teach
from frugalkd.runs.storing import store
from frugalkd.teachers.store import _store

LITTLE = {
    "teacher.model": {"name": "mlp", "options": {"hidden": [64], "dropout": 0.1}},
    "teacher.training.epochs": 6.5,
    "student.model": {"name": "mlp", "options": {"hidden": [24], "dropout": 0.1}},
    "student.training.epochs": 6.5,
    "student.augment": {"crop": 1},
    "checkpoints.steps": 4,
}
"""Seconds a run, with dropout, augmentation and a fraction of an epoch, so that each of the random
streams counts."""

STUDENTS: dict[str, dict[str, Any]] = {
    "vanilla": {"student.mode": "vanilla", "student.targets.kind": "live"},
    "significance": {"student.mode": "significance", "student.targets.views": 2},
    "regulated, last-visit": {"student.mode": "regulated"},
    "regulated, now": {"student.mode": "regulated", "student.regulation.when": "now"},
    "hybrid": {"student.mode": "hybrid", "student.targets.fill": "first-visit"},
}


@dataclass(frozen=True)
class Work:
    """``run(out, resume)`` does it; ``files`` are patterns of what it must leave, byte for byte."""

    name: str
    run: Callable[[Path, bool], object]
    files: tuple[str, ...]

    def outcome(self, out: Path) -> dict[str, bytes]:
        """The bytes that count of a run that is done."""
        found = {p.name: p.read_bytes() for pattern in self.files for p in out.glob(pattern)}
        assert len(found) >= 2, f"{self.name} left {sorted(found)}"
        return found


def works(teacher: Path, settings: dict[str, Any] | None = None) -> list[Work]:
    """All of them, students and store of the teacher in the folder ``teacher``."""
    recipe = override(load_recipe("digits"), {**LITTLE, **(settings or {})})

    def student(set: dict[str, Any]) -> Callable[[Path, bool], object]:
        own = override(recipe, set)
        return lambda out, resume: distill(own, out, teacher=teacher, resume=resume)

    made = [Work("teach", lambda out, resume: teach(recipe, out, resume=resume), RUN)]
    made += [Work(name, student(set), RUN) for name, set in STUDENTS.items()]
    return [*made, Work("store", _filling(recipe, teacher), STORE)]


RUN = ("teacher.safetensors", "student.safetensors", "ledger.safetensors")
STORE = ("header.json", "*.bin")


def _filling(recipe: Recipe, teacher: Path) -> Callable[[Path, bool], object]:
    """A store that is synced often, so that a filling that is stopped has something to keep."""
    own = override(recipe, {"student.mode": "vanilla", "student.targets.views": 8})

    def run(out: Path, resume: bool) -> object:
        before, _store.SYNC_ROWS = _store.SYNC_ROWS, 256
        try:
            return store(own, out, teacher=teacher)
        finally:
            _store.SYNC_ROWS = before

    return run
