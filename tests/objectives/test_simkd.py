"""Classifier reuse against a float64 reference; the models are tested in models/test_reuse.py."""

from __future__ import annotations

import numpy as np
import pytest
from feature_cases import features, parts_of, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few

from frugalkd.objectives import SimKD

OBJECTIVE = SimKD("a", "b", soft=3.0)


@few
@given(case=features((5,), (5,)))
def test_it_is_the_formula(case):
    expected = 3.0 * np.mean((case.student - case.teacher) ** 2, axis=1)
    agrees(transfer(OBJECTIVE, seen_of(OBJECTIVE, case), case.weights), expected)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"of shape \(4,\), the teacher's of \(5,\): name the"):
        parts_of(OBJECTIVE, [(4,)], [(5,)])
