"""EL2N's and Forgetting's own rule: the highest of a score; more of them is in test_registry."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EL2N, EpochContext, Forgetting, Scoring


def ledger_of(scores) -> Ledger:
    ledger = Ledger.new(len(scores), extra={"score": "float32"})
    ledger["score"][:] = scores
    return ledger


@pytest.fixture(params=[EL2N, Forgetting])
def kind(request):
    return request.param


def test_the_highest_scores_train_in_every_epoch(kind):
    ledger = ledger_of([0.3, 1.2, np.inf, 0.1, 0.9, 0.2])
    for epoch in range(3):
        plan = kind(budget=0.5).plan(ledger, np.arange(6), EpochContext(epoch, 10, epoch))
        assert sorted(plan.ids) == [1, 2, 4]
        assert plan.weights is None


def test_a_budget_is_of_all_samples_and_the_pool_may_be_smaller(kind):
    ledger = ledger_of(np.arange(10.0))
    at = EpochContext(0, 10, 0)
    assert sorted(kind(budget=0.3).plan(ledger, np.arange(0, 10, 2), at).ids) == [4, 6, 8]
    assert sorted(kind(budget=0.9).plan(ledger, np.array([1, 5]), at).ids) == [1, 5]
    assert list(kind(budget=0.01).plan(ledger, np.arange(10), at).ids) == [9]
    assert kind().at_budget(0.1) == kind(budget=0.1)


def test_ties_are_drawn_from_the_seed_and_not_from_the_epoch(kind):
    ledger = ledger_of(np.r_[np.zeros(200), np.ones(10)])

    def chosen(epoch, seed):
        return set(kind(budget=0.2).plan(ledger, np.arange(210), EpochContext(epoch, 10, seed)).ids)

    assert chosen(0, 1) == chosen(7, 1) != chosen(0, 2)
    assert chosen(0, 1) >= set(range(200, 210))
    assert max(chosen(0, 1) - set(range(200, 210))) > 100  # not the first ones


def test_the_scoring_is_the_policys_own(kind):
    name = {EL2N: "el2n", Forgetting: "forgetting"}[kind]
    assert kind(epochs=1.5, seeds=4).scoring == Scoring(name, 1.5, 4)


def test_impossible_settings(kind):
    for wrong in ({"budget": 0.0}, {"budget": 1.1}, {"epochs": 0.0}, {"seeds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kind(**wrong)
