"""SwiftLearn's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SwiftLearn

SAMPLES = 60


def enter(policy, ledger, ids, at, losses):
    truth = np.exp(-losses).astype(np.float32)
    seen = Outcome(truth, truth > 0.5, truth)
    for column, values in policy.update_columns(seen, ids, ledger, at).items():
        ledger[column][ids] = values
    failed = np.ones(len(ids), dtype=bool)
    ledger.record(
        ids,
        epoch=at.epoch,
        confidence=truth,
        correct=seen.correct,
        failed=failed,
        screening=False,
    )


def train(policy, epochs, seed=0):
    """The ids and the screened of each epoch, where losses are new at every visit."""
    stream, ledger = np.random.default_rng(seed), Ledger.new(SAMPLES, extra=policy.columns)
    pool, trained, screened = np.arange(SAMPLES), [], []
    for epoch in range(epochs):
        at = EpochContext(epoch, epochs, seed)
        plan = policy.plan(ledger, pool, at)
        screened.append(len(plan.screen))
        if len(plan.screen):
            found = stream.exponential(size=len(plan.screen))
            enter(policy, ledger, plan.screen, at, found)
            assert ledger["importance"] == pytest.approx(found, rel=1e-4, abs=1e-6)
            plan = policy.plan(ledger, pool, at)
        enter(policy, ledger, plan.ids, at, stream.exponential(size=len(plan.ids)))
        trained.append(sorted(plan.ids.tolist()))
    return trained, screened


def test_a_subset_stays_from_one_refresh_to_the_next():
    trained, screened = train(SwiftLearn(fraction=0.25, warmup=2, refresh=3), 10)
    assert [len(ids) for ids in trained] == [60, 60] + [15] * 8
    assert [epoch for epoch in range(10) if screened[epoch]] == [2, 5, 8]
    assert set(screened) == {0, SAMPLES}
    for epoch in range(3, 10):
        assert (trained[epoch] == trained[epoch - 1]) == (epoch not in (5, 8))


def test_the_chance_to_be_drawn_first_is_the_importance():
    losses, pool = np.linspace(0, 2, SAMPLES), np.arange(SAMPLES)
    policy = SwiftLearn(fraction=1 / SAMPLES)
    ledger, counts = Ledger.new(SAMPLES, extra=policy.columns), np.zeros(SAMPLES)
    enter(policy, ledger, pool, EpochContext(1, 9, 0), losses)
    for seed in range(3000):
        counts[policy.plan(ledger, pool, EpochContext(1, 9, seed)).ids] += 1
    chances = losses / losses.sum()
    assert np.abs(counts / 3000 - chances).max() <= 4 * (chances.max() / 3000) ** 0.5


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        (0.5, [60] + [27] * 9),  # 300 rows: 60, and 26.7 in each of nine epochs
        (0.1, [6] * 10),  # half of one epoch pays for no warm-up
    ],
)
def test_the_warmup_is_paid_from_the_budget(budget, counts):
    trained, screened = train(SwiftLearn(budget=budget), 10)
    assert [len(ids) for ids in trained] == counts
    assert [epoch for epoch in range(10) if screened[epoch]] == [1, 6]


def test_impossible_settings():
    wrongs: list[dict[str, Any]] = [
        {"fraction": 0.0},
        {"warmup": 0},
        {"refresh": 0},
        {"budget": 1.1},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SwiftLearn(**wrong)
