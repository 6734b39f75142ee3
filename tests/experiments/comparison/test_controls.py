from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalkd.errors import RecipeError
from frugalkd.experiments.comparison.arms import CONTROLS, control_settings
from frugalkd.experiments.comparison.statistics import TOLERANCE
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EpochContext, RandomSubset

HERE = Path("a", "run")
STUDENT = load_recipe("digits").student


def results(rows, samples, epochs):
    training = {"epochs": epochs}
    return {
        "recipe": {"student": {"training": training}},
        "history": [{"rows": count} for count in rows],
        "train_samples": samples,
    }


@st.composite
def runs(draw):
    """Rows by epoch of a run that may end in the middle of an epoch."""
    samples = draw(st.integers(50, 400))
    full = draw(st.integers(1, 6))
    part = draw(st.sampled_from([0.0, 0.25, 0.5]))
    parts = [1.0] * full + [part] * (part > 0)
    rows = [draw(st.integers(0, int(share * samples))) for share in parts]
    rows[0] = max(rows[0], samples // 4)
    return rows, samples, full + part


def trained_rows(policy, samples, epochs):
    """What the engine trains on: the plan's ids, of the last epoch only its part."""
    pool, ledger = np.arange(samples), Ledger.new(samples)
    plans = []
    for epoch in range(int(np.ceil(epochs))):
        ids = policy.plan(ledger, pool, EpochContext(epoch, epochs, seed=3)).ids
        part = min(1.0, epochs - epoch)
        plans.append(ids[: round(part * len(ids))])
    return plans


@given(run=runs(), control=st.sampled_from(["random", "random-static"]))
def test_subsets_match_the_run(run, control):
    rows, samples, epochs = run
    settings = control_settings(control, STUDENT, results(*run), HERE)
    policy = dict(settings["student.policy"])
    assert policy.pop("name") == "random"
    plans = trained_rows(RandomSubset(**policy), samples, epochs)
    counts = [len(plan) for plan in plans]
    # The constant fraction: no full epoch differs from another by more than a row.
    full = counts[: int(epochs)]
    assert max(full) - min(full) <= 1
    # Rounding to whole rows, once more where the last epoch is a part.
    assert abs(sum(counts) - sum(rows)) <= max(1, TOLERANCE * sum(rows))
    assert settings["student.weighting"] == "uniform"
    assert settings["student.mode"] is None


def test_redrawn_and_static_subsets():
    run = results([80, 40, 30], 200, 3.0)
    sets = {}
    for control in ("random", "random-static"):
        policy = dict(control_settings(control, STUDENT, run, HERE)["student.policy"])
        policy.pop("name")
        sets[control] = [set(ids) for ids in trained_rows(RandomSubset(**policy), 200, 3.0)]
        assert [len(ids) for ids in sets[control]] == [50, 50, 50]
    assert sets["random"][0] != sets["random"][1]
    assert sets["random-static"][0] == sets["random-static"][1] == sets["random-static"][2]


def test_short_trains_fewer_epochs():
    settings = control_settings("short", STUDENT, results([200, 60, 40], 200, 3.0), HERE)
    assert settings["student.training.epochs"] == pytest.approx(1.5)
    assert settings["student.policy"] == {"name": "all"}


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_matches_an_empty_run(control):
    with pytest.raises(RecipeError, match="no sample"):
        control_settings(control, STUDENT, results([0, 0], 200, 2.0), HERE)


def costly(screened, trained=(100, 50), queries=0):
    """A run of 200 samples whose teacher costs five of the student's forward passes."""
    rows = sum(trained)
    return {
        **results(trained, 200, 2.0),
        "history": [
            {"rows": count, "screened": other}
            for count, other in zip(trained, screened, strict=True)
        ],
        "cost": {
            "epochs": (3 * rows + sum(screened) + 5 * queries) / 600,
            "filling": 0.0,
            "teacher_ratio": 5.0 if queries else None,
        },
        "meters": {
            "samples_backpropagated": rows,
            "student_forwards": rows + sum(screened),
            "teacher_queries": queries,
        },
        "plans": "0" * 64,
    }


@pytest.mark.parametrize(("queries", "rows"), [(0, 150 + 90 / 3), (150, 150 + 90 / 8)])
def test_controls_at_equal_cost(queries, rows):
    """90 screened samples cost as much as 30 trained ones, or 11 with a live teacher."""
    run = costly((30, 60), queries=queries)
    rows = round(rows)
    policy = control_settings("random-cost", STUDENT, run, HERE)["student.policy"]
    assert sum(policy["counts"]) == rows
    short = control_settings("short-cost", STUDENT, run, HERE)
    assert short["student.training.epochs"] == pytest.approx(rows / 200)
    policy = control_settings("permuted-cost", STUDENT, run, HERE)["student.policy"]
    assert policy["folder"] == str(HERE / "plans")
    more = rows - 150
    assert policy["extra"] == [round(more / 3), more - round(more / 3)]
    assert policy["rows"] is None
    assert control_settings("permuted", STUDENT, run, HERE)["student.policy"]["extra"] == ()


def test_permuted_follows_the_learning_rate_of_a_limited_cost():
    """180 of 400 planned rows' cost: 150 trained ones and 90 screened."""
    recipe = override(load_recipe("digits"), {"student.regulation.cost": 0.45})
    run = costly((30, 60))
    policy = control_settings("permuted", recipe.student, run, HERE)["student.policy"]
    assert (policy["rows"], policy["screened"]) == (180, [30, 60])
    policy = control_settings("permuted-cost", recipe.student, run, HERE)["student.policy"]
    assert (policy["rows"], policy["screened"], policy["extra"]) == (150, [], [10, 20])


def test_controls_of_a_limited_training():
    """Given four epochs, it spends the cost of 1.8 over three."""
    recipe = override(load_recipe("digits"), {"student.cost": 0.45})
    run = {**costly((0, 30, 60), (200, 100, 30)), "epochs": 3.0}
    run["recipe"] = {"student": {"training": {"epochs": 4.0}}}

    def settings(control):
        return control_settings(control, recipe.student, run, HERE)

    for control in ("permuted", "permuted-cost", "random", "random-cost", "short", "short-cost"):
        assert settings(control)["student.cost"] is None
    assert settings("permuted")["student.training.epochs"] == 3
    policy = settings("permuted")["student.policy"]
    assert (policy["rows"], policy["screened"]) == (360, [0, 30, 60])
    policy = settings("permuted-cost")["student.policy"]
    assert (policy["rows"], policy["screened"], policy["extra"]) == (330, [], [0, 10, 20])
    assert settings("random-cost")["student.policy"]["counts"] == [90] * 4
    assert settings("short-cost")["student.training.epochs"] == 1.8
    recipe = override(recipe, {"student.mode": "significance"})  # its rates follow the epochs
    assert settings("permuted")["student.policy"]["rows"] is None


@pytest.mark.parametrize(
    ("control", "run", "says"),
    [
        ("random-cost", costly((900, 0)), "costs 112% of full distillation"),
        ("short-cost", {**costly((0, 0)), "cost": None}, "the cost .* is not known"),
        ("permuted", {**costly((0, 0)), "plans": None}, "recorded no plans: delete it"),
        ("permuted", results([100, 30], 200, 1.5), "the run's last one is a part"),
    ],
)
def test_what_cannot_be_matched(control, run, says):
    with pytest.raises(RecipeError, match=says):
        control_settings(control, STUDENT, run, HERE)


def test_permuted_has_the_learning_rate_of_its_arm():
    student = load_recipe("digits", ["student.regulation.budget=0.3"]).student
    settings = control_settings("permuted", student, costly((0, 0)), HERE)
    assert settings["student.policy"]["rows"] == pytest.approx(0.3 * 200 * 2)
