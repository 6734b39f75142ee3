from __future__ import annotations

import random
from statistics import median

import pytest

from benchmarks.timing import Arm, Case, Figure, Measurement, Ratio
from benchmarks.timing.summary import spread, summarise, summarise_figures
from frugalkd.experiments.recipes.load import load_recipe, override

MACHINE = {"started": "now", "load": [1.0], "cpu": "one", "commit": "abc"}


def record(seconds, budget=1.0, part=None, accuracy=None, **more):
    return {"seconds": seconds, "budget": budget, "accuracy": accuracy,
            "tasks": [{"part": part}], "machine": MACHINE, **more}  # fmt: skip


def case(*ratios):
    arms = [Arm("x", "distill"), Arm("y", "distill"), Arm("t", "teach")]
    return Case("some", "summary", "an hour", "digits", arms, ratios)


def summary(records, *ratios, fillings=None, failed=None):
    recipe = override(
        load_recipe("digits"), {"student.training.epochs": 12, "teacher.training.epochs": 6}
    )
    recipes = dict.fromkeys("xyt", recipe)
    records = {"x": [], "y": [], "t": [], **records}
    return summarise(case(*ratios), recipes, records, fillings or {}, failed or {}, False)


@pytest.mark.heavy
def test_ratios_use_the_rounds_of_both_arms():
    rng = random.Random(0)
    for _ in range(50):
        rounds = rng.randint(1, 7)
        runs = {
            name: [
                record(rng.uniform(1, 9), rng.uniform(0.1, 1), rng.choice([None, 3]))
                if rng.random() < 0.8 else None
                for _ in range(rounds)
            ]
            for name in "xy"
        }  # fmt: skip
        plain, per_budget = Ratio("x", "y"), Ratio("y", "x", per_budget=True)
        content = summary(runs, plain, per_budget)
        expected, of_budget = [], []
        for x, y in zip(runs["x"], runs["y"], strict=True):
            if x is None or y is None:
                continue
            seconds = {
                name: run["seconds"] * (4 if run["tasks"][0]["part"] else 1)
                for name, run in (("x", x), ("y", y))
            }
            expected.append(seconds["x"] / seconds["y"])
            of_budget.append(seconds["y"] / seconds["x"] / y["budget"])
        for ratio, values in zip(content["ratios"], (expected, of_budget), strict=True):
            if not values:
                assert ratio["value"] is None
                continue
            assert ratio["value"]["n"] == len(values)
            for name, function in (("median", median), ("min", min), ("max", max)):
                assert ratio["value"][name] == pytest.approx(function(values))


@pytest.mark.parametrize(
    ("at_most", "must", "aim", "reached"),
    [
        (False, 2, 3, {"must": True, "aim": False}),
        (False, 2.5, None, {"must": True, "aim": None}),
        (True, 2.5, 2, {"must": True, "aim": False}),
        (True, 2.4, 1, {"must": False, "aim": False}),
    ],
)
def test_bounds_apply_to_the_median(at_most, must, aim, reached):
    runs = {"x": [record(1), record(5), record(9)], "y": [record(2)] * 3}
    (ratio,) = summary(runs, Ratio("x", "y", must, aim, at_most))["ratios"]
    assert ratio["value"]["median"] == 2.5
    assert ratio["reached"] == reached


def test_an_arm():
    meters = {"samples_backpropagated": 500, "student_forwards": 600, "teacher_queries": 7,
              "phases": {"forward": 2.0}, "peak_memory_bytes": {"process": 11}}  # fmt: skip
    other = {**meters, "teacher_queries": 9, "phases": {"backward": 1.0}}
    content = summary(
        {
            "x": [record(3, 0.4, accuracy=0.8, meters=meters), None, record(5, 0.6, meters=other)],
            "t": [record(3, part=2)],
        },
        fillings={"x": {"rows": 1}},
        failed={"1-x": "so"},
    )
    x, y, t = content["arms"]
    assert [run["round"] for run in x["runs"]] == [0, 2]
    assert x["seconds"] == {"median": 4, "min": 3, "max": 5, "n": 2}
    assert x["seconds_per_1000"] == {"median": 8, "min": 6, "max": 10, "n": 2}
    assert x["accuracy"] == {"median": 0.8, "min": 0.8, "max": 0.8, "n": 1}
    assert x["meters"]["teacher_queries"] == 8
    assert x["meters"]["phases"] == {"forward": 1.0, "backward": 0.5}
    assert x["filling_apart"] == {"rows": 1}
    assert y["seconds"] is y["meters"] is None
    assert t["runs"][0]["epochs"] == 6  # of the teacher
    assert t["seconds"]["median"] == 9
    assert content["machines"] == [{"cpu": "one", "commit": "abc"}]
    assert content["failed"] == [{"run": "1-x", "error": "so"}]


def test_figures():
    figures = [Figure("size", "bytes", 20, at_most=True), Figure("speed", "rows/s", 5, 8)]
    measured = {"samples": 3, "size": 21, "speed": 6, "runs": {"speed": [9, 6, 1]},
                "machine": MACHINE}  # fmt: skip
    content = summarise_figures(
        Measurement("m", "s", "t", 3, 1, figures), measured, failed={}, quick=False
    )
    size, speed = content["figures"]
    assert size["value"] == {"median": 21, "min": 21, "max": 21, "n": 1}
    assert size["reached"] == {"must": False, "aim": None}
    assert speed["value"] == {"median": 6, "min": 1, "max": 9, "n": 3}
    assert speed["reached"] == {"must": True, "aim": False}


def test_spread_without_values():
    assert spread([]) is None
