"""BinaryCrossEntropy and MultiLabelKD against float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import ModelError
from frugalkd.objectives import BinaryCrossEntropy, MultiLabelKD, WeightedSum

STREAM = np.random.default_rng(0)
STUDENT, TEACHER = (torch.from_numpy(STREAM.standard_normal((5, 3))) for _ in range(2))
LABELS = torch.from_numpy(STREAM.integers(0, 2, (5, 3)).astype(np.float64))


def binary(logits, right):
    p = 1 / (1 + np.exp(-logits))
    return -(right * np.log(p) + (1 - right) * np.log(1 - p)).mean(axis=1)


def test_they_are_their_formulas():
    student, labels = STUDENT.numpy(), LABELS.numpy()
    hard, soft = binary(student, labels), binary(student, 1 / (1 + np.exp(-TEACHER.numpy())))
    assert BinaryCrossEntropy()(STUDENT, None, LABELS).numpy() == pytest.approx(hard)
    losses = MultiLabelKD(alpha=0.3)(STUDENT, TEACHER, LABELS)
    assert losses.numpy() == pytest.approx(0.3 * soft + 0.7 * hard)


def test_other_widths_are_refused():
    with pytest.raises(ModelError, match="gives 3 logits a sample, and there are 2 labels"):
        BinaryCrossEntropy()(STUDENT, None, LABELS[:, :2])


def test_a_sum_learns_several_labels():
    assert WeightedSum((MultiLabelKD(), BinaryCrossEntropy())).learns == "several-labels"
