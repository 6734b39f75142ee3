"""The k largest logits and the mass of the rest, at the temperature they were stored for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from frugalkd.errors import TargetsError
from frugalkd.objectives import KD
from frugalkd.teachers.encodings import TopK
from frugalkd.teachers.encodings._encoding import halved


def draw(seed, rows=5, classes=12, spread=6.0):
    stream = np.random.default_rng(seed)
    return (spread * stream.standard_normal((rows, classes))).astype(np.float32)


def through(encoding, logits):
    at = np.arange(len(logits)), np.zeros(len(logits), np.int64)
    records = encoding.encode(logits, *at)
    assert records.dtype == encoding.record(logits.shape[1])
    return encoding.decode(records, logits.shape[1])


@given(
    st.integers(0, 10**6),
    st.integers(1, 11),
    st.floats(0.5, 10),
    st.floats(0.01, 200),
)
def test_the_kept_and_the_rest_have_the_teachers_probability(seed, k, temperature, spread):
    logits = draw(seed, spread=spread)
    got = through(TopK(k, temperature), logits)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    ours = softmax(got.astype(np.float64) / temperature, axis=1)
    theirs = softmax(logits.astype(np.float64) / temperature, axis=1)
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    rest_ours = 1 - np.take_along_axis(ours, top, 1).sum(1)
    rest_theirs = 1 - np.take_along_axis(theirs, top, 1).sum(1)
    np.testing.assert_allclose(rest_ours, rest_theirs, atol=2e-6)
    np.testing.assert_array_equal(
        np.take_along_axis(got, top, 1),
        halved(np.take_along_axis(logits, top, 1), top[:, 0] * 0).astype(np.float32),
    )
    others = np.ones(logits.shape, bool)
    np.put_along_axis(others, top, False, 1)
    assert all(len(np.unique(row[other])) == 1 for row, other in zip(got, others, strict=True))


@given(st.integers(0, 10**6), st.integers(1, 11), st.floats(0, 200))
def test_the_top_class_is_the_teachers(seed, k, spread):
    logits = draw(seed, spread=spread)
    assert np.array_equal(through(TopK(k), logits).argmax(1), logits.argmax(1))


def test_kd_is_the_live_one_where_the_rest_is_alike():
    logits = draw(1)
    logits[:, 4:] = logits.min()  # all that is left out is the same
    x, labels = torch.randn(5, 12), torch.zeros(5, dtype=torch.int64)
    stored = torch.from_numpy(through(TopK(4, 3.0), logits))
    got, live = (KD(3.0, 1.0)(x, t, labels) for t in (stored, torch.from_numpy(logits)))
    torch.testing.assert_close(got, live, rtol=5e-3, atol=1e-3)


def test_impossible_ones_are_refused():
    with pytest.raises(TargetsError, match="leaves nothing out"):
        TopK(10).record(10)
    record = TopK(2).encode(draw(0), np.arange(5), np.arange(5))
    record["classes"][3] = 12
    with pytest.raises(TargetsError, match="beyond the 12"):
        TopK(2).decode(record, 12)


def test_sizes():
    assert TopK(32).record(1000).itemsize == 32 * 4 + 4
    assert TopK(32).record(1 << 17).itemsize == 32 * 6 + 4
