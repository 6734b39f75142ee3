from __future__ import annotations

import pytest

from frugalkd.errors import RecipeError, UnknownName
from frugalkd.experiments.comparison.arms import folder_name, known_arms, resolve_arms
from frugalkd.experiments.comparison.plan import plan_jobs
from frugalkd.experiments.recipes.load import load_recipe, override


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


def test_a_built_in_arm_replaces_the_recipes_policy(bare):
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
    assert folder_name(arms[1].name) == "random--hybrid"


def test_a_run_of_two_names_records_the_plans_for_either(bare, tmp_path):
    recipe = override(bare, {"arms": {"mine": {"set": {"student.mode": "regulated"}}}})
    arms = resolve_arms(recipe, ["regulated", "mine", "permuted:mine"])
    jobs = plan_jobs(recipe, arms, [0], tmp_path, ["self-regulated"], {})
    recorded = {job.key.name for job in jobs.values() if job.record_plans}
    assert recorded == {"regulated", "mine"}


def test_an_arms_own_teacher(bare):
    arms = {"other": {"set": {"student.mode": "vanilla"}, "teacher": "conventional"}}
    recipe = override(bare, {"arms": arms})
    other, control = resolve_arms(recipe, ["other", "short:other"])
    assert other.teacher == control.teacher == "conventional"
    assert other.recipe.teacher.policy.model_dump()["name"] == "all"
    arms["other"]["teacher"] = "missing"
    recipe = override(bare, {"arms": arms})
    with pytest.raises(UnknownName, match="unknown teacher 'missing'"):
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
        for name in ("mine", "mine@0.5"):
            with pytest.raises(RecipeError, match=r"arms\.mine\.set: .* cannot differ"):
                resolve_arms(recipe, [name])


def test_arms_and_teachers_are_measured_on_the_same_data(bare):
    setting = {"data.validation": 50}
    recipe = override(bare, {"arms": {"mine": {"set": {"student.mode": "vanilla", **setting}}}})
    with pytest.raises(RecipeError, match=r"arms\.mine\.set: data\.validation cannot differ in"):
        resolve_arms(recipe, ["mine"])
    recipe = override(bare, {"arms": {"mine": {"set": {"data.options.positions": 0.5}}}})
    with pytest.raises(RecipeError, match=r"arms\.mine\.set: data\.options\.positions cannot"):
        resolve_arms(recipe, ["mine"])
    with pytest.raises(RecipeError, match=r"teachers\.other: data\.name cannot differ"):
        resolve_arms(
            override(bare, {"teachers": {"other": {"data": {"name": "mnist"}}}}), ["hybrid"]
        )
    arm = {"set": {"student.mode": "vanilla", "data.train_size": 50}}
    (found,) = resolve_arms(override(bare, {"arms": {"mine": arm}}), ["mine"])
    assert found.recipe.data.train_size == 50


