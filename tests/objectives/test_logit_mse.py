"""The squared distance of logits against a float64 reference, and what it refuses to learn from."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import agrees, cases, few, logs

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.objectives import LogitMSE


@few
@given(case=cases(), alpha=st.sampled_from([0.0, 0.3, 1.0]))
def test_it_is_the_formula(case, alpha):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        soft = math.fsum((s - t) ** 2 for s, t in zip(student, teacher, strict=True))
        expected.append(alpha * soft - (1 - alpha) * logs(student)[label])
    agrees(LogitMSE(alpha)(*case.tensors), expected)


def test_a_recipe_with_shifted_targets_is_refused():
    setting = ["student.objective.name=logit-mse"]
    with pytest.raises(RecipeError) as refused:
        load_recipe("digits", setting)
    assert str(refused.value) == (
        "student: LogitMSE reads the teacher's logits themselves, and these soft targets keep the "
        "differences of the teacher's logits: set targets.encoding to float32, or targets.kind to "
        "live"
    )
    for way_out in ("encoding=float32", "kind=live"):
        recipe = load_recipe("digits", [*setting, f"student.targets.{way_out}"])
        assert recipe.student.objective.build() == LogitMSE()
