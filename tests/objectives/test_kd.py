"""Knowledge distillation against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs
from scipy.special import log_softmax

from frugalkd.objectives import KD


def reference(logits, targets, labels, temperature, alpha):
    """The formula in float64 numpy."""
    student = log_softmax(logits / temperature, axis=1)
    teacher = log_softmax(targets / temperature, axis=1)
    soft = (np.exp(teacher) * (teacher - student)).sum(axis=1)
    hard = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return alpha * temperature**2 * soft + (1 - alpha) * hard


def draw(seed, rows=6, classes=5, spread=4.0):
    stream = np.random.default_rng(seed)
    values = stream.normal(scale=spread, size=(2, rows, classes)).astype(np.float32)
    return values[0], values[1], stream.integers(classes, size=rows)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    alpha=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_it_is_the_formula(seed, temperature, alpha, spread):
    logits, targets, labels = draw(seed, spread=spread)
    got = KD(temperature, alpha)(
        torch.from_numpy(logits), torch.from_numpy(targets), torch.from_numpy(labels)
    )
    assert got.shape == (6,)
    assert got.dtype == torch.float32
    expected = reference(
        logits.astype(np.float64), targets.astype(np.float64), labels, temperature, alpha
    )
    scale = 1 + temperature**2 * max(1.0, spread / temperature)
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-5, atol=2e-6 * scale)


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.9), (1.0, 0.5), (2.0, 1.0)])
def test_the_gradient_is_that_of_the_formula(temperature, alpha):
    logits, targets, labels = draw(1)
    x = torch.from_numpy(logits).requires_grad_()
    KD(temperature, alpha)(x, torch.from_numpy(targets), torch.from_numpy(labels)).sum().backward()
    numeric, step = np.zeros(logits.shape), 1e-5
    for at in np.ndindex(logits.shape):
        moved = [logits.astype(np.float64) for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        up, down = (
            reference(m, targets.astype(np.float64), labels, temperature, alpha).sum()
            for m in moved
        )
        numeric[at] = (up - down) / (2 * step)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


@few
@given(case=cases(), temperature=TEMPERATURES)
def test_in_float64_it_is_the_formula_for_any_logits(case, temperature):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        soft = kl(logs(teacher, temperature), logs(student, temperature))
        expected.append(0.7 * temperature**2 * soft - 0.3 * logs(student)[label])
    agrees(KD(temperature, 0.7)(*case.tensors), expected, temperature * 1e3)


def test_the_teacher_itself_has_no_soft_loss_and_rows_do_not_mix():
    logits, targets, labels = map(torch.from_numpy, draw(3))
    assert KD(alpha=1.0)(targets, targets, labels).abs().max() < 1e-5
    whole = KD()(logits, targets, labels)
    single = torch.cat(
        [KD()(logits[i : i + 1], targets[i : i + 1], labels[i : i + 1]) for i in range(6)]
    )
    torch.testing.assert_close(whole, single)


def test_half_precision_is_computed_in_float32():
    logits, targets, labels = map(torch.from_numpy, draw(4))
    got = KD()(logits.bfloat16(), targets.bfloat16(), labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, KD()(logits.bfloat16().float(), targets.bfloat16(), labels))


def test_impossible_settings_and_missing_targets_are_refused():
    for settings_ in ({"temperature": 0}, {"temperature": float("nan")}, {"alpha": 1.1}):
        with pytest.raises(ValueError, match=next(iter(settings_))):
            KD(**settings_)
    with pytest.raises(ValueError, match="teacher"):
        KD()(torch.zeros(1, 2), None, torch.zeros(1, dtype=torch.int64))
