"""KAKURENBO's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, Kakurenbo


def ledger_of(truth, correct, epoch=3):
    """A ledger after a visit of everything in ``epoch``; the top is the label's or a bit more."""
    policy, ledger, ids = Kakurenbo(), Ledger.new(len(truth)), np.arange(len(truth))
    truth = np.asarray(truth, np.float32)
    top = np.where(correct, truth, 0.99).astype(np.float32)
    seen = Outcome(top, np.asarray(correct), truth)
    for column, values in policy.update_columns(
        seen, ids, ledger, EpochContext(epoch, 20, 0)
    ).items():
        ledger.columns[column] = values
    failed = np.ones(len(ids), dtype=bool)
    ledger.record(
        ids, epoch=epoch, confidence=top, correct=seen.correct, failed=failed, screening=False
    )
    return ledger


def test_the_lowest_losses_are_hidden_if_right_and_sure():
    truth = np.array([0.99, 0.98, 0.97, 0.96, 0.69, 0.5, 0.4, 0.3, 0.2, 0.1])
    correct = np.array([True, True, False, True, True, True, True, False, False, False])
    ledger = ledger_of(truth, correct)
    at = EpochContext(4, 20, 0)

    def hidden(fraction):
        plan = Kakurenbo(fraction=fraction).plan(ledger, np.arange(10), at)
        assert not len(plan.screen)
        assert plan.lr_factor == pytest.approx(10 / len(plan.ids))
        return sorted(set(range(10)) - set(plan.ids.tolist()))

    assert hidden(0.0) == []
    assert hidden(0.3) == [0, 1]  # the third lowest is wrong
    assert hidden(0.4) == [0, 1, 3]
    assert hidden(0.9) == [0, 1, 3]  # the next is not sure
    plan = Kakurenbo(fraction=0.9, confidence=0.0).plan(ledger, np.arange(10), at)
    assert sorted(plan.ids.tolist()) == [2, 7, 8, 9]


def test_what_may_be_hidden_decays_as_published():
    """At epochs 60, 120 and 160 of 200."""
    truth, epochs = np.linspace(0.8, 0.99, 100), 20
    counts = []
    for epoch in range(epochs):
        ledger = ledger_of(truth, np.ones(100, bool), max(0, epoch - 1))
        if epoch == 0:
            ledger = Ledger.new(100, extra=Kakurenbo().columns)
        plan = Kakurenbo(fraction=0.5).plan(ledger, np.arange(100), EpochContext(epoch, epochs, 0))
        counts.append(100 - len(plan.ids))
    assert counts == [0, *[50] * 5, *[40] * 6, *[30] * 4, *[20] * 4]


def test_the_hidden_are_screened_before_the_next_decision():
    ledger = ledger_of(np.full(10, 0.9), np.ones(10, bool))
    ledger["last_epoch"][:4] = 2  # hidden in epoch 3
    ledger["last_epoch"][4] = 3  # screened before epoch 3, and hidden again
    ledger["flags"][4] |= 2
    plan = Kakurenbo().plan(ledger, np.arange(10), EpochContext(4, 20, 0))
    assert plan.screen.tolist() == [0, 1, 2, 3, 4]
    assert plan.ids.tolist() == [5, 6, 7, 8, 9]
    ledger["last_epoch"][:5], ledger["flags"][:5] = 4, 3
    plan = Kakurenbo().plan(ledger, np.arange(10), EpochContext(4, 20, 0))
    assert (len(plan.ids), len(plan.screen)) == (7, 0)


def test_it_cannot_be_made_to_spend_a_budget():
    assert Kakurenbo().at_budget(0.5) is None


def test_impossible_settings():
    for wrong in ({"fraction": 1.0}, {"confidence": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Kakurenbo(**wrong)
