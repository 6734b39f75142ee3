"""Selective Backprop's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelectiveBackprop

ROWS = 20


def kept(policy, truth, seeds=1):
    """How often each row is kept."""
    seen, ids = Outcome(truth, truth > 0.5, truth), np.arange(len(truth))
    ledger = Ledger.new(len(truth))
    return np.array(
        [policy.needs_training(seen, ids, ledger, EpochContext(3, 9, s)) for s in range(seeds)]
    )


@pytest.mark.parametrize(("beta", "least"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.4), (0.0, 0.0)])
def test_a_row_is_kept_with_the_chance_of_its_percentile(beta, least):
    losses = np.random.default_rng(0).exponential(size=ROWS)
    percentile = np.array([((losses < x).sum() + 0.5) / ROWS for x in losses])
    found = kept(SelectiveBackprop(beta=beta, least=least), np.exp(-losses), 3000).mean(0)
    expected = np.maximum(least, percentile**beta)
    assert np.abs(found - expected).max() <= 4 * (0.25 / 3000) ** 0.5


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.5, 1.0])
def test_a_budget_keeps_its_part_the_worst_most_often(budget):
    losses = np.random.default_rng(0).exponential(size=ROWS)
    masks = kept(SelectiveBackprop(budget=budget), np.exp(-losses), 500)
    assert (masks.sum(1) == round(budget * ROWS)).all()
    often = masks.mean(0)[np.argsort(losses)]
    assert budget == 1 or often[:5].mean() < often[5:15].mean() < often[15:].mean()


@pytest.mark.heavy
def test_the_first_of_a_budget_is_drawn_in_proportion():
    # One row of four: percentiles 1/8, 3/8, 5/8, 7/8, cubed.
    chances = np.array([1, 3, 5, 7]) ** 3 / (1 + 27 + 125 + 343)
    truth = np.array([0.9, 0.8, 0.2, 0.1])
    found = kept(SelectiveBackprop(budget=0.25), truth, 4000).mean(0)
    assert np.abs(found - chances).max() <= 4 * (0.25 / 4000) ** 0.5


def test_a_tiny_budget_draws_on():
    masks = kept(SelectiveBackprop(budget=0.001), np.linspace(0.1, 0.9, 4000))
    assert masks.sum() == 4
    assert np.flatnonzero(masks[0]).max() < 100


def test_impossible_settings():
    for wrong in ({"beta": -1.0}, {"least": 1.5}, {"budget": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SelectiveBackprop(**wrong)
