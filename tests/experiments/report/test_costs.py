"""What is paid once, computed again by hand."""

from __future__ import annotations

import pytest
from made_up import make_arm, make_comparison

from frugalkd.experiments.report.blocks import Table
from frugalkd.experiments.report.sections import costs, run_costs
from frugalkd.experiments.runs.schema import Comparison, RunRecord


def teacher(name, budget, seconds, targets=None):
    return {"teacher": name, "accuracy": 0.9, "budget": budget, "wall_seconds": seconds,
            "targets": targets}  # fmt: skip


def tables(content):
    made = costs(Comparison.model_validate(content))
    return {block.caption: block.cells for block in made if isinstance(block, Table)}, made


def texts(rows):
    return [[cell.text.replace("\u00a0", " ") for cell in row] for row in rows]


def test_teachers_and_their_stores_are_listed():
    content = make_comparison(
        [make_arm("vanilla", 0.9, mode="vanilla")],
        teachers=[
            teacher("self-regulated", 0.35, 60.0, {"rows": 100, "seconds": 2.0}),
            teacher("conventional", 1.0, 80.0),
        ],
    )
    found, _ = tables(content)
    assert texts(found["Paid once, for all students"]) == [
        ["training the teacher self-regulated, and its ledger", "90.00", "35 % of its training",
         "60 s"],
        ["storing the soft targets of self-regulated", "", "100", "2 s"],
        ["training the teacher conventional, and its ledger", "90.00", "100 % of its training",
         "80 s"],
    ]  # fmt: skip


def test_a_scoring_run_is_listed_once():
    scoring = {"kind": "el2n", "samples_backpropagated": 500, "wall_seconds": 12.0}
    arms = [make_arm("vanilla", 0.9, mode="vanilla")]
    arms += [make_arm(f"el2n@{at}", 0.8, at, budget_asked=at, scoring=scoring) for at in (0.1, 0.5)]
    found, _ = tables(make_comparison(arms, teachers=[]))
    assert texts(found["Paid once, for all students"]) == [
        ["the scoring run of el2n (el2n)", "", "500", "12 s"]
    ]
    _, made = tables(make_comparison(arms[:1], teachers=[]))
    assert made == ["No teacher was trained and no store was filled for these runs."]


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_a_single_run_says_what_it_paid(kind):
    run = RunRecord.model_validate(
        {"kind": kind, "digest": "d", "recipe": {}, "versions": {}, "seed": 0, "threads": 1,
         "split": "test", "train_samples": 100, "budget": 0.35, "meters": {"wall_seconds": 60.0},
         "targets": {"kind": "stored", "filled_here": True, "rows": 1437, "bytes": 29_124},
         "history": []}
    )  # fmt: skip
    (table,) = run_costs(run)
    assert isinstance(table, Table)
    own = [["training this teacher, and its ledger", "35 % of its training, 60 s"]]
    assert texts(table.cells) == [
        *(own if kind == "teach" else []),
        ["rows stored", "1,437 by this run, 0.029 MB"],
    ]
