"""One verdict for arrays and for tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.ledger.outcome import fails

CONFIDENCE = np.array([0.9, 0.9, 0.89999, 0.95, np.nan, 1.0], np.float32)
CORRECT = np.array([True, False, True, True, True, True])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_and_tensors_get_the_same_verdict(kind):
    got = fails(kind(CONFIDENCE), kind(CORRECT), 0.9)
    assert got.tolist() == [False, True, True, False, True, False]
    assert fails(kind(CONFIDENCE), kind(CORRECT), 1.1).all()
