"""Points beside each other."""

from __future__ import annotations

import pytest

from frugalkd.experiments.report.figures import side_by_side


def test_equal_places_are_drawn_side_by_side():
    places = {"a": 25.0, "far": 100.0, "b": 25.1, "c": 24.9, "alone": 50.0}
    found = side_by_side(places)
    assert found["far"] == 100
    assert found["alone"] == 50
    assert found["a"] < found["b"] < found["c"]  # in their order, not by a chance of a thousandth
    assert found["c"] - found["b"] == pytest.approx(1)
    assert sum(found[name] for name in "abc") / 3 == pytest.approx(25)
    many = side_by_side({str(k): 50.0 for k in range(20)} | {"far": 100.0})
    own = [place for name, place in many.items() if name != "far"]
    assert max(own) - min(own) == pytest.approx(3)  # however many they are
    assert side_by_side({"a": 0.0}) == {"a": 0.0}


def test_a_crowd_stays_near_its_places():
    places = {str(k): 10 + k / 10 for k in range(900)}  # each within a hundredth of the next
    found = side_by_side(places)
    assert max(abs(found[name] - places[name]) for name in places) < 2.5
