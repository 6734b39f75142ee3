"""The moving average and self-distillation against plain loops, resumed, from a recipe, refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError, RecipeError, Stopped, TargetsError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill as distill_recipe
from frugalkd.experiments.runs.schema import Results
from frugalkd.models.saved import load
from frugalkd.objectives import KD
from frugalkd.policies import All, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import EMATeacher, SeveralTeachers, StoredTargets
from frugalkd.teachers.average import EMA
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import grouped, images, net, order, same_columns, same_state


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def move(model: nn.Module, step: int) -> None:
    """Something like a training step: other weights, and BatchNorm's statistics move."""
    generator = torch.Generator().manual_seed(step)
    model.train()
    model(torch.randn(8, 3, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_average_is_the_mean_until_the_decay_is_reached(decay):
    model = small()
    ema = EMA(model, decay)
    expected = {}
    for step in range(1, 15):
        move(model, step)
        ema.update(model)
        keep = min(decay, 1 - 1 / step)
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                expected[name] = value.clone()
                continue
            before = expected.get(name, torch.zeros_like(value, dtype=torch.float64))
            expected[name] = keep * before + (1 - keep) * value.double()
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert ema.steps == 14


def test_the_model_is_unchanged_the_average_has_no_gradients():
    model = small()
    ema = EMA(model)
    move(model, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema.update(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in ema.model.modules())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_the_average_resumes_bit_for_bit():
    model = small()
    ema = EMA(model, 0.9)
    for step in range(5):
        move(model, step)
        ema.update(model)
    kept = {"steps": ema.steps, "model": {k: v.clone() for k, v in ema.model.state_dict().items()}}
    again = EMA(small(), 0.9)
    again.load_state_dict(kept)
    for step in range(5, 12):
        move(model, step)
        ema.update(model)
        again.update(model)
    for name, value in ema.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        EMA(small(), decay)


TRAINING = Training(
    epochs=2,
    batch_size=8,
    optimizer=Optimizer("sgd", lr=0.05),
    schedule=Schedule("constant"),
)
OBJECTIVE = KD(temperature=2.0, alpha=0.5)


def learn(student=None, teacher=None, **more):
    student = student or net()
    common = {"policy": All(), "training": TRAINING, "seed": 5, "objective": OBJECTIVE}
    return distill(
        student,
        images(),
        **grouped(teacher=teacher or EMATeacher(student, 0.8), device="cpu", **common | more),
    )


def test_it_equals_a_plain_loop_with_a_running_average():
    model, data, step = net(), images(), 0
    teacher = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    torch.manual_seed(5)
    model.train()
    for epoch in range(2):
        ids = order(37, 5, epoch)
        for start in range(0, 37, 8):
            chunk = ids[start : start + 8]
            x, y = data.batch(chunk, np.full(len(chunk), epoch))
            with torch.no_grad():
                said = teacher(x)
            OBJECTIVE(model(x), said, y).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            keep = min(0.8, 1 - 1 / step)
            now = model.state_dict()
            for name, value in teacher.state_dict().items():
                mixed = keep * value + (1 - keep) * now[name] if value.is_floating_point() else 0
                value.copy_(mixed if value.is_floating_point() else now[name])
    student = net()
    average = EMATeacher(student, 0.8)
    run = learn(student, average)
    for one, other in ((run.model, model), (average.ema.model, teacher)):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert run.meters.teacher_queries == 74
    flops = run.meters.flops
    assert flops["teacher_forward"] == flops["student_forward"] > 0


@pytest.mark.parametrize("several", [False, True], ids=["alone", "with another"])
def test_a_stopped_training_resumes_with_its_average(several, tmp_path, steps_done):
    def run(**more):
        student = net()
        own = EMATeacher(student, 0.8)
        teacher = SeveralTeachers({"own": own, "other": net(seed=9)}) if several else own
        gate = SelfRegulation(0.4, when="now", label_source="teacher")
        return learn(student, teacher, policy=gate, **more)

    whole = run()
    steps_done.clear()
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=lambda: len(steps_done) >= 3)
    resumed = run(folder=tmp_path, resume=True)
    assert same_state(whole.model, resumed.model)
    assert same_columns(whole.ledger, resumed.ledger)
    assert whole.meters.flops == resumed.meters.flops


def test_a_users_loop_updates_it():
    model, data = net(), images()
    teacher = EMATeacher(model, 0.8)
    selection = Selection(data, epochs=1, batch_size=8, targets=teacher, model=model)
    batches = iter(next(iter(selection)))
    first = next(batches)
    first.observe(model(first.data[0]))
    with pytest.raises(TargetsError, match=r"call update\(\) after each"):
        next(batches)
    teacher.update()
    again = EMATeacher(net(), 0.8)
    again.load_state_dict(teacher.state_dict())
    assert same_state(again.ema.model, teacher.ema.model)


def test_what_cannot_be_its_teacher_is_refused():
    with pytest.raises(ModelError, match=r"average of another model .* EMATeacher\(student\)"):
        learn(net(), EMATeacher(net()))
    with pytest.raises(TargetsError, match="its outputs cannot be stored"):
        StoredTargets.fill(EMATeacher(net()), images(augmented=False))


SMALL = {
    "data.train_size": 100,
    "student.training.epochs": 2,
    "student.targets": {"kind": "ema", "decay": 0.8},
}


def test_a_recipe_needs_no_other_teacher(tmp_path):
    recipe = override(load_recipe("digits"), SMALL)
    results = distill_recipe(recipe, tmp_path / "a")
    Results.model_validate(results)
    assert results["targets"]["kind"] == "ema"
    assert results["meters"]["teacher_queries"] > 0
    assert results["evaluation"]["teacher_agreement"] > 0.3
    other = override(recipe, {"teacher.model.options.hidden": [9]})
    assert run_digest("distill", other, None) == results["digest"]
    assert (
        run_digest("distill", override(recipe, {"student.targets.decay": 0.9}), None)
        != (results["digest"])
    )
    both = {"a": {"kind": "ema"}, "b": {"weights": "x.pt", "model": {"name": "mlp"}}}
    with pytest.raises(RecipeError, match="that of one to ema"):
        override(recipe, {"student.teachers": {"of": both}})
    weights = str(tmp_path / "a" / "student.safetensors")
    both["b"] = {"weights": weights, "model": {"name": "mlp", "options": {"hidden": [24]}}}
    mixed = {"student.targets.kind": "stored", "student.teachers": {"of": both}}
    results = distill_recipe(override(recipe, mixed), tmp_path / "b")
    assert results["meters"]["queries_of"]["b"] == 100
    assert not same_state(load(tmp_path / "a").model, load(tmp_path / "b").model)
