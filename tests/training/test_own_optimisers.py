"""Optimisers and schedules by import path."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from frugalkd import train_teacher
from frugalkd.errors import ModelError, NonFiniteLoss, RecipeError, SettingError, Stopped
from frugalkd.experiments.recipes.load import check_names, import_paths, load_recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.policies import All
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import Wild, grouped, images, net, same_state

RADAM = Optimizer(
    path="torch.optim:RAdam", lr=0.02, weight_decay=0.1, options={"betas": (0.8, 0.9)}
)


def trained(training=None, policy=None, **more):
    training = training or Training(epochs=3, batch_size=8, optimizer=RADAM)
    given = {"training": training, "device": "cpu", "policy": policy or All(), **more}
    return train_teacher(net(2), images(), **grouped(**given))


def cosine(progress):
    return (1 + math.cos(math.pi * progress)) / 2


def fails(done):
    return 1 / done


def negative(progress):
    return -1.0


def no_optimizer(params, lr):
    return lr


def test_a_path_to_the_same_optimiser_is_the_same_training():
    named = Optimizer("adamw", lr=0.02, weight_decay=0.1, betas=(0.8, 0.9))
    options = {"betas": (0.8, 0.9), "fused": True}
    given = replace(RADAM, path="torch.optim:AdamW", options=options)
    one, other = (
        trained(Training(epochs=3, batch_size=8, optimizer=each)) for each in (named, given)
    )
    assert same_state(one.model, other.model)


def test_a_function_in_the_place_of_a_shape():
    given = Schedule(path=f"{__name__}:cosine", warmup=0.2)
    one, other = (
        trained(Training(epochs=3, batch_size=8, optimizer=RADAM, schedule=each))
        for each in (Schedule("cosine", warmup=0.2), given)
    )
    assert same_state(one.model, other.model)


def test_a_stopped_run_resumes_with_it(tmp_path):
    whole, steps = trained(), []

    def stop():
        steps.append(1)
        return len(steps) == 7

    with pytest.raises(Stopped):
        trained(folder=tmp_path, should_stop=stop)
    assert same_state(whole.model, trained(folder=tmp_path, resume=True).model)


class Counted(torch.optim.SGD):
    taken: ClassVar[list[bool]] = []

    def step(self, closure=None):
        self.taken.append(all(p.grad.isfinite().all() for p in self.param_groups[0]["params"]))
        super().step(closure)


def test_a_bad_step_is_not_taken():
    Counted.taken.clear()
    training = Training(epochs=3, batch_size=8, optimizer=Optimizer(path=f"{__name__}:Counted"))
    with pytest.raises(NonFiniteLoss):
        trained(training, policy=Wild(1, 1e39))
    assert Counted.taken
    assert all(Counted.taken)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "message"),
    [
        (Optimizer(path=f"{__name__}:no_optimizer"), Schedule(), "made a float: name an optim"),
        (Optimizer(path="torch.optim:Nope"), Schedule(), "Nope"),
        (RADAM, Schedule(path=f"{__name__}:fails"), "fails at progress 0 .ZeroDivisionError"),
        (replace(RADAM, options={"beta": 1}), Schedule(), "takes no option 'beta': did you mean b"),
        (RADAM, Schedule(path=f"{__name__}:negative"), "gives -1.0 at progress 0: a number from 0"),
    ],
)
def test_what_is_none_is_one_line(optimizer, schedule, message):
    training = Training(epochs=1, batch_size=8, optimizer=optimizer, schedule=schedule)
    with pytest.raises(ModelError, match=message) as raised:
        trained(training)
    assert "\n" not in str(raised.value)


def test_a_name_or_a_path():
    with pytest.raises(SettingError, match="options must be left out without a path"):
        Optimizer(options={"betas": 1})
    with pytest.raises(SettingError, match="name must be adamw or sgd, unless there is a path"):
        Optimizer(name=None)


def test_a_recipe_names_them():
    said = ["student.training.optimizer={path: 'torch.optim:RAdam', lr: 0.01}"]
    said += ["teacher.training.schedule={path: 'mine:curve'}"]
    recipe = load_recipe("digits", said)
    assert import_paths(recipe) == ["mine:curve", "torch.optim:RAdam"]
    assert run_digest("distill", recipe, None) != run_digest("distill", load_recipe("digits"), None)
    wrong = load_recipe("digits", ["student.training.optimizer.path=RAdam"])
    with pytest.raises(
        RecipeError, match=r"student.training.optimizer.path is 'RAdam': write pack"
    ):
        check_names(wrong)
