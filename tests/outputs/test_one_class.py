"""What one class says of a row; the gate that reads it is tested in selection/."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import DataError
from frugalkd.outputs import ONE_CLASS, OUTPUTS
from frugalkd.policies.modes import OutputName


def test_every_kind_can_be_named():
    assert set(OUTPUTS) == set(OutputName.__args__)


def test_probabilities_of_one_class_in_float32():
    seen = ONE_CLASS.outcome(
        torch.tensor([[2.0, 0.0]], dtype=torch.bfloat16), torch.tensor([1]), {}
    )
    top = 1 / (1 + np.exp(-2.0))
    assert seen.confidence.dtype == seen.truth.dtype == torch.float32
    assert seen.confidence.item() == pytest.approx(top)
    assert seen.truth.item() == pytest.approx(1 - top)
    assert not seen.correct
    assert seen.entropy is None
    assert seen.distance is None


def test_entropy_where_it_is_needed():
    seen = ONE_CLASS.outcome(torch.zeros(1, 4), torch.tensor([0]), {}, entropy=True)
    assert seen.entropy.item() == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    "labels", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 1).long()]
)
def test_labels_of_other_forms_are_none(labels):
    assert ONE_CLASS.as_labels(labels) is None


def test_labels_become_int64():
    made = ONE_CLASS.as_labels(torch.tensor([1, 2], dtype=torch.uint8))
    assert made is not None
    assert made.dtype == torch.int64


def test_a_label_of_no_class_is_named():
    with pytest.raises(DataError, match=r"sample 7 has label 3, and the model 3 classes: .*from 1"):
        ONE_CLASS.check(torch.tensor([1, 3]), np.array([5, 7]), 3)


def test_what_the_teacher_says_is_its_top_class():
    assert ONE_CLASS.from_teacher(torch.tensor([[0.0, 2.0], [1.0, 1.0]])).tolist() == [1, 0]


def test_one_infinite_logit_is_no_fault():
    outputs = torch.tensor([[0.0, -torch.inf], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert ONE_CLASS.not_finite(outputs).tolist() == [False, True, True]


def test_nothing_refers_to_the_teacher():
    assert not ONE_CLASS.needs_reference
    assert ONE_CLASS.reference(torch.zeros(2), by_teacher=False) == {}
