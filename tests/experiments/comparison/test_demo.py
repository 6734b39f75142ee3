from __future__ import annotations

import pytest

from frugalkd.experiments.comparison import demo
from frugalkd.experiments.comparison.run import DEMO_ARMS, DEMO_NOTE


@pytest.mark.heavy
def test_the_demonstration_in_short(workers, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("frugalkd.experiments.comparison.run.load_recipe", lambda name: tiny)
    monkeypatch.setattr("frugalkd.experiments.comparison.run.DEMO_SEEDS", 1)
    comparison = demo(tmp_path)
    assert tuple(row["arm"] for row in comparison["arms"]) == DEMO_ARMS
    assert comparison["failed"] == []
    assert DEMO_NOTE in comparison["notes"]
    teachers = {teacher["teacher"] for teacher in comparison["teachers"]}
    assert teachers == {"self-regulated", "conventional"}


@pytest.mark.heavy
def test_the_demonstration(tmp_path):
    comparison = demo(tmp_path)
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert tuple(rows) == DEMO_ARMS
    assert comparison["failed"] == []
    assert DEMO_NOTE in comparison["notes"]
    assert all(row["accuracy"]["mean"] > 0.9 for row in rows.values())
    assert rows["hybrid"]["budget"]["mean"] < 0.5
    assert rows["regulated"]["budget"]["mean"] < 0.5
    assert {teacher["teacher"] for teacher in comparison["teachers"]} == {
        "self-regulated",
        "conventional",
    }
    assert all(teacher["accuracy"] > 0.95 for teacher in comparison["teachers"])
    assert 0.4 < rows["cost"]["cost"]["mean"] / rows["vanilla"]["cost"]["mean"] <= 0.51
    for control in ("random-cost", "short-cost"):
        assert rows[control]["matched"]["within_tolerance"]
