"""What is paid once, and after how many students it has paid for itself: computed again by hand."""

from __future__ import annotations

import math

import pytest
from made_up import make_arm, make_comparison

from frugalkd.experiments.report.blocks import Table
from frugalkd.experiments.report.sections import costs, run_costs
from frugalkd.experiments.runs.schema import Comparison, Run


def teacher(name, budget, seconds, targets=None):
    return {"teacher": name, "accuracy": 0.9, "budget": budget, "wall_seconds": seconds,
            "targets": targets}  # fmt: skip


def tables(content):
    made = costs(Comparison.model_validate(content))
    return {block.caption: block.cells for block in made if isinstance(block, Table)}, made


def texts(rows):
    return [[cell.text.replace("\u00a0", " ") for cell in row] for row in rows]


@pytest.mark.parametrize(("conventional", "more"), [(80.0, 20.0), (25.0, -35.0), (60.0, 0.0)])
def test_ledger_and_store_pay_after_so_many_students(conventional, more):
    """Vanilla takes 40 s and reads 0.5 s from the store; hybrid a quarter of both."""
    arms = [
        make_arm("vanilla", 0.9, mode="vanilla"),
        make_arm("hybrid", 0.899, 0.25, mode="hybrid"),
    ]
    arms[1]["meters"]["phases"]["store"] = 0.1
    store = {"rows": 100, "seconds": 2.0}
    content = make_comparison(
        arms,
        teachers=[
            teacher("self-regulated", 0.35, 60.0, store),
            teacher("conventional", 1.0, conventional),
        ],
    )
    found, _ = tables(content)
    assert texts(found["Paid once, for all students"]) == [
        ["training the teacher self-regulated, and its ledger", "90.00", "35 % of its training",
         "60 s"],
        ["storing the soft targets of self-regulated", "", "100", "2 s"],
        ["training the teacher conventional, and its ledger", "90.00", "100 % of its training",
         f"{conventional:.0f} s"],
    ]  # fmt: skip
    paid = {row[0].text: row for row in found["When it has paid for itself"]}
    ledger = paid["the ledger of self-regulated, instead of conventional"]
    assert ledger[1].value == pytest.approx(60.0 - conventional)
    assert ledger[3].text == ("at once" if more >= 0 else "–")
    whole = paid["the whole teacher self-regulated, for its ledger: hybrid"]
    assert whole[2].value == pytest.approx(40.0 - 10.0)
    assert whole[3].value == math.ceil(60.0 / 30.0)
    # A live teacher takes 2 s for each 100 of vanilla's 1,000 rows, of hybrid's 250.
    vanilla = paid["the store of self-regulated, against querying live: vanilla"]
    assert vanilla[2].value == pytest.approx(1000 * 0.02 - 0.5)
    assert vanilla[3].text == "1 student"
    hybrid = paid["the store of self-regulated, against querying live: hybrid"]
    assert hybrid[2].value == pytest.approx(250 * 0.02 - 0.1)


def test_what_never_pays_is_sorted_last():
    slower = make_arm("significance", 0.899, 1.0, mode="significance")
    slower["meters"]["wall_seconds"] = 41.0
    arms = [make_arm("vanilla", 0.9, mode="vanilla"), slower]
    found, _ = tables(make_comparison(arms, teachers=[teacher("self-regulated", 0.35, 60.0)]))
    (row,) = found["When it has paid for itself"]
    assert [cell.text for cell in row[2:]] == ["-1\u00a0s", "never"]
    assert row[3].value is None  # the page sorts text behind numbers


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
    run = Run.model_validate(
        {"kind": kind, "digest": "d", "recipe": {}, "versions": {}, "seed": 0, "threads": 1,
         "split": "test", "train_samples": 100, "budget": 0.35, "meters": {"wall_seconds": 60.0},
         "targets": {"kind": "stored", "filled_here": True, "rows": 1437, "bytes": 29_124},
         "history": []}
    )  # fmt: skip
    table, note = run_costs(run)
    assert isinstance(table, Table)
    own = [["training this teacher, and its ledger", "35 % of its training, 60 s"]]
    assert texts(table.cells) == [
        *(own if kind == "teach" else []),
        ["rows stored", "1,437 by this run, 0.029 MB"],
    ]
    assert isinstance(note, str)
