from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.timing.loops import engine, plain, plain_loop
from benchmarks.timing.runners import Task
from frugalkd.errors import ModelError
from frugalkd.experiments.recipes.load import override
from frugalkd.objectives import KD
from frugalkd.training.optimizers import factor
from frugalkd.training.settings import Optimizer, Schedule, Training

STORED = {"student.targets.kind": "stored"}


def test_the_plain_loop_trains_the_same_model():
    """Weights after two epochs equal those of the mean objective and the schedule per step."""
    torch.manual_seed(0)
    x, y, soft = torch.randn(10, 3), torch.randint(4, (10,)), torch.randn(10, 4)
    model = nn.Linear(3, 4, bias=False)
    ours = copy.deepcopy(model)
    training = Training(epochs=2, batch_size=4, optimizer=Optimizer(lr=0.1, weight_decay=0.1))
    kd = KD(temperature=3.0, alpha=0.7)
    torch.manual_seed(1)
    plain_loop(model, x, y, soft, training, kd)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.1)
    step = 0
    for _ in range(2):
        for rows in torch.randperm(10).split(4):
            optimizer.param_groups[0]["lr"] = 0.1 * factor(Schedule(), step / 6, (step + 1) / 6)
            kd(ours(x[rows]), soft[rows], y[rows]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    torch.testing.assert_close(model.weight, ours.weight)


def test_engine_and_plain_loop_report_the_same_work(recipe, tmp_path):
    task = Task("engine", override(recipe, STORED), tmp_path)
    run = engine(task)
    first, again = run(), run()
    assert first["budget"] == again["budget"] == plain(task)()["budget"] == 1.0
    assert first["meters"]["samples_backpropagated"] == 800
    assert first["meters"]["teacher_queries"] == 0
    assert first["meters"]["phases"]["forward"] > 0


def test_without_phases_no_phase_is_timed(recipe, tmp_path):
    run = engine(Task("engine", override(recipe, STORED), tmp_path, {"phases": False}))
    phases = run()["meters"]["phases"]
    assert sum(seconds for name, seconds in phases.items() if name != "other") == 0


def test_a_live_teacher_is_queried_for_each_row(recipe, tmp_path):
    run = engine(Task("engine", recipe, tmp_path))
    run()
    assert run()["meters"]["teacher_queries"] == 800


def test_the_plain_loop_refuses_other_optimizers(recipe, tmp_path):
    other = override(recipe, {**STORED, "student.training.optimizer.name": "sgd"})
    with pytest.raises(ModelError, match="adamw and kd"):
        plain(Task("plain", other, tmp_path))
