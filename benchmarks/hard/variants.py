"""Variants of the gate at a cost, on validation data: each a policy in the place of the recipe's.

    python -m benchmarks.hard.variants TASK COMPARISON OUT --costs 3,6 --set data.validation=5000

``COMPARISON`` is a folder of ``frugalkd compare`` on the same recipe: its teacher and its store are
used. Finished runs in ``OUT`` are not repeated. Writes ``OUT/variants.json``: variant -> cost ->
seed -> accuracy, and cost in epochs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.hard.recipe import recipe as recipe_of
from frugalkd.experiments.comparison.arms import folder_name
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.execute import distill
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, Ids, Plan, SelfRegulation
from frugalkd.policies.keeping import lowest, race
from frugalkd.policies.modes import CEILING, HORIZON, PROBE
from frugalkd.policies.policy import at_sorted

MODULE = "benchmarks.hard.variants"
"""This one, which is ``__main__`` as a command."""


def spent(policy: SelfRegulation, ledger: Ledger, at: EpochContext) -> float:
    """What of the cost is spent before this epoch, in [0, 1]."""
    total = policy.planned_rows(len(ledger), at.epochs)
    assert total is not None, "variants have a cost"
    return policy.paid(at) / total


def everything(pool: Ids, left: float, at: EpochContext) -> Plan:
    """A plan of all samples, or of as many as the cost pays for."""
    if left < at.least:
        return Plan(pool, stop=True)
    return Plan(
        lowest(pool, max(1, round(min(len(pool), left))), lambda ids: at.uniform("quota", ids))
    )


@dataclass(frozen=True)
class Patient(SelfRegulation):
    """Everything is used until a fraction ``passing`` of the samples passes."""

    passing: float = 0.5

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        passed = at_sorted(ledger["streak"], pool) > 0
        if passed.mean() < self.passing:
            return everything(pool, self._left(ledger, at), at)
        return super().plan(ledger, pool, at)


@dataclass(frozen=True)
class Late(SelfRegulation):
    """From a fraction ``late`` of the cost on, everything is used."""

    late: float = 0.6

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        if spent(self, ledger, at) >= self.late:
            return everything(pool, self._left(ledger, at), at)
        return super().plan(ledger, pool, at)


@dataclass(frozen=True)
class Reserve(SelfRegulation):
    """Each epoch leaves ``reserve`` of an even share of the cost for every epoch to come."""

    reserve: float = 0.5
    by_distance: bool = False

    def _quota(self, ledger: Ledger, active: int, at: EpochContext) -> int | None:
        even, left = self.cost * len(ledger), self._left(ledger, at)  # pyright: ignore
        remain = at.epochs - at.epoch
        most = left - self.reserve * max(0.0, remain - 1) * even
        return max(
            1, round(min(max(active, left / remain), max(most, even / 2) / min(1.0, remain)))
        )

    def _within_budget(
        self, ledger: Ledger, pool: Ids, active: Ids, quota: int, at: EpochContext
    ) -> Plan:
        if not self.by_distance or len(active) <= quota:
            return super()._within_budget(ledger, pool, active, quota, at)
        # Chances as a Beta(2, 2) density of the distance to what is enough: never the worst first.
        gap = np.clip(ledger["distance"][active], 0.02, 0.98)
        chance = gap * (1 - gap)
        keys = race(np.log(chance), at.uniform("distance", active))
        ids = np.sort(lowest(np.arange(len(active)), quota, keys.take))
        weights = (1 / chance[ids]).astype(np.float32)
        return Plan(active[ids], weights=(weights / weights.mean()).astype(np.float32))

    @property
    def columns(self) -> Mapping[str, str]:
        return {**super().columns, "distance": "float32"}

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        return {"distance": distance(self, seen, ids, ledger)} if self.ceiling else {}


@dataclass(frozen=True)
class Stalled(SelfRegulation):
    """A sample whose distance fell by less than ``least`` over three visits rests, as if
    it had passed."""

    least: float = 0.05

    @property
    def columns(self) -> Mapping[str, str]:
        return {**super().columns, "first": "float32", "second": "float32", "third": "float32"}

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        return {
            "first": ledger["second"][ids],
            "second": ledger["third"][ids],
            "third": distance(self, seen, ids, ledger),
        }

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> NDArray:
        fails = super().needs_training(seen, ids, ledger, at)
        before, now = ledger["first"][ids], ledger["third"][ids]
        return fails & ~((before > 0) & (now > (1 - self.least) * before))


def distance(
    policy: SelfRegulation, seen: Outcome, ids: Ids, ledger: Ledger
) -> NDArray[np.float32]:
    """How far the label's probability is from what is enough, as a fraction of that."""
    enough = np.minimum(policy.confidence, (policy.ceiling or 1) * ledger["teacher_truth"][ids])
    return np.clip(1 - seen.truth / np.maximum(enough, 1e-6), 0, 1).astype(np.float32)


