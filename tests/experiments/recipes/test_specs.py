"""Objectives and policies in a recipe: sums, schedules, your own."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from frugalkd.errors import FrugalKDError, ImportRefused, ModelError, RecipeError, SettingError
from frugalkd.experiments.comparison.arms import resolve_arms
from frugalkd.experiments.recipes.load import (
    check_names,
    import_paths,
    load_recipe,
    override,
    refuse_imports,
)
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.objectives import DIST, DKD, KD, FitNets, Ramp, WeightedSum, scheduled
from frugalkd.policies import SelfRegulation
from frugalkd.policies.modes import HORIZON, PROBE

FEW = ["data.train_size=100", "teacher.training.epochs=1", "student.training.epochs=1"]


def objective_of(*settings):
    return load_recipe("digits", [f"student.{setting}" for setting in settings]).student.objective


def test_a_number_may_be_a_schedule():
    said = objective_of("objective={name: kd, temperature: {start: 8, end: 1, shape: cosine}}")
    assert said.build() == scheduled(KD(), temperature=Ramp(8.0, 1.0, "cosine"))
    several = objective_of("objective.alpha={start: 1, end: 0}", "objective.temperature=2")
    assert several.build() == scheduled(KD(2.0), alpha=Ramp(1.0, 0.0))


def test_a_sum_of_objectives():
    said = objective_of(
        "objective={name: sum, terms: [{of: {name: kd}}, {weight: {start: 2, end: 0}, "
        "of: {name: fitnets, student: layers.2, teacher: layers.2, hard: 0}}]}",
        "targets.kind=live",
    )
    hints = FitNets("layers.2", "layers.2", hard=0.0)
    assert said.build() == WeightedSum((KD(), hints), (1.0, Ramp(2.0, 0.0)))


@pytest.mark.parametrize(
    "objective",
    [
        "{name: kd, temperature: {start: 8, end: 1}}",
        "{name: sum, terms: [{of: {name: kd}}, {weight: 2, of: {name: dist, hard: 0}}]}",
        "{path: 'mine:Loss', options: {width: 3}}",
    ],
)
def test_a_resolved_objective_can_be_read_again(objective):
    recipe = load_recipe("digits", [f"student.objective={objective}"])
    assert override(recipe, {"seed": 1}).student == recipe.student


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ("{name: kd, temperature: {start: 8}}", "student.objective.temperature.end is missing"),
        (
            "{name: kd, temperature: {start: 8, end: 1, shape: sine}}",
            "temperature.shape is 'sine': did you mean cosine or",
        ),
        ("{name: kd, temperature: {start: 8, end: 0}}", "temperature must be positive, not 0"),
        ("{name: kd, temperature: x}", "temperature is 'x': it should be a valid number"),
        ("{name: sum, terms: [{of: {name: kd}}]}", "a sum has two terms or more"),
        ("{name: sum, terms: [{of: {name: kdd}}, {of: {name: kd}}]}", "of.name is 'kdd': did"),
        ("{name: sum, terms: [{of: {name: kd, alfa: 1}}]}", "terms.0.of.alfa: did you mean alpha"),
        ("{name: sum, terms: [{weigth: 1, of: {name: kd}}]}", "weigth: did you mean weight"),
        ("{name: sum, terms: [{of: {name: sum, terms: []}}]}", "of.name is 'sum': "),
        ("{name: own}", "student.objective.path is missing"),
    ],
)
def test_what_is_wrong_is_one_line(objective, says):
    with pytest.raises(RecipeError) as error:
        load_recipe("digits", [f"student.objective={objective}"])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schedule_of_the_temperature_needs_logits():
    cooling = "student.objective={name: kd, temperature: {start: 8, end: 1}}"
    load_recipe("digits", [cooling])
    with pytest.raises(RecipeError, match=r"set targets\.encoding to"):
        load_recipe("digits", [cooling, "student.targets={encoding: top-k, k: 4}"])
    both = "student.objective={name: sum, terms: [{of: {name: dist}}, {of: {name: logit-mse}}]}"
    with pytest.raises(RecipeError, match=r"set targets\.encoding to float32"):
        load_recipe("digits", [both])


def test_features_in_a_sum_are_features():
    hints = "{of: {name: fitnets, student: layers.2, teacher: layers.2}}"
    setting = f"student.objective={{name: sum, terms: [{{of: {{name: kd}}}}, {hints}]}}"
    with pytest.raises(RecipeError, match="these soft targets hold no features"):
        load_recipe("digits", [setting])


def test_features_that_are_read_must_be_stored():
    def stored(*paths):
        load_recipe("digits", [hints, f"student.targets.features={list(paths)}"])

    hints = "student.objective={name: fitnets, student: [a, b], teacher: [layers.2, '*.4']}"
    stored("layers.2", "layers.4")
    stored("layers.[23]", "head.4")
    with pytest.raises(
        RecipeError, match=r"features stores layers\.3, layer\.2, and the objective"
    ):
        stored("layers.3", "layer.2")
    load_recipe("digits", [hints, "student.targets={features: [layers.3], folder: elsewhere}"])


def test_reading_a_recipe_imports_no_user_code():
    term = "{name: sum, terms: [{of: {name: kd}}, {of: {path: 'no_such_module:Loss'}}]}"
    recipe = load_recipe("digits", [f"student.objective={term}"])
    check_names(recipe)
    assert import_paths(recipe) == ["no_such_module:Loss"]
    with pytest.raises(ImportRefused, match="no_such_module:Loss"):
        refuse_imports(recipe)
    with pytest.raises(ModelError, match="no module 'no_such_module'"):
        recipe.student.objective.build()
    wrong = load_recipe("digits", ["student.objective.path=loss"])
    with pytest.raises(RecipeError, match=r"student\.objective\.path is 'loss': write"):
        check_names(wrong)


OWN = """\
from frugalkd.objectives import KD, Objective
class Loss(Objective):
    needs_targets = True
    def __init__(self, factor=1.0):
        self.factor = factor
    def __call__(self, logits, targets, labels):
        return self.factor * (logits - targets).abs().sum(dim=1)
