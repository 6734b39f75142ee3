"""A criterion: features reach it, adapters learn, and no hook stays."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError, SelectionMisuse, Stopped, TargetsError
from frugalkd.models.features import Adapter
from frugalkd.objectives import CRD, KD, FitNets, Objective
from frugalkd.objectives.criterion import Criterion, bind
from frugalkd.policies import SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Training
from toys import grouped, images, net, same_state

SHORT = Training(epochs=2, batch_size=8, optimizer=Optimizer(name="sgd", lr=0.05))
HINTS = FitNets("2", "2", soft=3.0)


def run(student=None, *, teacher=None, objective: Objective = HINTS, training=SHORT, **more):
    student, teacher = student or net(), teacher or net(seed=9, width=7)
    return distill(
        student,
        images(),
        **grouped(teacher=teacher, objective=objective, training=training, device="cpu", **more),
    )


def hooks_of(*models):
    return sum(len(module._forward_hooks) for model in models for module in model.modules())


def test_a_training_is_the_one_computed_by_hand():
    """The training, written in a dozen lines, has the same weights to rounding."""
    data, teacher, student = images(augmented=False), net(seed=9, width=7).eval(), net()
    student[3].p = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = Adapter((4, 6, 6), (7, 6, 6))
    whole = Training(epochs=3, batch_size=len(data), optimizer=Optimizer(name="sgd", lr=0.05))
    other = net()
    other[3].p = 0.0
    distill(other, data, teacher=teacher, objective=HINTS, training=whole, device="cpu")
    x, y = data.batch(*[torch.arange(len(data)).numpy()] * 2)
    trained = [*student.parameters(), *adapter.parameters()]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9, nesterov=True)
    student.train()
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * epoch / 3)))
        optimizer.param_groups[0]["lr"] *= 0.5
        feature = student[:3](x)
        with torch.no_grad():
            hint = teacher[:3](x)
        loss = nn.functional.cross_entropy(student[3:](feature), y)
        loss = loss + 3.0 * (adapter(feature) - hint).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip(other.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_no_adapter_is_exported_and_no_hook_stays():
    teacher = net(seed=9, width=7)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    done = run(teacher=teacher)
    assert done.model.state_dict().keys() == net().state_dict().keys()
    assert hooks_of(done.model, teacher) == 0
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_hooks_are_gone_after_a_stop_too(tmp_path):
    student, teacher = net(), net(seed=9, width=7)
    with pytest.raises(Stopped):
        run(student, teacher=teacher, should_stop=lambda: True)
    assert hooks_of(student, teacher) == 0


@pytest.mark.parametrize(
    ("when", "objective"),
    [
        ("last-visit", FitNets(("2", "4"), ("2", "4"), soft=0.5)),
        ("now", FitNets(("2", "4"), ("2", "4"), soft=0.5)),
        ("now", CRD("4", "4", dim=4, negatives=8)),  # its memory, its draws
    ],
)
def test_a_training_resumes_with_its_adapters_bit_for_bit(tmp_path, when, objective):
    more: Any = {"objective": objective, "policy": SelfRegulation(confidence=0.5, when=when)}
    whole = run(**more)
    steps = iter(range(100))
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=lambda: next(steps) == 5, **more)
    resumed = run(folder=tmp_path, resume=True, **more)
    assert same_state(resumed.model, whole.model)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]


def test_a_screening_keeps_no_features():
    """Those of screened samples would have another number of rows."""
    done = run(policy=SelfRegulation(confidence=0.3), training=Training(epochs=4, batch_size=8))
    assert done.meters.student_forwards > done.meters.samples_backpropagated


def test_without_features_two_trainings_are_the_same():
    plain = run(objective=KD())
    again = run(objective=KD())
    assert same_state(plain.model, again.model)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (FitNets("9", "2"), "the student has no module '9': did you mean 5 or"),
        (FitNets("2", "conv"), "the teacher has no module 'conv': did you mean"),
        (FitNets("[012]", "2"), "FitNets: student names 3 modules and teacher 1: name as many"),
        (FitNets("4", "2"), "FitNets: no adapter makes features of shape"),
    ],
)
def test_what_cannot_be_read_is_refused_before_any_training(objective, says):
    student, teacher = net(), net(seed=9, width=7)
    with pytest.raises(ModelError, match=says):
        run(student, teacher=teacher, objective=objective)
    assert same_state(student, net())
    assert hooks_of(student, teacher) == 0


def test_targets_without_features_are_refused_with_what_to_do():
    stored = StoredTargets.fill(net(seed=9), images())
    with pytest.raises(TargetsError, match=r"set targets\.kind to live, name the teacher's"):
        run(teacher=stored)


def test_a_criterion_without_models_says_what_to_do():
    with pytest.raises(ModelError, match="has no models to read them from"):
        Criterion(HINTS)
    with pytest.raises(ValueError, match="FitNets reads features: let"):
        HINTS(torch.zeros(1, 2), None, torch.zeros(1, dtype=torch.int64))


def own_loop(within=True, features=True):
    """A step of a user's own loop; returns the losses, and what should be trained."""
    data, student, live = images(), net(), LiveTeacher(net(seed=9, width=7))
    selection = Selection(data, epochs=1, batch_size=8, targets=live)
    x, _ = data.batch(*[np.arange(3)] * 2)
    criterion = bind(
        HINTS, student, live, batch=lambda: x, forward=student, samples=len(data), labels=None
    )
    selection.attach(features=criterion.features if features else ())
    with criterion if within else nullcontext():
        batch = next(iter(next(iter(selection))))
        losses = criterion(student(batch.data[0]), batch.labels, batch)
    batch.reduce(losses).backward()
    return losses, [*student.parameters(), *criterion.parts.parameters()]


