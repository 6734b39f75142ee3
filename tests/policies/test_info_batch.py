"""InfoBatch's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EpochContext, InfoBatch


def ledger_of(losses) -> Ledger:
    ledger = Ledger.new(len(losses))
    ledger["loss"][:] = losses
    return ledger


def test_below_the_mean_a_part_is_skipped_the_rest_weighs_more():
    losses = np.array([0.1, 0.2, 0.3, 0.4, 9.0, np.nan])
    plan = InfoBatch(skip=0.5).plan(ledger_of(losses), np.arange(6), EpochContext(2, 20, 0))
    assert set(plan.ids) >= {4, 5}
    assert len(plan.ids) == 4
    assert plan.weights is not None
    assert dict(zip(plan.ids.tolist(), plan.weights.tolist(), strict=True)) == {
        id_: 1.0 if id_ >= 4 else 2.0 for id_ in plan.ids.tolist()
    }


def test_the_last_eighth_uses_everything():
    ledger = ledger_of(np.linspace(0, 1, 40))
    counts = [
        len(InfoBatch().plan(ledger, np.arange(40), EpochContext(e, 20, 0)).ids) for e in range(20)
    ]
    assert counts == [30] * 18 + [40] * 2


@pytest.mark.parametrize("skip", [0.3, 0.5, 0.9])
def test_the_expected_sum_of_losses_is_that_of_all(skip):
    losses = np.random.default_rng(0).exponential(size=200)
    ledger, policy = ledger_of(losses), InfoBatch(skip=skip)
    sums = []
    for seed in range(2000):
        plan = policy.plan(ledger, np.arange(200), EpochContext(3, 20, seed))
        assert plan.weights is not None
        sums.append((plan.weights * losses[plan.ids]).sum())
    assert np.mean(sums) == pytest.approx(losses.sum(), abs=4 * np.std(sums) / 2000**0.5)


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_budget_is_kept_to_a_row_an_epoch(budget):
    samples, epochs = 400, 20
    stream, ledger, spent = np.random.default_rng(1), Ledger.new(samples), 0
    policy = InfoBatch(budget=budget)
    for epoch in range(epochs):
        plan = policy.plan(ledger, np.arange(samples), EpochContext(epoch, epochs, 0))
        spent += len(plan.ids)
        ledger["loss"][plan.ids] = stream.exponential(size=len(plan.ids))
        if plan.weights is not None and budget >= 0.25:
            assert plan.weights.max() <= 10 + 1e-6
    assert spent == pytest.approx(budget * samples * epochs, abs=epochs)


def test_normalised_weights_keep_their_ratios_and_have_mean_1():
    ledger = ledger_of(np.random.default_rng(0).exponential(size=100))
    plain, even = (
        InfoBatch(budget=0.25, normalise=normalise).plan(
            ledger, np.arange(100), EpochContext(3, 20, 0)
        )
        for normalise in (False, True)
    )
    assert np.array_equal(plain.ids, even.ids)
    assert plain.weights is not None
    assert even.weights is not None
    assert even.weights.mean() == pytest.approx(1)
    assert even.weights * plain.weights.mean() == pytest.approx(plain.weights)


def test_impossible_settings():
    for wrong in ({"skip": 1.0}, {"most": -0.1}, {"anneal": 1.5}, {"budget": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InfoBatch(**wrong)  # pyright: ignore[reportArgumentType]
