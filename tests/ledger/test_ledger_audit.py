"""The ranking of labels, and what is said about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frugalkd.errors import LedgerError
from frugalkd.ledger.audit import ranked, refused, scores, suspects
from frugalkd.ledger.dynamics import LEARNED
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.summary import summarise


def audited(samples=9) -> Any:
    ledger = Ledger.new(samples, labels=np.arange(samples) % 3, dynamics=True)
    stream = np.random.default_rng(0)
    ledger["counted"][:], ledger["confidence"][:] = 4, 0.5
    ledger["margin"][:] = stream.normal(size=samples)
    ledger["probability"][:] = stream.random(samples)
    ledger["other"][:] = (np.arange(samples) + 1) % 3
    ledger.epochs, ledger.about = 4.0, {"classes": "ant\nbee\ncat", "data": "d" * 64}
    return ledger


def test_the_lowest_margin_comes_first():
    ledger = audited(200)
    ledger["confidence"][:] = 0.3
    assert ranked(ledger).tolist() == np.argsort(ledger["margin"], kind="stable").tolist()
    assert refused(ledger) == (ledger["margin"] < 0).sum()


def test_the_score_is_that_of_the_margin_and_of_the_last_visit():
    ledger = audited(101)
    ledger["margin"][:], ledger["confidence"][:] = np.linspace(-50, 50, 101), 0.5
    ledger["flags"][:] = LEARNED
    assert scores(ledger) == pytest.approx(np.linspace(-50, 50, 101) / 34), "the middle 68 %"
    ledger["margin"][0], ledger["flags"][[2, 50]] = -1e6, 0
    ledger["confidence"][50] = 0.8
    assert scores(ledger)[[2, 50]] == pytest.approx([-48 / 34 - 0.75, -1.2]), "despite an outlier"
    assert ranked(ledger)[:5].tolist() == [0, 2, 1, 3, 4]
    assert ranked(ledger).tolist().index(50) == 10
    ledger["confidence"][2] = np.nan
    assert ranked(ledger, 3).tolist() == [0, 1, 2], "as if it had none"
    ledger["margin"][:] = 2
    assert scores(ledger)[[1, 50]] == pytest.approx([2, 0.8]), "equal margins"
    ledger["counted"][:] = 0
    assert np.isnan(scores(ledger)).all()
    assert not len(ranked(ledger))


@pytest.mark.parametrize("top", [1, 5, 199, 200, 900])
def test_the_first_ones_are_those_of_all(top):
    ledger = audited(200)
    ledger["margin"][:] = np.round(ledger["margin"], 1)  # many are equal
    assert ranked(ledger, top).tolist() == ranked(ledger)[:top].tolist()


def test_of_equal_margins_the_less_probable_comes_first():
    ledger = audited(4)
    ledger["margin"][:] = [0, -1, -1, -1]
    ledger["probability"][:] = [0, 0.5, 0.2, 0.5]
    assert ranked(ledger).tolist() == [2, 1, 3, 0]


def test_samples_that_were_never_visited_are_left_out():
    ledger = audited(6)
    ledger["counted"][[1, 4]], ledger["margin"][[1, 4]] = 0, np.nan
    assert sorted(ranked(ledger)) == [0, 2, 3, 5]
    assert refused(ledger) == (ledger["margin"][[0, 2, 3, 5]] < 0).sum()


def test_suspects_are_named():
    ledger = audited(3)
    ledger["margin"][:] = [-2.5, 1, 2]
    ledger["probability"][0], ledger["variability"][0] = 0.125, 0.0625
    ledger["other"][1], ledger["flags"][1], ledger["first_learned"][1] = 65535, 4, 2
    first, second, _ = suspects(ledger, np.arange(3))
    assert first == {
        "id": 0, "given": "ant", "suggested": "bee", "score": -2.384, "margin": -2.5,
        "probability": 0.125, "variability": 0.0625, "counted": 4, "first_learned": None,
        "forgotten": 0, "accepted": False,
    }  # fmt: skip
    assert (second["suggested"], second["accepted"], second["first_learned"]) == (None, True, 2)
    ledger.about, ledger.labels = {}, None
    assert suspects(ledger, np.arange(1))[0]["given"] is None
    assert suspects(ledger, np.arange(1))[0]["suggested"] == "1"


def test_a_ledger_without_training_dynamics_says_what_to_do():
    with pytest.raises(LedgerError, match=r"no training dynamics.*teacher\.dynamics"):
        ranked(Ledger.new(3))


def test_a_summary_has_the_first_suspects():
    ledger = audited(9)
    found = summarise(ledger, 2, 3)
    assert found["refused"] == refused(ledger)
    assert [row["id"] for row in found["suspects"]] == ranked(ledger)[:3].tolist()
    assert found["suspects"][0].keys() == {
        "id",
        "given",
        "suggested",
        "score",
        "margin",
        "probability",
    }
    plain = Ledger.new(3)
    plain.epochs = 1.0
    assert "refused" not in summarise(plain)
