"""Adapters: shapes, parameters, and what they do to values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frugalkd.errors import ModelError
from frugalkd.models.features import Adapter

SIZES = st.integers(1, 9)


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(SIZES, SIZES, SIZES))
def test_any_map_takes_the_shape_of_any_other(given, wanted):
    adapter = Adapter(given, wanted)
    assert adapter(torch.ones(2, *given)).shape == (2, *wanted)
    kind = nn.Identity if given[0] == wanted[0] else nn.Conv2d
    assert type(adapter.project) is kind


@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES))
def test_so_do_tokens(given, wanted):
    adapter = Adapter(given, wanted)
    assert adapter(torch.ones(3, *given)).shape == (3, *wanted)
    assert type(adapter.project) is (nn.Identity if given[1] == wanted[1] else nn.Linear)


@pytest.mark.parametrize("given", [(5,), (5, 4, 3), (4, 5)])
def test_everything_becomes_a_vector(given):
    assert Adapter(given, (7,))(torch.ones(2, *given)).shape == (2, 7)
    values = torch.rand(2, *given)
    mean = values if len(given) == 1 else values.mean((2, 3)) if len(given) == 3 else values.mean(1)
    torch.testing.assert_close(Adapter(given, (5,))(values), mean)


@pytest.mark.parametrize(
    ("given", "wanted"), [((5,), (5, 4, 3)), ((5,), (4, 5)), ((4, 5), (5, 2, 2)),
                          ((5, 2, 2), (4, 5)), ((1, 2, 3, 4), (1, 2, 3, 4))]
)  # fmt: skip
def test_what_no_adapter_can_do_is_refused(given, wanted):
    with pytest.raises(ModelError, match="no adapter makes features of shape"):
        Adapter(given, wanted)


def test_where_the_shapes_are_one_it_does_nothing():
    values = torch.rand(2, 3, 4, 5)
    adapter = Adapter((3, 4, 5), (3, 4, 5))
    assert adapter(values) is values
    assert list(adapter.parameters()) == []
    assert len(list(Adapter((3, 4, 5), (3, 4, 5), always=True).parameters())) == 2


def test_a_smaller_map_holds_means_and_a_larger_one_lies_between():
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = Adapter((1, 4, 4), (1, 2, 2))(values)
    assert small.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    large = Adapter((1, 4, 4), (1, 8, 8))(values)
    assert float(large.min()) >= 0
    assert float(large.max()) <= 15
    assert large[0, 0, 0].diff().ge(0).all()
    both = Adapter((1, 4, 4), (1, 2, 8))(values)
    assert both.shape == (1, 1, 2, 8)
    torch.testing.assert_close(both.mean(), values.mean())


def test_the_mean_of_every_row_survives_pooling():
    values = torch.rand(3, 6, 2)
    torch.testing.assert_close(Adapter((6, 2), (3, 2))(values).mean(1), values.mean(1))


def test_padded_texts_may_have_other_lengths_than_the_first_ones():
    adapter = Adapter((4, 3), (5, 7))
    longer = torch.rand(2, 9, 3)
    made = adapter(longer, like=torch.rand(2, 9, 7))
    torch.testing.assert_close(made, adapter.project(longer))
    assert adapter(longer).shape == (2, 5, 7)
