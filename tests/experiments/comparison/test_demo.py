from __future__ import annotations

import pytest

from frugalkd.experiments.comparison import demo
from frugalkd.experiments.comparison.demo import ARMS, NOTE


@pytest.mark.slow
def test_the_demonstration_shows_what_it_is_to_show(tmp_path):
    comparison = demo(tmp_path)
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert tuple(rows) == ARMS
    assert comparison["failed"] == []
    assert NOTE in comparison["notes"]
    assert all(row["accuracy"]["mean"] > 0.9 for row in rows.values())
    assert rows["hybrid"]["budget"]["mean"] < 0.5
    assert rows["regulated"]["budget"]["mean"] < 0.5
    assert {teacher["teacher"] for teacher in comparison["teachers"]} == {
        "self-regulated",
        "conventional",
    }
    assert all(teacher["accuracy"] > 0.95 for teacher in comparison["teachers"])
    for control in ("random", "short"):
        assert rows[control]["matched"]["within_tolerance"]
