"""The gate against a few lines of plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import FrugalKDError
from frugalkd.ledger.outcome import fails
from frugalkd.outputs import ONE_CLASS
from frugalkd.selection.observer import gate


def by_hand(row, label, tau):
    """Whether one row fails: plain floats, the first of the largest logits."""
    top = max(row)
    confidence = 1 / sum(math.exp(value - top) for value in row)
    return row.index(top) != label or confidence < tau


logits = st.integers(2, 6).flatmap(
    lambda classes: st.lists(
        st.tuples(
            st.lists(
                st.one_of(st.floats(-30, 30, width=32), st.sampled_from([0.0, 1.0, -200.0])),
                min_size=classes,
                max_size=classes,
            ),
            st.integers(0, classes - 1),
        ),
        min_size=1,
        max_size=8,
    )
)


@settings(max_examples=150, deadline=None)
@given(rows=logits, tau=st.sampled_from([0.2, 0.25, 0.5, 0.6, 0.9, 0.99, 1.0, 1.1]))
@pytest.mark.heavy
def test_the_gate_agrees_with_plain_python(rows, tau):
    values, labels = [row for row, _ in rows], [label for _, label in rows]
    got = gate(torch.tensor(values), torch.tensor(labels), tau).tolist()
    for row, label, verdict in zip(values, labels, got, strict=True):
        top = max(row)
        confidence = 1 / sum(math.exp(value - top) for value in row)
        if row.index(top) == label and 0 < abs(confidence - tau) < 1e-6:
            continue  # float32 and float64 may fall on either side
        assert verdict == by_hand(row, label, tau)


@pytest.mark.parametrize("classes", [2, 4, 8])
def test_a_confidence_of_exactly_tau_passes(classes):
    even = torch.zeros(1, classes)
    assert not gate(even, torch.tensor([0]), 1 / classes)
    assert gate(even, torch.tensor([0]), math.nextafter(1 / classes, 1) + 1e-6)


def test_a_tie_is_won_by_the_lowest_index():
    tied = torch.tensor([[1.0, 3.0, 3.0]]).repeat(3, 1)
    assert gate(tied, torch.arange(3), 0.0).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [1e-9, 1e-30])
def test_close_logits_are_no_tie_even_if_their_softmax_is(scale):
    close = scale * torch.tensor([[1.0, 2.0]])
    assert ONE_CLASS.outcome(close, torch.tensor([1])).correct
    assert not gate(close, torch.tensor([1]), 0.5)


def test_no_row_passes_above_one_a_certain_row_passes_at_one():
    certain = torch.tensor([[100.0, -100.0]])
    assert gate(certain, torch.tensor([0]), 1.1)
    assert not gate(certain, torch.tensor([0]), 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_refused(value):
    bad = torch.tensor([[0.0, 1.0], [value, 0.0]])
    with pytest.raises(FrugalKDError, match=r"rows \[1\]"):
        gate(bad, torch.tensor([0, 0]))
    seen = ONE_CLASS.outcome(bad, torch.tensor([0, 0]))
    assert torch.isnan(seen.confidence).tolist() == [False, True]
    assert fails(seen.confidence, seen.correct, 0.0).tolist() == [True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_judged_in_float32_also_under_autocast(dtype):
    values = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = values.argmax(dim=1)
    expected = torch.softmax(values.float(), dim=1).amax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = ONE_CLASS.outcome(values, labels)
    assert seen.confidence.dtype == torch.float32
    assert torch.equal(seen.confidence, expected)
    assert seen.correct.all()


def test_an_outcome_keeps_no_graph():
    values = torch.randn(3, 2, requires_grad=True)
    assert not ONE_CLASS.outcome(values, torch.zeros(3, dtype=torch.int64)).confidence.requires_grad
