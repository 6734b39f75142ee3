from __future__ import annotations

import copy
import math
import sys

import pytest
import torch

from benchmarks.timing import torchdistill as arm
from benchmarks.timing.runners import Task
from frugalkd.data import ImageData
from frugalkd.errors import ModelError
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.runs.from_recipe import make_data, make_model, make_teacher
from frugalkd.training.optimizers import factor, make_optimizer

pytest.importorskip("torchdistill", reason="torchdistill is not installed: pip install '.[bench]'")


class Recorded(arm.Batches):
    """Batches that record the ids that were read."""

    def __init__(self, data):
        super().__init__(data)
        self.ids = []

    def __getitems__(self, ids):
        self.ids.append(ids)
        return super().__getitems__(ids)


@pytest.mark.parametrize("crop", [0, 1])
def test_it_trains_the_same_as_vanilla_distillation(recipe, teacher, crop):
    """The weights after two epochs equal those of frugalkd's objective and optimiser."""
    own = {"student.augment": {"crop": crop, "flip": False}}
    recipe = override(recipe, {**own, "student.training.schedule.warmup": 0.3})
    data = make_data(recipe, recipe.student.augment, 0).train
    assert isinstance(data, ImageData)
    master = make_teacher(recipe, teacher, data).eval()
    student = make_model(recipe.student.model, data, 0)
    ours, before = copy.deepcopy(student), copy.deepcopy(master.state_dict())
    batches = Recorded(data)
    arm.train(arm.make_box(master, student, batches, recipe), batches, epochs=2)

    steps = math.ceil(200 / 32)
    assert len(batches.ids) == 2 * steps
    for epoch in (batches.ids[:steps], batches.ids[steps:]):
        assert sorted(id for ids in epoch for id in ids) == list(range(200))
    assert not master.training
    assert all(torch.equal(value, before[name]) for name, value in master.state_dict().items())
    assert all(parameter.grad is None for parameter in master.parameters())

    training, objective = recipe.student.training, recipe.student.objective.build()
    optimizer = make_optimizer(ours, training.optimizer)
    for step, ids in enumerate(batches.ids):
        for group in optimizer.param_groups:
            group["lr"] = training.optimizer.lr * factor(
                training.schedule, step / (4 * steps), (step + 1) / (4 * steps)
            )
        batches.epoch = step // steps
        inputs, labels, _ = arm.Batches.__getitems__(batches, ids)
        with torch.no_grad():
            targets = master(inputs)
        objective(ours(inputs), targets, labels).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_part_has_no_accuracy(recipe, teacher, tmp_path):
    part = arm.prepare(Task("torchdistill", recipe, tmp_path, {}, teacher, part=1))()
    assert part["accuracy"] is None
    assert part["meters"]["samples_backpropagated"] == part["meters"]["teacher_queries"] == 200
    whole = arm.prepare(Task("torchdistill", recipe, tmp_path, {}, teacher))()
    assert whole["accuracy"] > 0
    assert whole["meters"]["samples_backpropagated"] == 800


@pytest.mark.parametrize("fast", [False, True])
def test_memory_formats_are_applied(recipe, teacher, tmp_path, monkeypatch, fast):
    made = []
    monkeypatch.setattr(arm, "make_teacher", lambda *_: torch.nn.Conv2d(2, 2, 3))
    monkeypatch.setattr(arm, "make_model", lambda *_: torch.nn.Conv2d(2, 2, 3))
    monkeypatch.setattr(
        arm, "make_box", lambda teacher, student, *_: made.extend([teacher, student])
    )
    recipe = override(recipe, {"student.training.channels_last": fast})
    options = {"teacher_channels_last": True} if fast else {}
    arm.prepare(Task("torchdistill", recipe, tmp_path, options, teacher))
    for model in made:
        assert model.weight.is_contiguous(memory_format=torch.channels_last) is fast
    assert len(made) == 2


def test_another_objective_is_refused(recipe, teacher, tmp_path):
    other = override(recipe, {"student.objective": {"name": "cross-entropy"}})
    with pytest.raises(ModelError, match="supports only the objective kd"):
        arm.prepare(Task("torchdistill", other, tmp_path, {}, teacher))


def test_the_error_without_it_says_what_to_install(recipe, teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdistill.core.distillation", None)
    with pytest.raises(ModelError, match=r"^torchdistill cannot be imported .*frugalkd\[bench\]"):
        arm.prepare(Task("torchdistill", recipe, tmp_path, {}, teacher))
