"""Variational information distillation against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_cases import Features, features, seen_of, transfer
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import agrees, few
from scipy.stats import norm

from frugalkd.objectives import VID


@few
@given(case=features(), variance=st.sampled_from([0.01, 1.0, 5.0, 100.0, 1e4]))
def test_it_is_the_formula(case, variance):
    objective = VID("a", "b", variance, soft=3.0)
    seen = seen_of(objective, case)
    layer = seen.parts[0].mean.project
    kernel, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    mean, deviation = case.student @ kernel.T + bias, np.sqrt(variance)
    density = norm.logpdf(case.teacher, mean, deviation)
    expected = -3.0 * (density + np.log(2 * np.pi) / 2).mean(axis=1)
    agrees(transfer(objective, seen, case.weights), expected, np.abs(expected).max())


def test_each_channel_of_a_map_has_a_variance():
    objective, stream = VID("a", "b"), torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 2, 2, generator=stream, dtype=torch.float64)
    teacher = torch.randn(2, 3, 2, 2, generator=stream, dtype=torch.float64)
    seen = seen_of(objective, Features(student.numpy(), teacher.numpy(), np.ones(2)))
    spread = seen.parts[0].spread
    assert spread.shape == (3,)
    assert sum(p.numel() for p in seen.parts[0].mean.parameters()) == 3 * 3 + 3
    with torch.no_grad():
        spread[1] += 1.0
    variance = torch.nn.functional.softplus(spread) + 1e-5
    square = (teacher - seen.parts[0].mean(student)).square()
    each = square / variance[:, None, None] + variance.log()[:, None, None]
    expected = each.flatten(1).mean(1) / 2
    torch.testing.assert_close(transfer(objective, seen, np.ones(2)), expected)


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-5])
def test_impossible_variances_are_refused(variance):
    with pytest.raises(ValueError, match=r"^variance must be"):
        VID("a", "b", variance)
