"""What is run again and again here: the digits' teacher, students in each mode, a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.targets import store
from frugalkd.teachers import store as store_module

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
    "convolutions": {
        "student.mode": "regulated",
        "student.model": {"name": "resnet8", "options": {}},
        "student.training.channels_last": True,
        "student.training.recalibrate_bn": 256,
        "student.training.epochs": 2.5,
    },
}

TIMES = ("wall_seconds", "eval_seconds", "phases", "peak_memory_bytes")
"""What two runs that are the same do not have in common."""


@dataclass(frozen=True)
class Work:
    """``run(out, resume)`` does it, and ``plain(out)`` without a checkpoint within an epoch;
    ``files`` are patterns of what it must leave, byte for byte."""

    name: str
    run: Callable[[Path, bool], object]
    plain: Callable[[Path], object]
    files: tuple[str, ...]

    def outcome(self, out: Path) -> dict[str, bytes]:
        """What counts of a run that is done: the bytes of its files, and of its results all but
        their times."""
        found = {p.name: p.read_bytes() for pattern in self.files for p in out.glob(pattern)}
        assert len(found) >= 2, f"{self.name} left {sorted(found)}"
        if (out / "results.json").exists():
            results = timeless(json.loads((out / "results.json").read_text()))
            found |= {f"results.json: {k}": json.dumps(v).encode() for k, v in results.items()}
        return found


def timeless(results: dict[str, Any]) -> dict[str, Any]:
    """``results`` without times and memory, and without the recipe's ``checkpoints``, which are
    no part of what a run comes to."""
    said = {name: part for name, part in results["recipe"].items() if name != "checkpoints"}
    (meters,), history, scoring = [
        [{name: part for name, part in record.items() if name not in TIMES} for record in records]
        for records in ([results["meters"]], results["history"], [results.get("scoring") or {}])
    ]
    kept = {**results, "recipe": said, "meters": meters, "history": history, "scoring": scoring}
    if (targets := results.get("targets")) and (filling := targets.get("filling")):
        counted = {name: part for name, part in filling.items() if "seconds" not in name}
        kept["targets"] = {**targets, "filling": counted}
    return kept


def works(teacher: Path, settings: dict[str, Any] | None = None) -> list[Work]:
    """All of them, students and store of the teacher in the folder ``teacher``."""
    recipe = override(load_recipe("digits"), {**LITTLE, **(settings or {})})

    def make(name: str, carry_out: Callable[..., object], set: dict[str, Any]) -> Work:
        own = override(recipe, set)
        plain = override(own, {"checkpoints.steps": 0})
        return Work(
            name,
            lambda out, resume: carry_out(own, out, resume=resume),
            lambda out: carry_out(plain, out),
            RUN,
        )

    taught = partial(distill, teacher=teacher)
    made = [make("teach", teach, {})]
    made += [make(name, taught, set) for name, set in STUDENTS.items()]
    # Without a teacher's folder a run keeps what it fills ahead in its own.
    alone = {"teacher.weights": str(teacher / "teacher.safetensors"), "student.mode": "vanilla"}
    made.append(make("filling ahead", synced_often(distill), {**alone, **VIEWS}))
    made.append(make("scored", distill, {**alone, **SCORED}))
    stored = override(recipe, {"student.mode": "vanilla", **VIEWS})
    fill = partial(synced_often(store), stored, teacher=teacher)
    return [*made, Work("store", lambda out, resume: fill(out), fill, STORE)]


RUN = ("teacher.safetensors", "student.safetensors", "ledger.safetensors")
STORE = ("header.json", "*.bin")


SCORED = {
    "student.mode": None,
    "student.policy": {"name": "rho-loss", "keep": 0.3, "epochs": 2.5, "seeds": 1},
}
VIEWS = {"student.targets.views": 8}


def synced_often(act: Callable[..., object]) -> Callable[..., object]:
    """``act`` with stores that sync often, so that one that is stopped has something to keep."""
    return patch.object(store_module, "SYNC_ROWS", 256)(act)
