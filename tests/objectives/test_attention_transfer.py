"""Attention transfer against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from feature_cases import Features, features, parts_of, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few

from frugalkd.objectives import AttentionTransfer

AT = AttentionTransfer("a", "b", soft=3.0)


def attention(energy):
    """Of the mean square of the channels, (rows, places)."""
    return energy / np.sqrt((energy**2).sum(axis=1, keepdims=True))


def expected_of(student, teacher):
    return 3.0 * np.mean((attention(student) - attention(teacher)) ** 2, axis=1)


def energy(maps):
    return (maps**2).mean(axis=1).reshape(len(maps), -1)


@few
@given(case=features((3, 2, 3), (5, 2, 3)))
def test_it_is_the_formula(case):
    expected = expected_of(energy(case.student), energy(case.teacher))
    agrees(transfer(AT, seen_of(AT, case), case.weights), expected)


@few
@given(case=features((4, 3), (4, 5)))
def test_of_tokens_the_width_is_what_channels_are(case):
    expected = expected_of((case.student**2).mean(axis=2), (case.teacher**2).mean(axis=2))
    agrees(transfer(AT, seen_of(AT, case), case.weights), expected)


@few
@given(case=features((3, 4, 6), (5, 2, 3)))
def test_the_larger_attention_is_averaged_down(case):
    """Whichever that is, and not the features before they are squared."""
    blocks = (case.student**2).mean(axis=1).reshape(-1, 2, 2, 3, 2).mean(axis=(2, 4))
    pooled = blocks.reshape(len(blocks), -1)
    expected = expected_of(pooled, energy(case.teacher))
    agrees(transfer(AT, seen_of(AT, case), case.weights), expected)
    turned = Features(case.teacher, case.student, case.weights)
    agrees(transfer(AT, seen_of(AT, turned), case.weights), expected)


@pytest.mark.parametrize(
    ("student", "teacher"), [((3,), (3,)), ((3, 4, 4), (16, 3)), ((3,), (3, 4, 4))]
)
def test_features_without_places_are_refused(student, teacher):
    with pytest.raises(ValueError, match="have no positions in common: name modules"):
        parts_of(AT, [student], [teacher])
