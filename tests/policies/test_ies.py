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


def bends(losses, smoothing):
    """Absolute second differences of the moving average of one sample's losses."""
    average = [losses[0]]
    for loss in losses[1:]:
        average.append(smoothing * average[-1] + (1 - smoothing) * loss)
    return [abs(c - 2 * b + a) for a, b, c in zip(average, average[1:], average[2:], strict=False)]


@pytest.mark.parametrize(("window", "smoothing"), [(1, 0.0), (3, 0.5), (4, 0.9)])
def test_a_sample_is_left_out_while_its_loss_does_not_bend(window, smoothing):
    policy = InstanceExclusion(threshold=0.2, window=window, smoothing=smoothing)
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
        expected = {
            id
            for id, past in history.items()
            if len(past) < window + 2 or sum(bends(past, smoothing)[-window:]) >= 0.2
        }
        assert trained == expected
        # What comes back was screened already: its training is the same visit.
        enter(policy, ledger, losses[plan.ids] + 0.3 * (epoch > 5), plan.ids, epoch)
        for id in trained & before:
            history[id].append(losses[id] + 0.3 * (epoch > 5))
        counts.append(len(trained))
    assert counts[: window + 2] == [SAMPLES] * (window + 2)
    assert min(counts) < SAMPLES


def test_a_budget_keeps_open_histories_then_the_largest_sums():
    policy = InstanceExclusion(window=2, smoothing=0.0, budget=0.5)
    ledger = Ledger.new(8, extra=policy.columns)
    ledger["last_epoch"][:] = 4
    ledger["visits"][:] = [4, 4, 3, 9, 4, 4, 3, 4]
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
        {"smoothing": 1.0},
        {"budget": 0.0},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InstanceExclusion(**wrong)
