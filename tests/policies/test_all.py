"""Everything, every epoch."""

from __future__ import annotations

import numpy as np

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import All, EpochContext


def test_the_pool_is_the_plan():
    pool = np.array([1, 4, 6])
    plan = All().plan(Ledger.new(8), pool, EpochContext(3, 10, 0))
    assert np.array_equal(plan.ids, pool)
    assert plan.weights is plan.forced is None
    assert not len(plan.screen)
    assert plan.lr_factor == 1


def test_every_row_fails_and_no_sample_is_skipped():
    one = np.array([1.0], np.float32)
    assert (
        All()
        .needs_training(
            Outcome(one, one == 1, one), np.arange(1), Ledger.new(1), EpochContext(0, 1, 0)
        )
        .all()
    )
    assert not All().skip_epochs(np.array([3, 255], np.uint8)).any()
