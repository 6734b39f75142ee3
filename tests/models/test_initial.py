"""What a training starts from: a file's weights except a head of other classes, or the teacher's
classifier."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

import frugalkd
from frugalkd.errors import ModelError, RecipeError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import what_decides
from frugalkd.experiments.runs.execute import distill as distill_recipe
from frugalkd.experiments.runs.execute import teach
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model
from frugalkd.models.initial import (
    init_from,
    put_projector,
    take_classifier,
    weights_file,
)
from frugalkd.models.saved import load
from frugalkd.objectives import SimKD
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import images, net, same_state


def mlp(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("mlp", num_classes=classes, in_channels=1, image_size=6, hidden=[5])


def head(model: nn.Module) -> nn.Linear:
    found = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert isinstance(found, nn.Linear)
    return found


def test_all_of_a_file_that_fits(tmp_path):
    save_weights(tmp_path / "w.safetensors", mlp(seed=1))
    model = mlp()
    init_from(model, tmp_path / "w.safetensors")
    assert same_state(model, mlp(seed=1))


@pytest.mark.parametrize("kept", ["other classes", "no bias", "no head"])
def test_a_head_that_does_not_fit_is_drawn(tmp_path, kept):
    source, model = mlp(9 if kept == "other classes" else 4, seed=1), mlp()
    before = {name: tensor.clone() for name, tensor in head(model).state_dict().items()}
    state = source.state_dict()
    last = [name for name in state if state[name].shape[:1] == head(source).weight.shape[:1]]
    if kept != "other classes":
        for name in last[1:] if kept == "no bias" else last:
            del state[name]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    init_from(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], head(model).state_dict()[name]) for name in before)
    own = model.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if name not in last)


def test_what_is_not_the_head_must_fit(tmp_path):
    torch.manual_seed(1)
    other = build_model("mlp", num_classes=4, in_channels=1, image_size=6, hidden=[7])
    save_weights(tmp_path / "w.safetensors", other)
    with pytest.raises(ModelError, match="does not fit the model"):
        init_from(mlp(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"no weights at nowhere\.pt"):
        init_from(mlp(), "nowhere.pt")


def test_a_model_without_a_head_takes_all_or_nothing(tmp_path):
    torch.save(nn.Conv2d(1, 2, 3).state_dict(), tmp_path / "w.pt")
    init_from(nn.Conv2d(1, 2, 3), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="does not fit"):
        init_from(nn.Conv2d(1, 3, 3), tmp_path / "w.pt")


def test_a_file_inside_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "a_wheel" / "models").mkdir(parents=True)
    (tmp_path / "a_wheel" / "__init__.py").write_text("raise RuntimeError('imported')")
    save_weights(tmp_path / "a_wheel/models/w.safetensors", mlp(seed=1))
    monkeypatch.syspath_prepend(tmp_path)
    model = mlp()
    init_from(model, "a_wheel/models/w.safetensors")
    assert same_state(model, mlp(seed=1))
    assert weights_file("a_wheel/models/other.pt").name == "other.pt"


def test_a_student_is_tuned_from_where_it_starts(tmp_path):
    """An epoch of nothing leaves the weights as they were; the bytes decide the digest."""
    recipe = override(
        load_recipe("digits"),
        {
            "student.model": {"name": "mlp", "options": {"hidden": [5]}},
            "student.mode": "vanilla",
            "student.objective": {"name": "cross-entropy"},
            "student.training": {"epochs": 0.1, "optimizer": {"lr": 1e-12, "weight_decay": 0}},
        },
    )
    start = build_model("mlp", num_classes=10, in_channels=1, image_size=8, hidden=[5])
    save_weights(tmp_path / "w.safetensors", start)
    begun = override(recipe, {"student.model.init_weights": str(tmp_path / "w.safetensors")})
    distill_recipe(begun, tmp_path / "s")
    tuned = safetensors.torch.load_file(tmp_path / "s" / "student.safetensors")
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(tuned[name], tensor, atol=1e-6, rtol=0)

    def said(recipe):
        return what_decides("distill", recipe, taught=False)["student"]["model"]

    assert len(said(begun)["init_weights"]) == 64
    (tmp_path / "w.safetensors").rename(tmp_path / "moved.safetensors")
    moved = override(recipe, {"student.model.init_weights": str(tmp_path / "moved.safetensors")})
    assert said(moved)["init_weights"] != said(begun)["init_weights"], (
        "the first is gone: named by its path"
    )
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "moved.safetensors").read_bytes())
    assert said(moved) == said(begun)


def test_the_student_ends_in_the_teachers_frozen_layer():
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
