"""The cost ratio at equal accuracy, against curves whose inverse is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_ratio import by_seed, cost_table, interval, ratio, ratios

COSTS = (1.5, 3, 6, 12, 24, 48)


def curve(cost):
    return 0.7 + 0.05 * math.log2(cost)


def comparison(factor, seeds=3):
    """The arm at cost T is as accurate as ``short`` at ``factor`` * T."""
    rows = []
    for name, costs, times in (("short", COSTS, 1), ("cost", (3, 6, 12), factor)):
        for cost in costs:
            values = [curve(times * cost) + 0.01 * seed for seed in range(seeds)]
            rows.append({
                "arm": f"{name}-{cost:g}", "seeds": list(range(seeds)),
                "accuracy": {"mean": sum(values) / seeds, "ci95": None, "values": values},
                "cost": {"mean": cost, "values": [cost] * seeds},
            })  # fmt: skip
    return {"arms": rows}


@given(st.floats(1.5, 48), st.floats(1, 20))
def test_a_log_linear_frontier_is_inverted_exactly(reached, cost):
    found = ratio({each: curve(each) for each in COSTS}, cost, curve(reached))
    assert found.value == pytest.approx(cost / reached, rel=1e-6)


def test_an_accuracy_outside_the_frontier_is_a_bound():
    short = {each: curve(each) for each in COSTS}
    assert ratio(short, 3, 0.999) == (3 / 48, "<")
    assert ratio(short, 3, 0.1) == (3 / 1.5, ">")


def test_a_frontier_that_falls_is_made_isotonic():
    assert ratio({1: 0.5, 2: 0.9, 4: 0.7, 8: 0.8}, 2, 0.8).value < 1.0001
    assert ratio({1: 0.5, 2: 0.9, 4: 0.7, 8: 0.8}, 2, 0.81).bound == "<"


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_ratios_of_all_costs_and_seeds(factor):
    found = ratios(comparison(factor), "cost")
    assert list(found) == [3, 6, 12]
    for each in found.values():
        assert [one.value for one in each.values()] == pytest.approx([1 / factor] * 3)
    assert by_seed(comparison(factor), "cost") == pytest.approx([1 / factor] * 3)


def test_the_mean_is_geometric_over_tasks():
    mean, low, high = interval([[0.5, 0.5], [2.0, 2.0, 2.0]])
    assert (mean, low, high) == pytest.approx((1.0, 1.0, 1.0))
    mean, low, high = interval([[0.4, 0.6, 0.5], [0.9, 1.1]])
    assert low < mean < high


def test_the_table_has_a_row_for_each_cost():
    table = cost_table({"a": comparison(2), "b": comparison(0.5)}, ["cost"])
    assert table.count("| a | `cost` |") == table.count("| b | `cost` |") == 3
    assert "| `cost` | 1.00 (1.00 – 1.00) | a 0.50, b 2.00 |" in table
