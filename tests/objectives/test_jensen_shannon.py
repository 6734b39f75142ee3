"""The generalised Jensen-Shannon divergence against a float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs

from frugalkd.objectives import KD, JensenShannon


def between(student, teacher, beta):
    """From logarithms of probabilities."""
    if beta in (0, 1):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixture = []
    for s, t in zip(student, teacher, strict=True):
        most = max(s, t)
        mixed = beta * math.exp(t - most) + (1 - beta) * math.exp(s - most)
        mixture.append(most + math.log(mixed))
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


@few
@given(case=cases(), temperature=TEMPERATURES, beta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_it_is_the_formula(case, temperature, beta):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        soft = between(logs(student, temperature), logs(teacher, temperature), beta)
        expected.append(0.7 * temperature**2 * soft - 0.3 * logs(student)[label])
    scale = temperature * 1e3
    agrees(JensenShannon(beta, temperature, alpha=0.7)(*case.tensors), expected, scale)


def batch():
    stream = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(2, 6, 5, generator=stream, dtype=torch.float64)
    return logits, targets, torch.arange(6) % 5


def test_its_ends_are_the_two_divergences():
    logits, targets, labels = batch()
    forward, reverse = JensenShannon(0.0, alpha=1.0), JensenShannon(1.0, alpha=1.0)
    assert torch.equal(JensenShannon(0.0)(logits, targets, labels), KD()(logits, targets, labels))
    swapped = reverse(targets, logits, labels)
    assert torch.equal(swapped, forward(logits, targets, labels))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_it_is_bounded_and_swaps_with_beta(beta):
    """At most the entropy of (beta, 1 - beta), whatever the logits."""
    logits, targets, labels = batch()
    most = -(beta * math.log(beta) + (1 - beta) * math.log(1 - beta))
    far = JensenShannon(beta, 1.0, alpha=1.0)(1e3 * logits, 1e3 * targets, labels)
    assert ((far >= -1e-12) & (far <= most + 1e-12)).all()
    one = JensenShannon(beta, alpha=1.0)(logits, targets, labels)
    torch.testing.assert_close(one, JensenShannon(1 - beta, alpha=1.0)(targets, logits, labels))
