"""The teacher's classifier as the student's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import frugalkd
from frugalkd.errors import ModelError, RecipeError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import distill as distill_recipe
from frugalkd.experiments.runs.execute import teach
from frugalkd.models.reuse import put_projector, take_classifier
from frugalkd.models.saved import load
from frugalkd.objectives import SimKD
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import images, net


def test_the_student_ends_in_the_teachers_layer_and_learns_what_it_gets():
    student, teacher = net(), net(9, width=7)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    path = frugalkd.reuse_classifier(student, teacher)
    assert path == "5.projector"
    objective = SimKD(path, "5:input")
    training = Training(epochs=3, batch_size=8)
    run = distill(
        student, images(), teacher=teacher, objective=objective, training=training, device="cpu"
    )
    assert torch.equal(student[5].classifier.weight, teacher[5].weight)
    assert torch.equal(student[5].classifier.bias, teacher[5].bias)
    losses = [record["loss"] for record in run.history]
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_what_cannot_be_reused_is_refused():
    with pytest.raises(ModelError, match="the teacher has no linear layer"):
        frugalkd.reuse_classifier(net(), nn.Flatten())
    student = net()
    put_projector(student, 3)
    wide = net(9, width=7)
    with pytest.raises(
        ModelError, match=rf"set student\.model\.reuse_classifier_dim to {wide[5].in_features}$"
    ):
        take_classifier(student, wide)
    with pytest.raises(ModelError, match="name the projector of a student that reuses"):
        distill(net(), images(), teacher=wide, objective=SimKD("2", "2"), device="cpu")


def test_a_recipe_reuses_it_and_what_it_leaves_can_be_loaded(tmp_path):
    few = ["data.train_size=100", "teacher.training.epochs=2", "student.training.epochs=2"]
    recipe = load_recipe("digits", few)
    reuse = {
        "student.model.reuse_classifier_dim": 256,
        "student.objective": {
            "name": "simkd",
            "student": "layers.3.projector",
            "teacher": "layers.5:input",
        },
        "student.targets.features": ["layers.5:input"],
    }
    teach(recipe, tmp_path / "t")
    results = distill_recipe(override(recipe, reuse), tmp_path / "s", teacher=tmp_path / "t")
    assert results["targets"]["features"] == ["layers.5:input"]
    student, teacher = load(tmp_path / "s").model, load(tmp_path / "t").model
    own = student.get_submodule("layers.3.classifier")
    assert torch.equal(own.weight, teacher.get_submodule("layers.5").weight)  # pyright: ignore
    wrong = override(recipe, reuse | {"student.model.reuse_classifier_dim": 255})
    with pytest.raises(ModelError, match=r"set student\.model\.reuse_classifier_dim to 256"):
        distill_recipe(wrong, tmp_path / "w", teacher=tmp_path / "t")
    with pytest.raises(RecipeError, match="the teacher has a classifier"):
        override(recipe, {"teacher.model.reuse_classifier_dim": 256})