def number():
    return 3
"""


def test_your_own_objective_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    recipe = load_recipe("digits", [*FEW, f"student.objective.path={name}:Loss"])
    teach(recipe, tmp_path / "t")
    one = distill(recipe, tmp_path / "one", teacher=tmp_path / "t")
    factor = override(recipe, {"student.objective.options": {"factor": 2.0}})
    assert str(factor.student.objective.build()) == "Loss(factor=2.0)"
    two = distill(factor, tmp_path / "two", teacher=tmp_path / "t")
    assert one["digest"] != two["digest"]
    assert two["history"][0]["loss"] > one["history"][0]["loss"]
    with pytest.raises(
        ModelError, match=r"made a int: it must make a frugalkd\.objectives\.Objective"
    ):
        override(recipe, {"student.objective.path": f"{name}:number"}).student.objective.build()
    with pytest.raises(ModelError, match="takes no option 'size'"):
        override(factor, {"student.objective.options": {"size": 1}}).student.objective.build()


def test_terms_have_the_names_of_objectives():
    terms = "[{of: {name: dkd}}, {of: {name: dist}}]"
    assert objective_of(f"objective={{name: sum, terms: {terms}}}").build() == WeightedSum(
        (DKD(), DIST()), (1.0, 1.0)
    )


POLICY = """\
from dataclasses import dataclass
import numpy as np
from frugalkd.policies import Plan, SelfRegulation, Ungated
@dataclass(frozen=True)
class First(Ungated):
    budget: float = 0.5
    def plan(self, ledger, pool, at):
        return Plan(pool[: round(self.budget * len(pool))])
class Plain(Ungated):
    def __init__(self, part=0.5):
        self.part = part
    def plan(self, ledger, pool, at):
        return Plan(pool[: round(self.part * len(pool))])
@dataclass(frozen=True)
class Gate(SelfRegulation):
    pass
@dataclass(frozen=True)
class Learns(Ungated):
    needs_labels = True
    def plan(self, ledger, pool, at):
        return Plan(pool)
def made(share=0.5):
    return First(share)
def number():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The settings of one of your own policies, by the name of its class."""
    monkeypatch.chdir(tmp_path)
    name = f"policies_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(POLICY)
    return lambda made, **options: {
        "student.mode": None,
        "student.policy": {"path": f"{name}:{made}", "options": options},
    }


def test_your_own_policy_trains(own, tmp_path):
    recipe = load_recipe("digits", FEW)
    teach(recipe, tmp_path / "t")
    done = {}
    for made, setting in (("First", "budget"), ("Plain", "part")):
        for part in (0.2, 0.5):
            out = tmp_path / f"{made} {part}"
            given = override(recipe, own(made, **{setting: part}))
            done[made, part] = distill(given, out, teacher=tmp_path / "t")
            assert done[made, part]["budget"] == pytest.approx(part)
    assert len({each["digest"] for each in done.values()}) == len(done)


def test_your_own_policy_at_a_budget_and_at_a_cost(own, tmp_path):
    recipe = load_recipe("digits", FEW)
    arms = {name.lower(): {"set": own(name)} for name in ("First", "Plain", "made")}
    recipe = override(recipe, {"arms": arms})
    made = resolve_arms(recipe, ["first@0.25"])[0]
    assert asdict(made.recipe.student.chosen_policy)["budget"] == 0.25  # pyright: ignore
    assert "policy policies_" in made.about
    for arm in ("plain@0.25", "made@0.25"):
        with pytest.raises(RecipeError, match="cannot be made to spend a budget"):
            resolve_arms(recipe, [arm])
    at_cost = override(recipe, {**own("Gate", confidence=0.8), "student.cost": 0.5})
    chosen = at_cost.student.chosen_policy
    assert isinstance(chosen, SelfRegulation)
    assert (chosen.confidence, chosen.cost, chosen.probe) == (0.8, 1 / HORIZON, PROBE)
    refused = override(recipe, {**own("First"), "student.cost": 0.5})
    teach(recipe, tmp_path / "t")
    with pytest.raises(SettingError, match="First has settings of its own"):
        distill(refused, tmp_path / "s", teacher=tmp_path / "t")


def test_what_your_own_policy_cannot_do_is_refused(own, tmp_path):
    recipe = load_recipe("digits", FEW)
    teach(recipe, tmp_path / "t")
    for made, says in (("Learns", "label"), ("number", "it must make a frugalkd.policies.Policy")):
        given = override(recipe, {**own(made), "student.label_free": True})
        with pytest.raises(FrugalKDError, match=says):
            distill(given, tmp_path / made, teacher=tmp_path / "t")


def test_reading_a_recipe_imports_no_policy():
    for role in ("student.mode=null student", "teacher"):
        *more, role = role.split()
        recipe = load_recipe("digits", [*more, f"{role}.policy.path=no_such_module:Mine"])
        check_names(recipe)
        assert import_paths(recipe) == ["no_such_module:Mine"]
        with pytest.raises(ImportRefused, match="no_such_module:Mine"):
            refuse_imports(recipe)
        wrong = load_recipe("digits", [*more, f"{role}.policy.path=mine"])
        with pytest.raises(RecipeError, match=rf"{role}\.policy\.path is 'mine': write"):
            check_names(wrong)
