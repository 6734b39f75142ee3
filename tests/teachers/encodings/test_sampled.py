"""Sampled classes: what is decoded is the teacher's distribution in expectation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from torch.nn import functional as F

from frugalkd.errors import TargetsError
from frugalkd.objectives import KD
from frugalkd.teachers.encodings import Sampled


def shares(encoding, logits, ids, view=0):
    """The distribution that an objective receives, float64."""
    records = encoding.encode(logits, ids, np.full(len(ids), view))
    assert records.dtype == encoding.record(logits.shape[1])
    decoded = encoding.decode(records, logits.shape[1])
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    return softmax(decoded.astype(np.float64) / encoding.temperature, axis=1)


@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0.5, 10), st.floats(0, 200))
def test_no_share_is_off_by_a_draw_or_more(seed, k, temperature, spread):
    logits = np.random.default_rng(seed).standard_normal((7, 23)).astype(np.float32) * spread
    logits = logits.astype(np.float32)
    got = shares(Sampled(k, temperature), logits, np.arange(7))
    wanted = softmax(logits.astype(np.float64) / temperature, axis=1)
    assert np.abs(got - wanted).max() < 1 / k + 1e-6
    np.testing.assert_allclose(got * k, np.round(got * k), atol=1e-4)


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (3, 4.0), (20, 4.0)])
def test_the_expected_share_is_the_teachers_probability_at_the_temperature(k, temperature):
    rows = 20_000
    one = np.random.default_rng(3).standard_normal(15).astype(np.float32) * 4
    got = shares(Sampled(k, temperature), np.tile(one, (rows, 1)), np.arange(rows))
    wanted = softmax(one.astype(np.float64) / temperature)
    # Each share is one of two neighbours, at most 1/k apart: a deviation of 1/(2k) at most.
    assert np.abs(got.mean(0) - wanted).max() < 5 / (2 * k) / np.sqrt(rows)
    elsewhere = softmax(one.astype(np.float64) / (2 * temperature))
    assert np.abs(got.mean(0) - elsewhere).max() > 0.02


def test_the_expected_gradient_of_kd_is_the_live_teachers():
    rows, temperature = 4000, 4.0
    stream = torch.Generator().manual_seed(0)
    teacher = 4 * torch.randn(9, generator=stream)
    x = torch.randn(9, generator=stream)
    encoding = Sampled(4, temperature)
    ids = np.arange(rows)
    records = encoding.encode(teacher.repeat(rows, 1).numpy(), ids, ids * 0)
    stored = torch.from_numpy(encoding.decode(records, 9))
    labels = torch.zeros(rows, dtype=torch.int64)
    gradients = []
    for targets in (stored, teacher.repeat(rows, 1)):
        student = x.repeat(rows, 1).requires_grad_()
        KD(temperature, alpha=1.0)(student, targets, labels).sum().backward()
        gradients.append(student.grad)
    noisy, exact = gradients
    assert (noisy.mean(0) - exact.mean(0)).abs().max() < 5 * temperature / (2 * 4) / rows**0.5
    # One by one they are those of a cross-entropy with the shares.
    share = F.softmax(stored[0] / temperature, dim=0)
    by_hand = temperature * (F.softmax(x / temperature, dim=0) - share)
    torch.testing.assert_close(noisy[0], by_hand, rtol=1e-4, atol=1e-5)


def test_draws_are_a_function_of_id_and_view():
    logits = np.zeros((4, 50), dtype=np.float32)
    ids = np.array([5, 9, 5, 7])
    first = shares(Sampled(3), logits, ids)
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(shares(Sampled(3), logits[:1], ids[3:]), first[3:])
    assert not np.array_equal(shares(Sampled(3), logits, ids, view=1), first)


def test_a_class_that_there_is_not_is_refused():
    record = Sampled(3).encode(np.zeros((2, 5), np.float32), np.arange(2), np.arange(2))
    record["classes"][1, 1] = 5
    with pytest.raises(TargetsError, match="beyond the 5"):
        Sampled(3).decode(record, 5)


def test_sizes():
    assert Sampled(32).record(1000).itemsize == 64
    assert Sampled(32).record(1 << 17).itemsize == 128
