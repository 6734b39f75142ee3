from __future__ import annotations

import io

import pytest
from rich.console import Console

from frugalkd.comparison import comparison_table, markdown_table


def row(arm, about, *, failed=(), collapsed=0, matched=None, ci95=(0.801, 0.999)):
    return {
        "arm": arm,
        "about": about,
        "seeds": [0, 1, 2],
        "accuracy": {"mean": 0.9, "ci95": ci95 and list(ci95), "values": [0.8, 0.9, 1.0]},
        "difference": None if arm == "vanilla" else {"mean": -0.1, "ci95": [-0.211, 0.011]},
        "budget": {"mean": 1.0},
        "forwards": {"mean": 1.234},
        "wall_ratio": {"mean": 1.0},
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
            row("random-counts:significance", "random", matched={"within_tolerance": False}),
            row("ce", "no teacher: labels only", ci95=None),
        ],
        "teachers": [{"teacher": "self-regulated", "accuracy": 0.972, "budget": 0.33}],
    }


def test_the_table_fits_80_columns(comparison):
    out = io.StringIO()
    Console(file=out, width=80).print(comparison_table(comparison))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = out.getvalue()
    assert "…" not in text
    for cell in ("90.0 ±9.9", "-10.0 ±11.1", "123", "vanilla", "self-regulated", "97.2"):
        assert cell in text


def test_what_went_wrong_is_in_the_table(comparison):
    text = markdown_table(comparison)
    assert "(1 of 3 FAILED) (1 of 3 COLLAPSED)" in text
    assert "(NOT MATCHED)" in text


def test_markdown_rows_have_the_headings_width(comparison):
    lines = [line for line in markdown_table(comparison).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 + 1
    assert {line.count("|") for line in lines} == {8}
    assert "| ce | no teacher: labels only | 90.0 | -10.0 ±11.1 | 100 | 123 | 1.00 |" in lines
