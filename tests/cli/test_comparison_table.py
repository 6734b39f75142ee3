"""A comparison as tables: everything fits, and what went wrong is said."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from frugalkd.cli.show import claims_table, comparison_table


def row(arm, about, *, failed=(), collapsed=0, matched=None, ci95=(0.801, 0.999)):
    return {
        "arm": arm,
        "about": about,
        "seeds": [0, 1, 2],
        "accuracy": {"mean": 0.9, "ci95": ci95 and list(ci95), "values": [0.8, 0.9, 1.0]},
        "difference": None if arm == "vanilla" else {"mean": -0.1, "ci95": [-0.211, 0.011]},
        "against_random": None,
        "budget": {"mean": 1.0},
        "budget_asked": None,
        "own_budget": False,
        "on_budget": None,
        "cost": {"mean": 24.0},
        "wall_ratio": {"mean": 1.0},
        "meters": {"wall_seconds": 61.4},
        "collapsed": collapsed,
        "failed": list(failed),
        "matched": matched,
    }


@pytest.fixture
def comparison():
    return {
        "name": "digits",
        "reference": "vanilla",
        "seeds": [0, 1, 2],
        "split": "test",
        "arms": [
            row("vanilla", "all, in every epoch"),
            row("significance", "all, weighted by teacher", failed=[1], collapsed=2),
            row("permuted:significance", "random", matched={"within_tolerance": False}),
            row("ce", "no teacher: labels only", ci95=None),
        ],
        "teachers": [{"teacher": "self-regulated", "accuracy": 0.972, "budget": 0.33}],
    }


def text_of(*tables) -> str:
    out = io.StringIO()
    for table in tables:
        Console(file=out, width=80).print(table)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "…" not in out.getvalue()
    return " ".join(out.getvalue().split())


def test_the_table_fits_80_columns(comparison):
    table = comparison_table(comparison)
    text = text_of(table)
    for cell in ("90.0 ±9.9", "-10.0 ±11.1", "24.0", "vanilla", "self-regulated", "97.2"):
        assert cell in text
    cells = [str(list(column.cells)[3]) for column in table.columns]
    assert cells == [
        "ce",
        "no teacher: labels only",
        "90.0",
        "-10.0 ±11.1",
        "100",
        "24.0",
        "61 (1.00)",
    ]


def test_what_went_wrong_is_in_the_table(comparison):
    _, significance, control, *_ = comparison_table(comparison).columns[1].cells
    assert "(1 of 3 failed) (1 of 3 collapsed)" in str(significance)
    assert "(not matched)" in str(control)


def test_the_worst_class_of_few_arms_is_shown(comparison):
    assert "worst class" not in text_of(comparison_table(comparison))
    for row_ in comparison["arms"]:
        row_["worst_class"] = {"mean": 0.512, "ci95": [0.5, 0.524]}
    assert "worst class, %: vanilla 51.2 ±1.2, " in text_of(comparison_table(comparison))
    comparison["arms"] *= 4
    assert "worst class" not in text_of(comparison_table(comparison))


def test_a_table_of_budgets_and_claims_fits_80_columns(comparison):
    for row_, budget in zip(comparison["arms"], (None, None, 0.25, 0.5), strict=True):
        row_["budget_asked"], row_["on_budget"] = budget, None if budget is None else budget > 0.3
        row_["against_random"] = {"mean": 0.0123, "ci95": [0.0, 0.0246]} if budget else None
    comparison["arms"][1]["own_budget"] = True
    comparison["arms"][2]["arm"] = "selective-backprop@0.25"
    comparison["claims"] = [
        {
            "arm": "selective-backprop@0.25",
            "against": "random@0.25",
            "claim": "better",
            "difference": {"mean": 0.0123, "ci95": [-0.001, 0.02]},
            "p_holm": 0.0731,
            "holds": False,
            "why": "the interval reaches 0; corrected p = 0.0731",
        }
    ]
    text = text_of(comparison_table(comparison), claims_table(comparison))
    for said in ("(off", "(own", "+1.2 ±1.2", "-0.10 to +2.00", "random"):
        assert said in text
