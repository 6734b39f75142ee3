from __future__ import annotations

import pytest

from frugalkd.comparison.arms import known_arms, resolve_arms
from frugalkd.errors import RecipeError, UnknownName
from frugalkd.recipes.load import override


@pytest.fixture
def bare(tiny):
    return override(tiny, {"arms": {}})


def test_built_in_arms(bare):
    arms = resolve_arms(bare, ["vanilla", "significance", "regulated", "hybrid", "ce"])
    assert [arm.recipe.student.mode for arm in arms] == [
        *("vanilla", "significance", "regulated", "hybrid", "vanilla")
    ]
    assert [arm.teacher for arm in arms] == [*["self-regulated"] * 4, None]
    assert arms[-1].recipe.student.objective.model_dump()["name"] == "cross-entropy"
    assert all(len(arm.about) <= 24 for arm in arms)


def test_a_built_in_arm_takes_the_place_of_a_recipes_own_policy(bare):
    own = override(bare, {"student.mode": None, "student.policy": {"name": "random"}})
    (arm,) = resolve_arms(own, ["hybrid"])
    assert arm.recipe.student.mode == "hybrid"
    assert arm.recipe.student.policy is None


def test_the_recipes_own_arms_come_first(bare):
    arms = {"vanilla": {"set": {"student.mode": "vanilla", "student.training.epochs": 7}}}
    (arm,) = resolve_arms(override(bare, {"arms": arms}), ["vanilla"])
    assert arm.recipe.student.training.epochs == 7


def test_a_control_brings_along_what_it_matches(bare):
    arms = resolve_arms(bare, ["short:random:hybrid", "hybrid"])
    assert [arm.name for arm in arms] == ["hybrid", "random:hybrid", "short:random:hybrid"]
    assert [arm.control for arm in arms] == [None, "random", "short"]
    assert [arm.match for arm in arms] == [None, "hybrid", "random:hybrid"]
    assert {arm.teacher for arm in arms} == {"self-regulated"}
    assert arms[1].folder == "random--hybrid"


def test_an_arms_own_teacher(bare):
    arms = {"other": {"set": {"student.mode": "vanilla"}, "teacher": "conventional"}}
    recipe = override(bare, {"arms": arms})
    other, control = resolve_arms(recipe, ["other", "short:other"])
    assert other.teacher == control.teacher == "conventional"
    assert other.recipe.teacher.policy.model_dump()["name"] == "all"
    arms["other"]["teacher"] = "nobody"
    recipe = override(bare, {"arms": arms})
    with pytest.raises(UnknownName, match="unknown teacher 'nobody'"):
        resolve_arms(recipe, ["other"])


def test_a_pretrained_teacher_is_not_trained(bare):
    recipe = override(bare, {"teacher.weights": "teacher.safetensors"})
    (arm,) = resolve_arms(recipe, ["vanilla"])
    assert arm.teacher is None


@pytest.mark.parametrize("name", ["hybird", "random", "random:hybird", "often:hybrid", "random:"])
def test_unknown_arms(bare, name):
    with pytest.raises(UnknownName, match="unknown arm"):
        resolve_arms(bare, [name])


def test_impossible_arms(bare):
    with pytest.raises(RecipeError, match="no arm to compare"):
        resolve_arms(bare, [])
    circle = {
        "a": {"control": "short", "match": "b"},
        "b": {"control": "random", "match": "a"},
    }
    with pytest.raises(RecipeError, match="in a circle: a -> b -> a"):
        resolve_arms(override(bare, {"arms": circle}), ["a"])
    for key in ("seed", "teacher.training.epochs"):
        recipe = override(bare, {"arms": {"mine": {"set": {key: 3}}}})
        with pytest.raises(RecipeError, match=r"arms\.mine\.set: .* cannot differ"):
            resolve_arms(recipe, ["mine"])


def test_known_arms(tiny):
    assert {"vanilla", "ce", "random", "short"} <= set(known_arms(tiny))
