"""Arms with teachers beside the recipe's own: who is trained for them, what they cost."""

from __future__ import annotations

from frugalkd.comparison import compare
from frugalkd.recipes.load import override
from frugalkd.runs.execute import teach


def test_several_teachers_and_the_students_own_average_are_arms(workers, tiny, tmp_path):
    teach(override(tiny, {"seed": 7}), tmp_path / "other")
    folder = str(tmp_path / "other")
    small = {"name": "mlp", "options": {"hidden": [32]}}
    weights = str(tmp_path / "other" / "teacher.safetensors")
    both = {"of": {"own": {}, "other": {"folder": folder}}}
    others = {"of": {"one": {"folder": folder}, "two": {"weights": weights, "model": small}}}
    arms = {
        "own": {"set": {"student.mode": "vanilla", "student.targets.kind": "ema"}},
        "both": {"set": {"student.mode": "vanilla", "student.teachers": both}},
        "others": {"set": {"student.mode": "vanilla", "student.teachers": others}},
    }
    recipe = override(tiny, {"arms": arms, "student.training.epochs": 2})
    alone = compare(recipe, arms=["own", "others"], seeds=1, out=tmp_path / "a")
    assert [key.kind for key in workers.started] == ["distill", "distill"]
    rows = {row["arm"]: row for row in alone["arms"]}
    assert {name: row["about"] for name, row in rows.items()} == dict.fromkeys(
        ("own", "others"), "no teacher of the recipe's"
    )
    workers.started.clear()
    comparison = compare(recipe, arms=["both"], seeds=1, out=tmp_path / "b")
    assert [key.kind for key in workers.started] == ["teach", "distill"]
    assert comparison["arms"][0]["accuracy"]["mean"] > 0.1
