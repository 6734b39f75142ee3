"""A mistyped path of a feature is refused before anything is trained."""

from __future__ import annotations

import pytest

from frugalkd import compare
from frugalkd.errors import ModelError
from frugalkd.experiments.comparison import resolve_arms
from frugalkd.experiments.comparison.run import check_feature_paths
from frugalkd.experiments.recipes.load import override

HINTS = {"student.targets.kind": "live", "student.mode": "vanilla"}


def hints(tiny, student, teacher):
    objective = {"name": "fitnets", "student": student, "teacher": teacher}
    return override(tiny, {"arms.hints": {"set": {**HINTS, "student.objective": objective}}})


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (
            "layers.nine",
            "layers.1",
            "the student has no module 'layers.nine': did you mean",
        ),
        (
            "layers.1",
            "layers.nine",
            "the teacher has no module 'layers.nine': did you mean",
        ),
    ],
)
def test_a_missing_path_is_named_before_any_run(tiny, workers, tmp_path, student, teacher, said):
    recipe = hints(tiny, student, teacher)
    with pytest.raises(ModelError) as raised:
        compare(recipe, arms=["vanilla", "hints"], seeds=1, out=tmp_path / "out", jobs=1)
    assert str(raised.value).startswith(f"arm hints: {said}")
    assert workers.started == []
    assert not (tmp_path / "out").exists()


def test_only_arms_with_features_build_models(tiny, monkeypatch):
    check_feature_paths(resolve_arms(hints(tiny, "layers.1", "layers.1"), ["hints"]))
    monkeypatch.setattr("frugalkd.experiments.comparison.run.make_data", None)
    check_feature_paths(resolve_arms(tiny, ["vanilla", "regulated"]))
