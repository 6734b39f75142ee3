"""Self-distillation against a plain loop, resumed, from a recipe; and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

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
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import grouped, images, net, order, same_columns, same_state

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


def test_it_is_a_plain_loop_whose_teacher_is_a_running_average():
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
def test_a_stopped_training_goes_on_with_the_average_that_there_was(several, tmp_path, steps_done):
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


def test_a_loop_of_ones_own_updates_it():
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
    with pytest.raises(TargetsError, match="changes with each step"):
        StoredTargets.fill(EMATeacher(net()), images(augmented=False))


SMALL = {
    "data.train_size": 100,
    "student.training.epochs": 3,
    "student.targets": {"kind": "ema", "decay": 0.8},
}


def test_a_recipe_needs_no_teacher_for_it(tmp_path):
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
