"""Correlation congruence against a float64 reference."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import agrees, cases, few, logs, reduced

from frugalkd.objectives import CorrelationCongruence


def kernel(one, other, gamma, order):
    norms = [math.sqrt(math.fsum(value**2 for value in row)) for row in (one, other)]
    product = math.fsum(a * b for a, b in zip(one, other, strict=True)) / math.prod(norms)
    terms = ((2 * gamma * product) ** p / math.factorial(p) for p in range(order + 1))
    return math.exp(-2 * gamma) * math.fsum(terms)


@few
@given(case=cases(), gamma=st.sampled_from([0.1, 0.4, 2.0]), order=st.sampled_from([1, 2, 5]))
def test_it_is_the_formula(case, gamma, order):
    rows = len(case.logits)
    objective = CorrelationCongruence(gamma, order, soft=3.0, hard=0.5)
    hard = [-logs(row)[label] for row, label in zip(case.logits, case.labels, strict=True)]
    for weights in ([1.0] * rows, case.weights.tolist()):
        pairs = math.fsum(
            weights[i]
            * weights[j]
            * (
                kernel(case.logits[i], case.logits[j], gamma, order)
                - kernel(case.targets[i], case.targets[j], gamma, order)
            )
            ** 2
            for i in range(rows)
            for j in range(rows)
        )
        alone = math.fsum(w * value for w, value in zip(weights, hard, strict=True)) / rows
        weights_given = torch.tensor(weights, dtype=torch.float64)
        losses = objective(*case.tensors, weights=weights_given)
        agrees(reduced(losses, weights_given.numpy()), 3 * pairs / rows**2 + 0.5 * alone)


def test_a_long_series_is_the_gaussian_kernel():
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 4, generator=stream, dtype=torch.float64)
    kernels = []
    for rows in (logits, targets):
        rows = rows / rows.norm(dim=1, keepdim=True)
        kernels.append((-0.4 * torch.cdist(rows, rows).square()).exp())
    expected = (kernels[0] - kernels[1]).square().mean()
    losses = CorrelationCongruence(order=20, hard=0.0)(logits, targets, torch.arange(5) % 4)
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-9, atol=0)
