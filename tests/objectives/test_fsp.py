"""The flow between layers against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_cases import parts_of, transfer
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import agrees, few

from frugalkd.objectives import FSP, StepFeatures

OBJECTIVE = FSP("a", "b", soft=3.0)


def flow(first, second):
    """Place by place; the larger map is max-pooled by 2."""
    if first.shape[2] > second.shape[2]:
        first = first.reshape(*first.shape[:2], 2, 2, 2, 2).max(axis=(3, 5))
    places = first.shape[2] * first.shape[3]
    return np.einsum("rihw,rjhw->rij", first, second) / places


@few
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.1, 1.0, 100.0]))
def test_it_is_the_formula(seed, spread):
    stream = np.random.default_rng(seed)
    student, teacher = (
        [spread * stream.normal(size=(4, *shape)) for shape in shapes]
        for shapes in (((3, 4, 4), (4, 2, 2)), ((5, 4, 4), (4, 4, 4)))
    )
    shapes = [[each.shape[1:] for each in given] for given in (student, teacher)]
    parts = parts_of(OBJECTIVE, shapes[0], shapes[1])
    kernel, bias = (value.detach().numpy() for value in parts[0].project.parameters())
    assert not list(parts[1].parameters())  # its channels are the teacher's
    first = np.einsum("oi,rihw->rohw", kernel[:, :, 0, 0], student[0]) + bias[:, None, None]
    apart = flow(first, student[1]) - flow(teacher[0], teacher[1])
    ours, theirs = (tuple(map(torch.from_numpy, each)) for each in (student, teacher))
    seen = StepFeatures(ours, theirs, parts, torch.arange(4))
    agrees(transfer(OBJECTIVE, seen, np.ones(4)), 3.0 * (apart**2).sum(axis=(1, 2)), spread**4)


@pytest.mark.parametrize(
    ("shapes", "says"), [([(3, 4, 4)], "name two modules"), ([(3,), (3,)], "is not a map")]
)
def test_what_has_no_flow_is_refused(shapes, says):
    with pytest.raises(ValueError, match=says):
        parts_of(OBJECTIVE, shapes, shapes)
