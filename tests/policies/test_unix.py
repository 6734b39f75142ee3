"""The rule of UNIX; what holds of every policy is in test_registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.ledger.ledger import Ledger
from frugalkd.outputs import ONE_CLASS
from frugalkd.policies import EpochContext, Unix


def test_the_48_of_64_of_highest_entropy_are_kept():
    logits = torch.randn(64, 7, generator=torch.Generator().manual_seed(0)) * 3
    seen = ONE_CLASS.outcome(logits, torch.zeros(64, dtype=torch.int64), entropy=True)
    seen = seen.each(lambda part: part.numpy())
    kept = Unix().needs_training(seen, np.arange(64), Ledger.new(64), EpochContext(3, 9, 0))
    probabilities = torch.softmax(logits.double(), dim=1)
    entropy = -(probabilities * probabilities.log()).sum(dim=1).numpy()
    assert sorted(np.flatnonzero(kept)) == sorted(np.argsort(entropy)[-48:])


def test_it_needs_entropy_and_a_budget_is_what_it_keeps():
    assert Unix.needs_entropy
    assert Unix().at_budget(0.3) == Unix(keep=0.3)
    with pytest.raises(ValueError, match="keep"):
        Unix(keep=0.0)
