"""Measure how well a ledger works that `frugalkd ledger make` made for a conventional teacher.

    python benchmarks/ledger_make.py digits --seeds 5 --out runs/ledgers --json digits.json

trains a self-regulated and a conventional teacher, makes a ledger from the conventional one, and
distils students from the conventional one with each of the two ledgers. Finished runs are
not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.ledgers import make_ledger
from frugalkd.ledger.ledger import Ledger

MODES = ("significance", "hybrid")


def measure(recipe: Any, out: Path, seeds: int) -> dict[str, Any]:
    full, plain = out / "regulated", out / "conventional"
    teachers = {
        "regulated": teach(recipe, full),
        "conventional": teach(override(recipe, {"teacher.policy": {"name": "all"}}), plain),
    }
    head = out / "head"
    if not (head / "ledger.json").is_file():
        make_ledger(recipe, head, teacher=plain)
    said = json.loads((head / "ledger.json").read_text())
    ours, theirs = (Ledger.load(folder).significance for folder in (head, full))
    meters = said["meters"]
    result: dict[str, Any] = {
        "recipe": recipe.name,
        "student_epochs": recipe.student.training.epochs,
        "samples": len(ours),
        "spearman": float(np.asarray(spearmanr(ours, theirs))[0]),
        "took_part": {"head": float(np.mean(ours > 0)), "full": float(np.mean(theirs > 0))},
        "flops": {
            "head": sum(meters["flops"].values()),
            "full": sum(teachers["regulated"]["meters"]["flops"].values()),
            "conventional": sum(teachers["conventional"]["meters"]["flops"].values()),
        },
        "teacher_accuracy": {name: one["evaluation"]["accuracy"] for name, one in teachers.items()},
        "students": [],
    }
    for mode in MODES:
        for ledger in ("full", "head"):
            runs = [
                distill(
                    override(recipe, {"student.mode": mode, "seed": seed}),
                    out / f"{mode}-{ledger}-{seed}",
                    teacher=plain,
                    ledger=full if ledger == "full" else head,
                )
                for seed in range(seeds)
            ]
            result["students"].append(
                {
                    "mode": mode,
                    "ledger": ledger,
                    "accuracy": [run["evaluation"]["accuracy"] for run in runs],
                    "samples_backpropagated": [
                        run["meters"]["samples_backpropagated"] for run in runs
                    ],
                    "of": [run["train_samples"] * recipe.student.training.epochs for run in runs],
                }
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    found = measure(load_recipe(given.recipe, given.settings), given.out, given.seeds)
    given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
