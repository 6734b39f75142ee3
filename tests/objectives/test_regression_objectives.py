"""SquaredError and RegressionKD against float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import ModelError, SettingError
from frugalkd.objectives import KD, FitNets, RegressionKD, SquaredError, WeightedSum

STREAM = np.random.default_rng(0)
STUDENT, TEACHER, LABELS = (torch.from_numpy(STREAM.standard_normal((5, 3))) for _ in range(3))


def test_they_are_their_formulas():
    student, teacher, labels = (each.numpy() for each in (STUDENT, TEACHER, LABELS))
    hard, soft = ((student - labels) ** 2).mean(1), ((student - teacher) ** 2).mean(1)
    assert SquaredError()(STUDENT, None, LABELS).numpy() == pytest.approx(hard)
    losses = RegressionKD(alpha=0.3)(STUDENT, TEACHER, LABELS)
    assert losses.numpy() == pytest.approx(0.3 * soft + 0.7 * hard)


def test_one_target_may_be_a_column_or_none():
    one = STUDENT[:, :1]
    losses = SquaredError()(one, None, LABELS[:, 0])
    assert torch.equal(losses, SquaredError()(one, None, LABELS[:, :1]))


def test_other_widths_are_refused_and_not_broadcast():
    with pytest.raises(ModelError, match="gives 3 numbers a sample, and there are 1 targets"):
        SquaredError()(STUDENT, None, LABELS[:, 0])
    with pytest.raises(ModelError, match="gives 1 numbers a sample, and there are 3 targets"):
        RegressionKD()(STUDENT[:, :1], TEACHER, LABELS[:, :1])


def test_a_sum_learns_values():
    assert WeightedSum((RegressionKD(), SquaredError())).learns == "regression"
    assert WeightedSum((RegressionKD(), FitNets("0", "0", hard=0.0))).learns == "regression"
    with pytest.raises(SettingError, match="learn one-class and regression"):
        WeightedSum((RegressionKD(), KD()))
