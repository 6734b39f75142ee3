"""EmbedDistill against float64 formulas, and what trains beside the student."""

# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import KD, LiveTeacher
from frugalkd.errors import ModelError, ObjectiveError, SettingError
from frugalkd.objectives import PKT, EmbedDistill, FitNets, Ramp, WeightedSum, scheduled
from frugalkd.objectives.criterion import Criterion, bind

LABELS = torch.zeros(5, dtype=torch.int64)


def embeddings(seed=0, width=4):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((5, width)))


@pytest.mark.parametrize("distance", ["cosine", "mse", "l2"])
def test_it_is_its_formula(distance):
    student, teacher = embeddings(), embeddings(1)
    one, other = student.numpy(), teacher.numpy()
    expected = {
        "cosine": 1
        - (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)),
        "mse": ((one - other) ** 2).mean(1),
        "l2": np.linalg.norm(one - other, axis=1),
    }[distance]
    losses = EmbedDistill(distance)(student, teacher, LABELS)
    assert losses.numpy() == pytest.approx(expected)


def test_other_widths_are_refused_by_name():
    with pytest.raises(ModelError, match="of 3 numbers and the teacher of 4"):
        EmbedDistill()(embeddings(width=3), embeddings(1), LABELS)


def test_a_sum_learns_one_kind_of_output():
    with pytest.raises(SettingError, match="learn embeddings and one-class"):
        WeightedSum((EmbedDistill(), KD()))
    both = WeightedSum((EmbedDistill(), EmbedDistill("mse", project=False)))
    assert both.learns == "embeddings"
    assert both.project


def test_features_without_a_label_go_with_embeddings():
    hints = FitNets("0", "0", hard=0.0)
    assert WeightedSum((EmbedDistill(), hints)).learns == "embeddings"
    assert hints.learns == "one-class"
    with pytest.raises(SettingError, match="learn embeddings and one-class"):
        WeightedSum((EmbedDistill(), FitNets("0", "0")))


def test_a_schedule_learns_what_its_objective_does():
    twice = WeightedSum((EmbedDistill(), EmbedDistill("mse")), (1.0, Ramp(0.0, 1.0)))
    assert twice.at(0.5).learns == "embeddings"
    assert scheduled(KD(), temperature=Ramp(8.0, 1.0)).learns == "one-class"


class Coupled(PKT):
    output = "embeddings"


def test_what_couples_rows_is_refused_for_embeddings():
    with pytest.raises(ObjectiveError, match="Coupled couples the rows of a batch"):
        Criterion(Coupled())


def bound(objective, width, seed=0):
    teacher, student = nn.Linear(3, 4), nn.Linear(3, width)
    data = torch.ones(2, 3)
    return bind(
        objective, student, LiveTeacher(teacher), batch=lambda: data, forward=student,
        samples=5, seed=seed,
    )  # fmt: skip


def test_a_linear_layer_is_there_where_widths_differ():
    assert bound(EmbedDistill(), 4).projection is None
    criterion = bound(EmbedDistill(), 7)
    assert criterion.projection.weight.shape == (4, 7)
    assert next(iter(criterion.parts.parameters())) is criterion.projection.weight
    outputs = torch.ones(2, 7, dtype=torch.bfloat16)
    assert criterion.project(outputs).dtype == torch.float32
    same, other = bound(EmbedDistill(), 7), bound(EmbedDistill(), 7, seed=1)
    assert torch.equal(criterion.projection.weight, same.projection.weight)
    assert not torch.equal(criterion.projection.weight, other.projection.weight)


def test_without_it_other_widths_are_refused_before_the_training():
    with pytest.raises(ModelError, match="of 7 numbers and the teacher of 4, and EmbedDistill"):
        bound(EmbedDistill(project=False), 7)


def test_its_operations_are_counted_and_nothing_changes():
    criterion = bound(EmbedDistill(), 7)
    before = copy.deepcopy(criterion.parts.state_dict())
    counted = criterion.flops_per_row(8, 7, torch.device("cpu"))
    assert counted == {"forward": 2 * 7 * 4, "backward": 4 * 7 * 4}
    assert all(torch.equal(before[key], now) for key, now in criterion.parts.state_dict().items())
