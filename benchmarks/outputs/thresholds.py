"""What is enough: a score, or half the median of the last distances, on validation data.

    python -m benchmarks.outputs.thresholds RECIPE OUT --set data.validation=5000

Of outputs with distances, each variant trains with what the gate spends by itself, and with half of
the samples. Finished runs in ``OUT`` are not repeated. Writes ``OUT/thresholds.json``: variant ->
the RMSE, or the mean of 1 - cosine, one a seed, and the cost in epochs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs import execute
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, Ids, Plan, SelfRegulation
from frugalkd.policies.policy import Mask

SCORES = (0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class HalfMedian(SelfRegulation):
    """A sample passes at half the median of the last distances, as an epoch begins; the threshold
    never rises. Before the second epoch no sample passes."""

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        known = 1 - ledger["confidence"][pool]  # the distance, as a part of d0
        known = known[np.isfinite(known)]
        if at.epoch and len(known):
            enough = min(getattr(self, "enough", np.inf), float(np.median(known)) / 2)
            object.__setattr__(self, "enough", enough)
        return super().plan(ledger, pool, at)

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        return ~(1 - np.asarray(seen.confidence) <= getattr(self, "enough", -np.inf))


def variants() -> Iterator[tuple[str, type[SelfRegulation], dict[str, Any]]]:
    spending = {
        "by itself": {},
        "half": {"budget": 0.5, "budget_schedule": "early"},
        "half, drawn": {"budget": 0.5, "budget_schedule": "early", "budget_rule": "random"},
    }
    for how, settings in spending.items():
        for score in SCORES:
            yield f"score {score}, {how}", SelfRegulation, {"confidence": score, **settings}
        yield f"half the median, {how}", HalfMedian, settings


def run(
    recipe: Recipe, gate: type[SelfRegulation], settings: dict[str, Any], out: Path, shared: Path
) -> dict[str, Any]:
    own = recipe.student.chosen_policy
    assert isinstance(own, SelfRegulation), "the recipe's mode is regulated"
    path, options = f"benchmarks.outputs.thresholds:{gate.__name__}", {**asdict(own), **settings}
    policy = {"student.mode": None, "student.policy": {"path": path, "options": options}}
    teacher = shared / "teacher" if recipe.teacher.weights is None else None
    made = override(recipe, policy)
    results = execute.distill(made, out, teacher=teacher, stores=shared, resume=True)
    measured = results["evaluation"]
    error = measured.get("rmse", measured.get("mean_cosine_distance"))
    return {"error": error, "cost": results["cost"]["epochs"]}


def table(found: dict[str, dict[str, Any]]) -> str:
    """``found``: task -> what is written of it. Means over the seeds."""
    heads = [f"{task}, {how}" for task in found for how in ("by itself", "half")]
    lines = [f"| what is enough | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for enough in [*(f"score {score}" for score in SCORES), "half the median"]:
        cells = []
        for runs in found.values():
            own, half = runs[f"{enough}, by itself"], runs[f"{enough}, half"]
            cells += [f"{mean(own['error']):.4f} at {mean(own['cost']):.1f} epochs"]
            cells += [f"{mean(half['error']):.4f}"]
        lines.append(f"| {enough} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    recipes = [
        load_recipe(given.recipe, [*given.set, f"seed={seed}"]) for seed in range(given.seeds)
    ]
    if recipes[0].teacher.weights is None:
        execute.teach(recipes[0], given.out / "teacher")
    found: dict[str, Any] = {}
    for name, gate, settings in variants():
        train = partial(run, gate=gate, settings=settings, shared=given.out)
        runs = [train(recipe, out=given.out / f"{name}, seed {recipe.seed}") for recipe in recipes]
        found[name] = {key: [each[key] for each in runs] for key in runs[0]}
        print(name, found[name], flush=True)
    (given.out / "thresholds.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
