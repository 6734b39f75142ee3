"""Progressive Data Dropout's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, ProgressiveDataDropout

TRUTH = np.array([0.1, 0.29, 0.3, 0.9, np.nan, 0.2, 0.6, 0.31], np.float32)


def admitted(policy, at):
    seen = Outcome(TRUTH, TRUTH > 0.5, TRUTH)
    return np.flatnonzero(policy.needs_training(seen, np.arange(8), Ledger.new(8), at)).tolist()


def test_the_label_gets_less_than_the_threshold():
    assert admitted(ProgressiveDataDropout(), EpochContext(2, 10, 0)) == [0, 1, 4, 5]
    assert admitted(ProgressiveDataDropout(threshold=0.31), EpochContext(2, 10, 0)) == [
        0,
        1,
        2,
        4,
        5,
    ]


@pytest.mark.parametrize(
    ("final_full_epochs", "epochs", "full"),
    [(1, 10, [9]), (0, 10, []), (3, 10, [7, 8, 9]), (1, 2.5, [2])],
)
def test_the_last_epochs_train_on_everything(final_full_epochs, epochs, full):
    policy, pool = ProgressiveDataDropout(final_full_epochs=final_full_epochs), np.arange(8)
    plans = [
        policy.plan(Ledger.new(8), pool, EpochContext(e, epochs, 0)) for e in range(int(epochs))
    ]
    plans += [policy.plan(Ledger.new(8), pool, EpochContext(2, epochs, 0))] if epochs == 2.5 else []
    assert all(len(plan.ids) == 8 for plan in plans)
    forced = [e for e, plan in enumerate(plans) if plan.forced is not None and plan.forced.all()]
    assert forced == full


def test_a_budget_keeps_the_lowest_and_pays_the_finale():
    # 10 epochs at half: one is full, the others keep 4 of 9 parts, 3.6 of 8 rows.
    policy = ProgressiveDataDropout(budget=0.5)
    counts = []
    for seed in range(2000):
        kept = admitted(policy, EpochContext(2, 10, seed))
        assert set(kept) in ({4, 0, 5}, {4, 0, 5, 1})
        counts.append(len(kept))
    assert np.mean(counts) == pytest.approx(8 * 4 / 9, abs=0.05)
    # A tenth of ten epochs pays for no full one.
    poor = ProgressiveDataDropout(budget=0.1)
    assert poor.plan(Ledger.new(8), np.arange(8), EpochContext(9, 10, 0)).forced is None


def test_impossible_settings():
    wrongs: list[dict[str, Any]] = [{"threshold": 0.0}, {"final_full_epochs": -1}, {"budget": 2.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ProgressiveDataDropout(**wrong)
