"""Variants of the gate as policies of a recipe."""

from __future__ import annotations

import pytest

from benchmarks.hard.variants import GATES, cooldown_40, variant_of
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.policies import SelfRegulation
from frugalkd.policies.modes import CEILING, HORIZON, PROBE

RECIPE = ["student.training.epochs=6", "student.cost=0.5", "student.regulation.max_skip=5"]


@pytest.mark.parametrize("variant", GATES)
def test_a_variant_is_a_recipe(variant):
    made = variant_of(load_recipe("digits", RECIPE), variant)
    gate, settings = GATES[variant]
    policy = made.student.chosen_policy
    assert type(policy).__name__ == gate.__name__
    assert isinstance(policy, SelfRegulation)
    wanted = {"max_skip": 5, "ceiling": CEILING, "probe": 0.0, **settings}
    assert {name: getattr(policy, name) for name in wanted} == wanted
    horizon = float(variant.split()[1]) if variant.startswith("horizon") else HORIZON
    assert policy.cost == 1 / horizon
    assert made.student.training.epochs == 6 * 0.5 * horizon


def test_the_default_is_a_variant():
    recipe = load_recipe("digits", RECIPE)
    own, probe = recipe.student.chosen_policy, variant_of(recipe, "probe").student.chosen_policy
    assert isinstance(own, SelfRegulation)
    assert isinstance(probe, SelfRegulation)
    assert (own.cost, own.probe, own.max_skip) == (probe.cost, PROBE, probe.max_skip)


def test_a_cooldown_is_a_schedule_of_the_recipe():
    made = variant_of(load_recipe("digits", RECIPE), "cooldown 0.4")
    assert made.student.training.schedule.path == "benchmarks.hard.variants:cooldown_40"
    assert [cooldown_40(progress) for progress in (0.0, 0.6, 0.8, 1.0)] == pytest.approx(
        [1.0, 1.0, 0.5, 0.0]
    )
