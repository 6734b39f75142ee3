"""All logits: float32 to the last bit, float16 within its rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from frugalkd.teachers.encodings import Dense

FINITE = st.floats(-(2.0**99), 2.0**99, width=32)
LOGITS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE)


def through(encoding, logits):
    at = np.arange(len(logits)), np.zeros(len(logits), np.int64)
    records = encoding.encode(logits, *at)
    assert records.dtype == encoding.record(logits.shape[1])
    return encoding.decode(records, logits.shape[1])


@given(LOGITS)
def test_float32_gives_the_same_bits(logits):
    assert through(Dense("float32"), logits).tobytes() == logits.tobytes()


@given(LOGITS)
def test_float16_rounds_what_is_left_of_the_largest_and_keeps_the_top_class(logits):
    got = through(Dense(), logits)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    largest = logits.max(axis=1, keepdims=True).astype(np.float64)
    expected = (logits - largest).clip(-65504)
    np.testing.assert_allclose(got, expected, rtol=2**-11, atol=6.1e-8)
    assert np.array_equal(got.argmax(axis=1), logits.argmax(axis=1))


def test_sizes():
    assert Dense().record(10).itemsize == 20
    assert Dense("float32").record(1000).itemsize == 4000