def test_features_reach_a_users_own_loop():
    losses, trained = own_loop()
    assert losses.shape == (8,)
    assert all(parameter.grad is not None for parameter in trained)


def test_a_loop_without_hooks_or_features_is_refused():
    with pytest.raises(SelectionMisuse, match=r"feature 2 of the student: call it .* criterion"):
        own_loop(within=False)
    with pytest.raises(SelectionMisuse, match=r"teacher: call selection\.attach\(features"):
        own_loop(features=False)


def test_a_live_teacher_runs_once_for_logits_and_features():
    live = LiveTeacher(net(seed=9, width=7))
    done = run(teacher=live)
    assert live.queries == done.meters.teacher_queries == done.meters.samples_backpropagated


def test_what_is_computed_beside_the_student_counts_apart():
    """An adapter from 4 to 7 channels on maps of 36 places: 2 a multiply-add, once for the weights'
    gradient and once for the feature's."""
    plain, hints = run(objective=KD()), run()
    rows = hints.meters.samples_backpropagated
    assert hints.meters.flops["objective_forward"] == 2 * 4 * 7 * 36 * rows
    assert hints.meters.flops["objective_backward"] == 2 * 2 * 4 * 7 * 36 * rows
    assert hints.meters.flops["student_forward"] == plain.meters.flops["student_forward"]
    assert "objective_forward" not in plain.meters.flops


def test_counting_it_changes_no_memory_and_no_random_stream():
    objective = CRD("2", "2", dim=3, negatives=4)
    student, teacher = net(), LiveTeacher(net(seed=9, width=7))
    x, _ = images().batch(*[torch.arange(3).numpy()] * 2)
    criterion = bind(
        objective, student, teacher, batch=lambda: x, forward=student, samples=37, labels=None
    )
    before, state = copy.deepcopy(criterion.parts.state_dict()), torch.random.get_rng_state()
    flops = criterion.flops_per_row(8, 4, torch.device("cpu"))
    assert flops["forward"] > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in criterion.parts.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
