"""Cross-entropy against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from frugalkd.objectives import CrossEntropy


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), smoothing=st.sampled_from([0.0, 0.1, 1.0]))
def test_it_is_the_formula(seed, smoothing):
    stream = np.random.default_rng(seed)
    logits = stream.normal(scale=5, size=(7, 4)).astype(np.float32)
    labels = stream.integers(4, size=7)
    got = CrossEntropy(smoothing)(torch.from_numpy(logits), None, torch.from_numpy(labels))
    logs = log_softmax(logits.astype(np.float64), axis=1)
    expected = -(1 - smoothing) * logs[np.arange(7), labels] - smoothing * logs.mean(axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(smoothing)
