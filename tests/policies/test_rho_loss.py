"""RHO-Loss's own rule; what holds of every policy is in test_registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from frugalkd.ledger.ledger import Ledger
from frugalkd.outputs import ONE_CLASS
from frugalkd.policies import EpochContext, RhoLoss, Scoring


def test_the_rows_farthest_above_their_irreducible_loss_are_kept():
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(320, 5, generator=stream) * 3
    labels = torch.randint(5, (320,), generator=stream)
    ledger = Ledger.new(1000, extra={"score": "float32"})
    ledger["score"][:] = np.random.default_rng(0).exponential(size=1000)
    ids = np.random.default_rng(1).permutation(1000)[:320]
    seen = ONE_CLASS.outcome(logits, labels).each(lambda part: part.numpy())
    kept = RhoLoss().needs_training(seen, ids, ledger, EpochContext(3, 9, 0))
    reducible = cross_entropy(logits, labels, reduction="none").numpy() - ledger["score"][ids]
    assert sorted(np.flatnonzero(kept)) == sorted(np.argsort(reducible)[-32:])


def test_noise_and_what_is_learned_stay_out():
    ledger = Ledger.new(3, extra={"score": "float32"})
    ledger["score"][:] = [6.0, 0.1, 0.1]  # a wrong label, two right ones
    truth = np.array([0.01, 0.5, 0.99], np.float32)
    seen = ONE_CLASS.outcome(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    seen = seen.each(lambda part: part.numpy())._replace(truth=truth)
    kept = RhoLoss(keep=1 / 3 + 1e-9).needs_training(
        seen, np.arange(3), ledger, EpochContext(0, 9, 0)
    )
    assert kept.tolist() == [False, True, False]


def test_a_part_of_a_row_is_kept_by_a_draw():
    ledger = Ledger.new(4000, extra={"score": "float32"})
    seen = ONE_CLASS.outcome(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    seen = seen.each(lambda part: part.numpy())
    rows = [
        RhoLoss()
        .needs_training(seen, np.arange(first, first + 4), ledger, EpochContext(1, 9, 0))
        .sum()
        for first in range(0, 4000, 4)
    ]
    assert set(rows) == {0, 1}
    assert np.sum(rows) == pytest.approx(400, abs=60)


def test_settings():
    assert RhoLoss().at_budget(0.3) == RhoLoss(keep=0.3)
    assert RhoLoss(epochs=2.0, seeds=3).scoring == Scoring("holdout-loss", 2.0, 3)
    wrong: dict[str, Any]
    for wrong in ({"keep": 0.0}, {"epochs": 0.0}, {"epochs": 60_001.0}, {"seeds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RhoLoss(**wrong)
