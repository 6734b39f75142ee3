"""Neuron selectivity transfer against a float64 reference: loops over pairs of channels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from feature_cases import features, parts_of, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few

from frugalkd.objectives import NST

OBJECTIVE = NST("a", "b", soft=3.0)


def discrepancy(student, teacher):
    """Of channels (channels, places)."""

    def mean(ones, others):
        pairs = product(ones, others)
        return np.mean([(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))) ** 2 for x, y in pairs])

    return mean(teacher, teacher) + mean(student, student) - 2 * mean(student, teacher)


def expected_of(students, teachers):
    return [3.0 * discrepancy(*pair) for pair in zip(students, teachers, strict=True)]


@few
@given(case=features((3, 2, 2), (4, 2, 2), largest=3))
def test_it_is_the_formula(case):
    channels = (each.reshape(len(each), each.shape[1], -1) for each in (case.student, case.teacher))
    agrees(transfer(OBJECTIVE, seen_of(OBJECTIVE, case), case.weights), expected_of(*channels))


@few
@given(case=features((4, 3), (2, 5), largest=3))
def test_of_tokens_the_larger_number_is_averaged_down(case):
    student = case.student.reshape(-1, 2, 2, 3).mean(axis=2)
    channels = student.transpose(0, 2, 1), case.teacher.transpose(0, 2, 1)
    agrees(transfer(OBJECTIVE, seen_of(OBJECTIVE, case), case.weights), expected_of(*channels))


def test_features_without_places_are_refused():
    with pytest.raises(ValueError, match="have no positions in common"):
        parts_of(OBJECTIVE, [(3,)], [(3,)])
