"""The rule of IES, against a recount in plain Python; what holds of all is in test_registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, InstanceExclusion

SAMPLES, EPOCHS = 40, 14


def enter(policy, ledger, losses, ids, epoch, *, screening=False):
    """Enter an outcome of ``ids``, as a selection does."""
    truth = np.exp(-losses).astype(np.float32)
    seen = Outcome(truth, truth > 0.5, truth)
    for column, values in policy.update_columns(
        seen, ids, ledger, EpochContext(epoch, EPOCHS, 0)
    ).items():
        ledger[column][ids] = values
    failed = policy.needs_training(seen, ids, ledger, EpochContext(epoch, EPOCHS, 0))
    ledger.record(
        ids,
        epoch=epoch,
        confidence=truth,
        correct=seen.correct,
        failed=failed,
        screening=screening,
    )


def left_out(losses, window, threshold):
    """The published rule, of one sample's losses so far: it needs one second difference more than
    the mean is of."""
    bends = [abs(c - 2 * b + a) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return len(bends) >= window + 1 and np.mean(bends[-window:]) < threshold


@pytest.mark.parametrize("window", [1, 3, 4])
def test_a_sample_is_left_out_while_its_loss_does_not_bend(window):
    policy = InstanceExclusion(threshold=0.2, window=window)
    stream, ledger = np.random.default_rng(window), Ledger.new(SAMPLES, extra=policy.columns)
    pool, history, counts = np.arange(SAMPLES), {id: [] for id in range(SAMPLES)}, []
    trained = set(pool.tolist())
    for epoch in range(EPOCHS):
        losses = 1 + stream.random(SAMPLES) * stream.choice([0.05, 1.0], SAMPLES)
        plan = policy.plan(ledger, pool, EpochContext(epoch, EPOCHS, 0))
        assert set(plan.screen.tolist()) == set(pool.tolist()) - trained
        if len(plan.screen):
            enter(policy, ledger, losses[plan.screen], plan.screen, epoch, screening=True)
            for id in plan.screen.tolist():
                history[id].append(losses[id])
            plan = policy.plan(ledger, pool, EpochContext(epoch, EPOCHS, 0))
            assert not len(plan.screen)
        before = trained
        trained = set(plan.ids.tolist())
        assert trained == {id for id, past in history.items() if not left_out(past, window, 0.2)}
        # What comes back was screened already: its training is the same visit.
        enter(policy, ledger, losses[plan.ids] + 0.3 * (epoch > 5), plan.ids, epoch)
        for id in trained & before:
            history[id].append(losses[id] + 0.3 * (epoch > 5))
        counts.append(len(trained))
    assert counts[: window + 3] == [SAMPLES] * (window + 3)
    assert min(counts) < SAMPLES


def test_a_budget_keeps_open_histories_then_the_largest_means():
    policy = InstanceExclusion(window=2, budget=0.5)
    ledger = Ledger.new(8, extra=policy.columns)
    ledger["last_epoch"][:] = 4
    ledger["visits"][:] = [5, 5, 4, 9, 5, 5, 4, 5]
    ledger["bend_0"][:] = [0.1, 0.5, 0.0, 0.3, 0.0, 0.0, 9.0, 0.9]
    ledger["bend_1"][:] = [0.1, 0.0, 0.0, 0.3, 0.0, 0.4, 9.0, 0.0]
    plan = policy.plan(ledger, np.arange(8), EpochContext(5, 9, 0))
    assert sorted(plan.ids.tolist()) == [2, 3, 6, 7]
    ledger["visits"][:] = 0
    drawn = [policy.plan(ledger, np.arange(8), EpochContext(5, 9, s)).ids for s in range(400)]
    assert all(len(ids) == 4 for ids in drawn)
    assert np.bincount(np.concatenate(drawn)) == pytest.approx(200, abs=40)


def test_impossible_settings():
    wrongs: list[dict[str, Any]] = [
        {"threshold": -1.0},
        {"window": 0},
        {"window": 101},
        {"budget": 0.0},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InstanceExclusion(**wrong)
