"""FitNets against a float64 reference."""

from __future__ import annotations

import numpy as np
from feature_cases import features, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few

from frugalkd.objectives import FitNets


@few
@given(case=features())
def test_it_is_the_formula(case):
    objective = FitNets("a", "b", soft=3.0)
    seen = seen_of(objective, case)
    layer = seen.parts[0].project
    kernel, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    hints = case.student @ kernel.T + bias
    expected = 3.0 * np.mean((hints - case.teacher) ** 2, axis=1)
    agrees(transfer(objective, seen, case.weights), expected, expected.max())


@few
@given(case=features((3, 2, 2), (3, 2, 2)))
def test_features_of_one_shape_need_no_adapter(case):
    objective = FitNets("a", "b", soft=1.0)
    seen = seen_of(objective, case)
    assert not list(seen.parts.parameters())
    expected = np.mean((case.student - case.teacher) ** 2, axis=(1, 2, 3))
    agrees(transfer(objective, seen, case.weights), expected, expected.max())
