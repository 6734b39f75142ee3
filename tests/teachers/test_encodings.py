"""Encodings: exact, rounded, truncated, or right in expectation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import softmax
from torch.nn import functional as F

from frugalkd.errors import FrugalKDError, SettingError, TargetsError
from frugalkd.objectives import KD
from frugalkd.teachers.encodings import (
    ENCODINGS,
    Dense,
    Fidelity,
    Sampled,
    TopK,
    encoding_for,
    halved,
    make_encoding,
)


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_says_how_to_make_it_again(name):
    encoding = make_encoding(name, k=3, temperature=2.0)
    assert encoding.settings["name"] == name
    assert make_encoding(**encoding.settings) == encoding
    assert encoding.temperature in (None, 2.0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_row_does_not_depend_on_its_batch(name):
    encoding = make_encoding(name, k=3)
    logits = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    ids, views = np.arange(6) * 11, np.arange(6)
    whole = encoding.encode(logits, ids, views)
    alone = [encoding.encode(logits[i : i + 1], ids[i : i + 1], views[i : i + 1]) for i in range(6)]
    assert np.concatenate(alone).tobytes() == whole.tobytes()
    decoded = encoding.decode(whole, 9)
    assert decoded.shape == (6, 9)
    assert np.array_equal(encoding.decode(whole[2:3], 9), decoded[2:3])
    assert encoding.decode(whole[:0], 9).shape == (0, 9)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "float8"},
        {"name": "top-k", "k": 0},
        {"name": "top-k", "k": True},
        {"name": "sampled", "k": 1 << 20},
        {"name": "sampled", "k": "3"},
        {"name": "sampled", "temperature": 0},
        {"name": "top-k", "temperature": math.inf},
        {"name": "top-k", "temperature": math.nan},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(FrugalKDError, match=r"^(?!.*\n)"):
        make_encoding(**settings)


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
def test_float16_rounds_differences_and_keeps_the_top_class(logits):
    got = through(Dense(), logits)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    largest = logits.max(axis=1, keepdims=True).astype(np.float64)
    expected = (logits - largest).clip(-65504)
    np.testing.assert_allclose(got, expected, rtol=2**-11, atol=6.1e-8)
    assert np.array_equal(got.argmax(axis=1), logits.argmax(axis=1))


def test_dense_sizes():
    assert Dense().record(10).itemsize == 20
    assert Dense("float32").record(1000).itemsize == 4000


def draw(seed, rows=5, classes=12, spread=6.0):
    stream = np.random.default_rng(seed)
    return (spread * stream.standard_normal((rows, classes))).astype(np.float32)


@given(
    st.integers(0, 10**6),
    st.integers(1, 11),
    st.floats(0.5, 10),
    st.floats(0.01, 200),
)
@pytest.mark.heavy
def test_top_k_keeps_the_probability_of_kept_and_rest(seed, k, temperature, spread):
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
def test_top_k_keeps_the_top_class(seed, k, spread):
    logits = draw(seed, spread=spread)
    assert np.array_equal(through(TopK(k), logits).argmax(1), logits.argmax(1))


def test_kd_of_top_k_equals_the_live_one_for_an_equal_rest():
    logits = draw(1)
    logits[:, 4:] = logits.min()  # all that is left out is the same
    x, labels = torch.randn(5, 12), torch.zeros(5, dtype=torch.int64)
    stored = torch.from_numpy(through(TopK(4, 3.0), logits))
    got, live = (KD(3.0, 1.0)(x, t, labels) for t in (stored, torch.from_numpy(logits)))
    torch.testing.assert_close(got, live, rtol=5e-3, atol=1e-3)


def test_top_k_refuses_what_is_impossible():
    with pytest.raises(TargetsError, match="leaves nothing out"):
        TopK(10).record(10)
    record = TopK(2).encode(draw(0), np.arange(5), np.arange(5))
    record["classes"][3] = 12
    with pytest.raises(TargetsError, match="beyond the 12"):
        TopK(2).decode(record, 12)


def test_top_k_sizes():
    assert TopK(32).record(1000).itemsize == 32 * 4 + 4
    assert TopK(32).record(1 << 17).itemsize == 32 * 6 + 4


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
def test_the_expected_share_is_the_teachers_probability(k, temperature):
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


def test_a_class_that_does_not_exist_is_refused():
    record = Sampled(3).encode(np.zeros((2, 5), np.float32), np.arange(2), np.arange(2))
    record["classes"][1, 1] = 5
    with pytest.raises(TargetsError, match="beyond the 5"):
        Sampled(3).decode(record, 5)


def test_sampled_sizes():
    assert Sampled(32).record(1000).itemsize == 64
    assert Sampled(32).record(1 << 17).itemsize == 128


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-9, 9, width=32),
    )
)
def test_int8_is_off_by_half_a_step_of_its_row(values):
    encoding = make_encoding("int8")
    places = np.arange(len(values))
    decoded = encoding.decode(encoding.encode(values, places, places), values.shape[1])
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    assert (np.abs(decoded - values) <= step * 0.5001 + 1e-38).all()


def test_int8_takes_a_byte_a_value_and_a_scale():
    assert make_encoding("int8").record(384).itemsize == 388


def test_an_embedding_that_int8_keeps_points_the_same_way():
    rows = np.random.default_rng(0).standard_normal((100, 384)).astype(np.float32)
    encoding = make_encoding("int8")
    kept = encoding.decode(encoding.encode(rows, np.arange(100), np.arange(100)), 384)
    cosine = F.cosine_similarity(torch.from_numpy(kept), torch.from_numpy(rows))
    assert (1 - cosine).max() < 2e-4


def test_float16_means_values_where_outputs_are_no_logits():
    rows = np.array([[100.0, 0.1], [-3.0, 7.0]], dtype=np.float32)
    encoding = encoding_for("embeddings", "float16")
    kept = encoding.decode(encoding.encode(rows, np.arange(2), np.arange(2)), 2)
    assert kept == pytest.approx(rows, rel=1 / 2048)
    assert encoding.keeps == Fidelity.VALUES
    assert encoding_for("one-class", "float16") == Dense("float16")
    assert encoding_for("embeddings", "float32") == Dense("float32")
    with pytest.raises(SettingError, match="int8 is for embeddings"):
        encoding_for("one-class", "int8")


def test_values_beyond_float16_are_refused():
    with pytest.raises(TargetsError, match=r"a value reaches 1e\+05, beyond float16"):
        make_encoding("values").encode(np.full((1, 2), 1e5, np.float32), np.arange(1), np.arange(1))