@pytest.mark.parametrize(
    "setting",
    [
        {"data.noise.rate": 0.2},
        {"data": {"name": "digits", "train_size": 50}},
        {"data.name": "digits"},
        {"data.options.in_memory": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_arms_may_set_data_that_leave_what_is_held_out(bare, setting):
    recipe = override(bare, {"data": {"name": "digits", "noise": {"rate": 0.1}}})
    arm = {"set": {"student.mode": "vanilla", **setting}}
    (found,) = resolve_arms(override(recipe, {"arms": {"mine": arm}}), ["mine"])
    assert found.recipe.data == override(recipe, setting).data


def test_only_a_corpus_has_positions_that_arms_may_set(bare):
    arm = {"set": {"data.options.positions": 0.5}}
    recipe = override(load_recipe("tiny-lm"), {"arms": {"mine": arm}})
    assert resolve_arms(recipe, ["mine"])
    recipe = override(recipe, {"arms": {"mine": {"set": {"data.options.length": 8}}}})
    with pytest.raises(RecipeError, match=r"mine\.set: data\.options\.length cannot"):
        resolve_arms(recipe, ["mine"])


def test_known_arms(tiny):
    assert {"vanilla", "ce", "random", "short"} <= set(known_arms(tiny))


def policy_of(arm):
    return arm.recipe.model_dump(mode="json")["student"]["policy"]


def test_every_policy_is_an_arm(bare):
    arms = {arm.name: arm for arm in resolve_arms(bare, ["infobatch", "unbiased", "agreement"])}
    assert policy_of(arms["infobatch"])["name"] == "infobatch"
    assert arms["unbiased"].recipe.student.regulation.keep_probability == 0.1
    assert arms["agreement"].recipe.student.regulation.label_source == "teacher"
    assert {arm.budget for arm in arms.values()} == {None}
    assert len({arm.about for arm in arms.values()}) == 3


def test_an_arm_at_a_budget(bare):
    names = ["regulated@0.25", "infobatch@0.1", "random@0.5", "random-static@0.5", "short@0.5"]
    regulated, infobatch, random, static, short = resolve_arms(bare, names)
    assert regulated.recipe.student.regulation.budget == 0.25
    assert policy_of(infobatch)["budget"] == 0.1
    assert policy_of(random)["fraction"] == 0.5
    assert policy_of(random)["redraw"]
    assert not policy_of(static)["redraw"]
    assert short.recipe.student.training.epochs == 0.5 * bare.student.training.epochs
    assert [arm.budget for arm in (regulated, infobatch, random)] == [0.25, 0.1, 0.5]
    assert {arm.match for arm in (random, static, short)} == {None}
    assert short.about == "all, fewer epochs"


def test_the_recipes_cost_is_its_gates(bare):
    limited = override(bare, {"student.cost": 0.5, "student.mode": "regulated"})
    arms = resolve_arms(limited, ["regulated", "ceiling", "vanilla", "ce", "significance", "el2n"])
    assert [arm.recipe.student.cost for arm in arms] == [0.5, 0.5, None, None, None, None]


def test_own_arms_without_a_gate_have_no_cost_of_the_recipe():
    """Else vanilla, which others are compared with, would be a shorter schedule."""
    recipe = override(load_recipe("fashion-mnist"), {"student.cost": 0.3})
    names = ["regulated", "hybrid-ceiling", "vanilla", "vanilla-self", "ce", "significance"]
    arms = resolve_arms(recipe, names)
    assert [arm.recipe.student.cost for arm in arms] == [0.3, 0.3, *[None] * 4]
    plain = {"student.mode": "vanilla", "student.cost": 0.2}
    other = {"student.mode": None, "student.policy": {"name": "infobatch"}}
    own = {"mine": {"set": plain}, "other": {"set": other}}
    arms = resolve_arms(override(recipe, {"arms": own}), ["mine", "other"])
    assert [arm.recipe.student.cost for arm in arms] == [0.2, None]


def test_a_budget_takes_the_place_of_the_recipes_cost(bare):
    limited = override(bare, {"student.cost": 0.5, "student.mode": "regulated"})
    arms = resolve_arms(limited, ["regulated@0.25", "random@0.25", "short@0.25"])
    assert [arm.recipe.student.cost for arm in arms] == [None, None, None]
    assert arms[0].recipe.student.regulation.budget == 0.25
    assert arms[2].recipe.student.training.epochs == 0.25 * bare.student.training.epochs


def test_a_recipes_own_control_at_a_budget_matches_nothing(tiny):
    (short,) = resolve_arms(tiny, ["short"], [0.5])
    assert (short.name, short.match, short.budget) == ("short@0.5", None, 0.5)


def test_a_control_of_an_arm_at_a_budget_matches_that(bare):
    matched, copied, even = resolve_arms(bare, ["permuted:regulated@0.25", "random:regulated@0.25"])
    assert matched.name == copied.match == even.match == "regulated@0.25"
    assert [arm.control for arm in (matched, copied, even)] == [None, "permuted", "random"]
    assert copied.budget == even.budget == 0.25


def test_a_copying_control_comes_once_for_each_budget(bare):
    own = {"copied": {"control": "permuted", "match": "regulated"}}
    for name in ("permuted:regulated", "copied"):
        arms = resolve_arms(override(bare, {"arms": own}), [name], [0.1, 0.5])
        assert [arm.name for arm in arms] == [
            *("regulated@0.1", f"{name}@0.1", "regulated@0.5", f"{name}@0.5")
        ]
    (_, once) = resolve_arms(bare, ["permuted:vanilla"], [0.1, 0.5])
    assert (once.name, once.budget) == ("permuted:vanilla", None)


def test_budgets_multiply_what_can_be_made_to_spend_them(bare):
    arms = resolve_arms(bare, ["vanilla", "significance", "regulated", "random"], [0.1, 0.5])
    assert [arm.name for arm in arms] == [
        *("vanilla", "significance", "regulated@0.1", "regulated@0.5", "random@0.1", "random@0.5")
    ]


@pytest.mark.parametrize(
    ("names", "budgets", "says"),
    [
        (["regulated"], [0.0], "--budgets: a budget is a fraction of all samples"),
        (["regulated"], [1.5], "in .0, 1., not 1.5"),
        (["regulated@x"], [], "write NAME@BUDGET, as in regulated@0.25"),
        (["regulated@2"], [], "not 2"),
        (["vanilla@0.5"], [], "cannot be made to spend a budget"),
        (["permuted@0.5"], [], "write permuted:ARM@0.5"),
        (["permuted:vanilla@0.5"], [], "vanilla cannot be made to spend a budget"),
        (["permuted:regulated@7"], [], "arm 'regulated@7': a budget is a fraction"),
    ],
)
def test_impossible_budgets(bare, names, budgets, says):
    with pytest.raises(RecipeError, match=says):
        resolve_arms(bare, names, budgets)


def test_a_budget_is_of_the_recipes_epochs(bare):
    half = {"student.mode": "regulated", "student.training.epochs": 3.0}
    recipe = override(bare, {"student.training.epochs": 6, "arms": {"half": {"set": half}}})
    (arm,) = resolve_arms(recipe, ["half@0.25"])
    assert arm.recipe.student.regulation.budget == 0.5
    with pytest.raises(RecipeError, match="its 3 epochs cannot spend 60% of 6"):
        resolve_arms(recipe, ["half@0.6"])


def test_a_recipe_without_a_teacher_is_refused_before_a_run(bare):
    alone = override(bare, {"teachers": {}})
    with pytest.raises(RecipeError, match="no arm has a teacher: name one under teachers"):
        resolve_arms(alone, ["vanilla"])
    labels = override(alone, {"student.objective": {"name": "cross-entropy"}})
    assert resolve_arms(labels, ["vanilla"])[0].teacher is None