def cooldown_20(progress: float) -> float:
    """The rate stays at its peak and falls linearly over the last 20 % of the training."""
    return min(1.0, (1 - progress) / 0.2)


def cooldown_40(progress: float) -> float:
    """The same over the last 40 %."""
    return min(1.0, (1 - progress) / 0.4)


GATES: dict[str, tuple[type[SelfRegulation], dict[str, Any]]] = {
    "gate": (SelfRegulation, {}),
    "no ceiling": (SelfRegulation, {"ceiling": None}),
    "tau 0.7": (SelfRegulation, {"confidence": 0.7}),
    "max_skip 8": (SelfRegulation, {"max_skip": 8}),
    "max_skip 2": (SelfRegulation, {"max_skip": 2}),
    "unbiased 0.1": (SelfRegulation, {"keep_probability": 0.1}),
    "unbiased 0.25": (SelfRegulation, {"keep_probability": 0.25}),
    "unbiased 0.5": (SelfRegulation, {"keep_probability": 0.5}),
    "patient 0.25": (Patient, {"passing": 0.25}),
    "patient 0.5": (Patient, {"passing": 0.5}),
    "patient 0.75": (Patient, {"passing": 0.75}),
    "probe": (SelfRegulation, {"probe": PROBE}),
    "probe, no ceiling": (SelfRegulation, {"probe": PROBE, "ceiling": None}),
    **{f"horizon {h}": (SelfRegulation, {"probe": PROBE}) for h in (1, 2, 4, 8)},
    "late 0.6": (Late, {}),
    "reserve 0.25": (Reserve, {"reserve": 0.25}),
    "reserve 0.5": (Reserve, {"reserve": 0.5}),
    "reserve 0.75": (Reserve, {"reserve": 0.75}),
    "distance": (Reserve, {"reserve": 0.5, "by_distance": True}),
    "stalled": (Stalled, {}),
    "cooldown 0.2": (SelfRegulation, {}),
    "cooldown 0.4": (SelfRegulation, {}),
}


def variant_of(recipe: Recipe, variant: str) -> Recipe:
    """``recipe`` of an arm with a cost, with the variant's gate in the place of its own."""
    own, student = recipe.student.chosen_policy, recipe.student
    assert isinstance(own, SelfRegulation), "cost-T has a gate"
    assert student.cost is not None
    horizon = float(variant.split()[1]) if variant.startswith("horizon") else HORIZON
    gate, settings = GATES[variant]
    limit = {"cost": 1 / horizon, "ceiling": CEILING, "probe": 0.0}
    changed: dict[str, Any] = {
        "student.mode": None,
        "student.cost": None,
        "student.policy": {
            "path": f"{MODULE}:{gate.__name__}",
            "options": {**asdict(own), **limit, **settings},
        },
        "student.training.epochs": student.training.epochs * student.cost * horizon,
    }
    if variant.startswith("cooldown"):
        curve = {"cooldown 0.2": cooldown_20, "cooldown 0.4": cooldown_40}[variant]
        changed["student.training.schedule.path"] = f"{MODULE}:{curve.__name__}"
    return override(recipe, changed)


def train(recipe: Recipe, out: Path, comparison: Path) -> dict[str, Any]:
    (teacher,) = (comparison / "teachers").glob("self-regulated-*")
    results = distill(recipe, out, teacher=teacher, stores=comparison / "stores")
    return {"accuracy": results["evaluation"]["accuracy"], "cost": results["cost"]["epochs"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--costs", default="3,6")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--variants", default=";".join(GATES))
    given = parser.parse_args()
    file = given.out / "variants.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    base = Recipe.model_validate(recipe_of(given.task))
    sets = {
        key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in given.set)
    }
    for seed in range(given.seeds):
        for cost in given.costs.split(","):
            for variant in given.variants.split(";"):
                row = found.setdefault(variant, {}).setdefault(cost, {})
                if str(seed) in row:
                    continue
                arm = base.arms[f"cost-{cost}"].set
                made = override(base, {**sets, **arm, "seed": seed})
                out = given.out / f"{folder_name(variant)}-{cost}-{seed}"
                row[str(seed)] = train(variant_of(made, variant), out, given.comparison)
                print(variant, cost, seed, row[str(seed)], flush=True)
                file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
