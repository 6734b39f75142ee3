"""What holds of every objective: a new one in the registry is tested here without another line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from frugalkd import Sampling
from frugalkd.errors import TargetsError
from frugalkd.objectives import OBJECTIVES, BatchObjective, FeatureObjective
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import All
from frugalkd.teachers import LiveTeacher
from frugalkd.teachers.encodings import Fidelity
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import grouped, images, net

LOGITS = [name for name, made in OBJECTIVES.items() if not issubclass(made, FeatureObjective)]


@pytest.fixture(params=LOGITS)
def objective(request) -> Any:
    return OBJECTIVES[request.param]()


def batch(rows=5, classes=4, dtype=torch.float64, seed=0, spread=2.0):
    stream = torch.Generator().manual_seed(seed)
    logits, targets = spread * torch.randn(2, rows, classes, generator=stream, dtype=dtype)
    return logits, targets, torch.randint(classes, (rows,), generator=stream)


def labels_for(objective, labels, width):
    """Class indices; of values or several labels one of each output."""
    output = OUTPUTS[objective.learns]
    labelled = output.labelled and not output.by_top_class and labels.ndim == 1
    return one_hot(labels, width).float() if labelled else labels


def losses_of(objective, logits, targets, labels, weights=None):
    """The losses, with weights where the objective takes them."""
    labels = labels_for(objective, labels, logits.shape[1])
    if isinstance(objective, BatchObjective):
        return objective(logits, targets, labels, weights)
    return objective(logits, targets if objective.needs_targets else None, labels)


def data_for(objective, **settings):
    data = images(**settings)
    return data._with(labels=labels_for(objective, data.labels, data.num_classes))


def loss_of(objective, logits, targets, labels, weights):
    """The batch's loss, reduced as ``Batch.reduce`` does it."""
    return (weights * losses_of(objective, logits, targets, labels, weights)).sum() / len(logits)


def gradient(objective, logits, targets, labels, weights):
    logits = logits.clone().requires_grad_()
    loss = loss_of(objective, logits, targets, labels, weights)
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("classes", [2, 7])
def test_it_gives_one_finite_loss_a_row_in_float32(objective, rows, classes):
    for spread in (0.0, 2.0, 1e3):
        logits, targets, labels = batch(rows, classes, torch.float32, spread=spread)
        for given in (logits, logits.bfloat16()):
            given = given.clone().requires_grad_()
            losses = losses_of(objective, given, targets, labels)
            assert losses.shape == (rows,)
            assert losses.dtype == torch.float32
            assert losses.isfinite().all()
            assert torch.autograd.grad(losses.sum(), given)[0].isfinite().all()
    assert losses_of(objective, logits.double(), targets, labels).dtype == torch.float64


def test_half_precision_is_computed_in_float32(objective):
    logits, targets, labels = batch(dtype=torch.bfloat16)
    whole = losses_of(objective, logits.float(), targets.float(), labels)
    torch.testing.assert_close(losses_of(objective, logits, targets, labels), whole, rtol=0, atol=0)


def test_an_autocast_rounds_nothing(objective):
    given = batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        within = losses_of(objective, *given)
    assert torch.equal(within, losses_of(objective, *given))


@pytest.mark.parametrize("rows", [1, 4])
def test_its_gradient_is_that_of_the_weighted_loss(objective, rows):
    logits, targets, labels = batch(rows)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.3], dtype=torch.float64)[:rows]
    torch.autograd.gradcheck(
        lambda z: loss_of(objective, z, targets, labels, weights), logits.requires_grad_()
    )


def test_weights_of_one_change_nothing(objective):
    logits, targets, labels = batch()
    plain, ones = losses_of(objective, logits, targets, labels), torch.ones(5)
    assert torch.equal(losses_of(objective, logits, targets, labels, ones), plain)
    torch.testing.assert_close(
        loss_of(objective, logits, targets, labels, ones), plain.mean(), rtol=1e-14, atol=0
    )


