"""``training.ema``: the average is the trained model, whatever stops on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from frugalkd.errors import Stopped
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import teach
from frugalkd.models.saved import load
from frugalkd.policies import All, SelfRegulation
from frugalkd.training.api import train_teacher
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import grouped, images, net, order, same_state

TRAINING = Training(
    epochs=3,
    batch_size=8,
    optimizer=Optimizer("sgd", lr=0.05),
    schedule=Schedule("constant"),
    ema=0.8,
)


def train(training=TRAINING, policy=None, **given):
    common = {"training": training, "seed": 5, "device": "cpu", "eval_dataset": images(12, seed=1)}
    return train_teacher(net(), images(), **grouped(policy=policy or All(), **common | given))


def test_it_is_the_average_of_a_plain_loop():
    """Weights and BatchNorm's statistics, averaged in float64 after each step."""
    model, data, step, average = net(), images(), 0, {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    torch.manual_seed(5)
    model.train()
    for epoch in range(3):
        ids = order(37, 5, epoch)
        for start in range(0, 37, 8):
            chunk = ids[start : start + 8]
            x, y = data.batch(chunk, np.full(len(chunk), epoch))
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            keep = min(0.8, 1 - 1 / step)
            for name, value in model.state_dict().items():
                average[name] = keep * average.get(name, 0.0) + (1 - keep) * value.double()
    run = train()
    assert step == 15
    for name, value in run.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-5)


def test_training_and_the_samples_used_stay_the_same():
    gate = SelfRegulation(confidence=0.5)
    plain, averaged = train(replace(TRAINING, ema=None), gate), train(policy=gate)
    assert plain.history[-1]["loss"] == averaged.history[-1]["loss"]
    assert (plain.ledger["visits"] == averaged.ledger["visits"]).all()
    assert not same_state(plain.model, averaged.model)
    assert same_state(plain.model, train(replace(TRAINING, ema=0.0), gate).model)


def test_it_is_what_is_measured():
    run = train()
    model, data = run.model, images(12, seed=1)
    assert not model.training
    with torch.no_grad():
        x, y = data.batch(range(12), np.zeros(12, int))
        accuracy = float((model(x).argmax(1) == y).float().mean())
    assert run.evaluation is not None
    assert run.evaluation["accuracy"] == pytest.approx(accuracy)


def test_batchnorm_is_refreshed_for_the_averaged_weights():
    run = train(replace(TRAINING, recalibrate_bn=37))
    weights = dict(train().model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in run.model.named_parameters())
    assert not same_state(run.model, train().model)


@pytest.mark.parametrize("at", [1, 5, 7, 15])
def test_a_stopped_run_resumes_to_the_same_average(at, tmp_path, steps_done):
    whole = train()
    steps_done.clear()
    with pytest.raises(Stopped):
        train(folder=tmp_path, should_stop=lambda: len(steps_done) >= at)
    resumed = train(folder=tmp_path, resume=True)
    assert same_state(whole.model, resumed.model)
    assert whole.evaluation == resumed.evaluation


@pytest.mark.parametrize("decay", [1.0, -0.5, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema must be (in \[0, 1\)|a finite number)"):
        Training(ema=decay)


def test_a_recipe_exports_it(tmp_path):
    small = {"data.train_size": 100, "teacher.training.epochs": 3}
    plain = override(load_recipe("digits"), small)
    recipe = override(plain, {"teacher.training.ema": 0.9})
    assert run_digest("teach", plain, None) != run_digest("teach", recipe, None)
    results = teach(recipe, tmp_path / "average")
    teach(plain, tmp_path / "last")
    average, last = (load(tmp_path / name).model for name in ("average", "last"))
    assert not same_state(average, last)
    assert results["recipe"]["teacher"]["training"]["ema"] == 0.9
    assert results["meters"]["phases"]["average"] > 0