def test_a_sample_of_weight_zero_is_as_if_it_were_not_there(objective):
    """It has no gradient, and whatever it is, the others' gradients and the loss stay the same."""
    logits, targets, labels = batch()
    weights = torch.tensor([0.7, 0.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    first = gradient(objective, logits, targets, labels, weights)
    loss = loss_of(objective, logits, targets, labels, weights)
    assert first[1].eq(0).all()
    assert (first[[0, 2, 3, 4]].abs().sum(dim=1) > 0).all()
    for moved in (logits, targets):
        moved[1] = torch.tensor([90.0, -3.0, 0.0, 1.0])
        again = gradient(objective, logits, targets, labels, weights)
        torch.testing.assert_close(again, first, rtol=1e-12, atol=1e-15)
        same = loss_of(objective, logits, targets, labels, weights)
        torch.testing.assert_close(same, loss, rtol=1e-12, atol=0)
    for zeros in (torch.zeros(5, dtype=torch.float64), torch.zeros(5)):
        assert gradient(objective, logits, targets, labels, zeros).eq(0).all()


def test_rows_may_come_in_any_order(objective):
    logits, targets, labels = batch()
    weights = torch.tensor([0.7, 0.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    losses = losses_of(objective, logits, targets, labels, weights)
    again = losses_of(objective, logits[order], targets[order], labels[order], weights[order])
    torch.testing.assert_close(again, losses[order])


def test_rows_mix_only_where_it_says_so(objective):
    logits, targets, labels = batch()
    logits.requires_grad_()
    losses = losses_of(objective, logits, targets, labels)
    rows = torch.autograd.grad(losses[2], logits)[0].abs().sum(dim=1) > 0
    alone = [row == 2 for row in range(5)]
    assert (rows.tolist() == alone) is not objective.mixes_rows


def test_without_its_teacher_it_says_so(objective):
    if objective.needs_targets:
        logits, _, labels = batch()
        with pytest.raises(ValueError, match="needs the teacher's outputs"):
            objective(logits, None, labels)


def test_its_settings_are_frozen_plain_values(objective):
    assert dataclasses.is_dataclass(type(objective))
    assert objective == type(objective)()
    for field in dataclasses.fields(objective):
        assert isinstance(field.default, int | float | str | tuple)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective, field.name, field.default)
        if isinstance(field.default, float):
            for wrong in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"^{field.name} must "):
                    type(objective)(**{field.name: wrong})


def test_what_it_reads_is_what_it_needs_of_the_teacher(objective):
    """A row's own shift changes nothing unless it reads the logits themselves; the softmax at one
    temperature is all it sees if it says that."""
    logits, targets, labels = batch()
    losses = losses_of(objective, logits, targets, labels)
    shift = torch.arange(5)[:, None]
    same = torch.allclose(losses_of(objective, logits, targets + shift, labels), losses)
    assert same is (objective.reads < Fidelity.VALUES or not objective.needs_targets)
    if objective.needs_targets and objective.reads < Fidelity.DIFFERENCES:
        assert objective.temperature > 0


def test_targets_that_keep_too_little_are_refused(objective):
    if not objective.needs_targets:
        return
    for keeps in Fidelity:
        narrow = max(keeps, objective.reads) < Fidelity.DIFFERENCES
        at = objective.temperature if narrow else None
        teacher: Any = LiveTeacher(net(seed=9))
        teacher.keeps, teacher.temperature = keeps, at
        training = Training(epochs=0.25, batch_size=8)
        learn = {"teacher": teacher, "objective": objective, "training": training}
        if keeps < objective.reads:
            with pytest.raises(
                TargetsError, match=r"set targets\.encoding to .* targets\.kind to live$"
            ):
                distill(net(), data_for(objective), **grouped(device="cpu", **learn))
        elif keeps == objective.reads:
            distill(net(), data_for(objective), **grouped(device="cpu", **learn))


def test_a_training_weighs_it(objective):
    """A step's loss is the one computed by hand, with the weights."""
    data, teacher = data_for(objective, augmented=False), net(seed=9).eval()
    weights = torch.rand(len(data), generator=torch.Generator().manual_seed(0))
    inputs, labels = data.batch(np.arange(len(data)), np.zeros(len(data), dtype=np.int64))
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with torch.no_grad():
        loss = loss_of(objective, student(inputs), teacher(inputs), labels, weights)
    run = distill(
        student,
        data,
        teacher=teacher,
        sampling=Sampling(policy=All(), weights=weights.numpy()),
        objective=objective,
        training=Training(epochs=1, batch_size=len(data)),
        device="cpu",
    )
    assert run.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
