"""Models of timm and torchvision by name: as the libraries build them, refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError, UnknownName
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model
from frugalkd.models.initial import head_of_name
from frugalkd.models.saved import load
from toys import same_state

TIMM = pytest.importorskip("timm", reason="needs timm")
TORCHVISION = pytest.importorskip("torchvision", reason="needs torchvision")
SMALL = {"timm/mobilenetv3_small_050": 3, "timm/resnet10t": 1, "torchvision/squeezenet1_1": 3}


def build(name, *, channels=3, size: Any = 32, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=7, in_channels=channels, image_size=size, **options)


@pytest.mark.parametrize("name", SMALL)
def test_a_library_builds_for_the_data(name):
    model = build(name, channels=SMALL[name])
    assert model(torch.randn(2, SMALL[name], 32, 32)).shape == (2, 7)


def test_weights_are_those_that_the_library_draws():
    torch.manual_seed(0)
    theirs = TIMM.create_model("resnet10t", num_classes=7, in_chans=1, drop_rate=0.1)
    assert same_state(build("timm/resnet10t", channels=1, drop_rate=0.1), theirs)
    torch.manual_seed(0)
    theirs = TORCHVISION.models.mobilenet_v3_small(num_classes=7)
    assert same_state(build("torchvision/mobilenet_v3_small"), theirs)


def test_a_model_for_one_size_of_pictures_gets_that_size():
    model = build("timm/vit_tiny_patch16_224", size=(32, 48))
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("timm/resnet118", {}, UnknownName, "did you mean timm/resnet18"),
        ("timm/resnet18.a9_in1k", {}, UnknownName, "did you mean timm/resnet18."),
        ("timm/hf-hub:owner/model", {}, UnknownName, "unknown model"),
        ("torchvision/resnet17", {}, UnknownName, "did you mean torchvision/resnet1"),
        ("tim/resnet18", {}, UnknownName, "unknown library of models 'tim': did you mean timm"),
        ("timm/resnet10t", {"bogus": 1}, ModelError, "cannot be built with"),
        (
            "timm/resnet10t",
            {"pretrained": True},
            ModelError,
            "weights are named by model.init_weights",
        ),
        ("timm/resnet10t", {"checkpoint_path": "x"}, ModelError, "takes no option"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, ModelError, "takes no option 'weights'"),
        ("torchvision/resnet18", {"channels": 1}, ModelError, "needs colour images"),
        ("resnt8", {}, UnknownName, "did you mean resnet8"),
        (
            "lenet5",
            {"init_weights": "pretrained"},
            ModelError,
            "and has no pretrained weights",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, options, error, message):
    with pytest.raises(error, match=message) as refused:
        build(name, **options)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_names_its_extra(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=rf"pip install 'frugalkd\[{library}\]'"):
        build(f"{library}/resnet18")


def test_pretrained_weights_of_torchvision_get_a_new_head(tmp_path, monkeypatch):
    """Its cache is read first: nothing is downloaded here."""
    weights = TORCHVISION.models.MobileNet_V3_Small_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = TORCHVISION.models.mobilenet_v3_small(weights=None)
    torch.save(source.state_dict(), tmp_path / "hub/checkpoints" / weights.url.split("/")[-1])
    model = build("torchvision/mobilenet_v3_small", init_weights="pretrained")
    own, given = model.state_dict(), source.state_dict()
    head = head_of_name(model)
    assert all(
        torch.equal(own[name], given[name]) for name in own if not name.startswith(f"{head}")
    )
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


TIMMS = """
from pathlib import Path
import safetensors.torch, timm, torch
from frugalkd.errors import ModelError
from frugalkd.models import build_model
wanted = {"num_classes": 3, "in_channels": 1, "image_size": 32, "init_weights": "pretrained"}
try:
    build_model("timm/resnet10t", **wanted)
except ModelError as error:
    print(error)
theirs, hub = timm.create_model("resnet10t"), timm.get_pretrained_cfg("resnet10t").hf_hub_id
kept = Path("hub/models--" + hub.replace("/", "--"))
(kept / "snapshots/one").mkdir(parents=True)
(kept / "refs").mkdir()
(kept / "refs/main").write_text("one")
safetensors.torch.save_file(theirs.state_dict(), kept / "snapshots/one/model.safetensors")
model = build_model("timm/resnet10t", **wanted)
assert model.fc.weight.shape == (3, 512)
assert torch.equal(model.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
"""


@pytest.mark.heavy
def test_pretrained_weights_of_timm_come_from_the_hubs_cache(tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        offline.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", TIMMS], cwd=tmp_path, env=offline, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "the pretrained weights of 'timm/resnet10t' cannot be downloaded" in done.stdout
    assert "name a file that you have with model.init_weights" in done.stdout


def test_pretrained_weights_that_cannot_be_had(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.mobilenetv3._mobilenet_v3", unreachable)
    with pytest.raises(ModelError, match=r"no route to host.*name a file that you have"):
        build("torchvision/mobilenet_v3_small", init_weights="pretrained")


@pytest.mark.heavy
def test_a_recipe_names_them_and_a_run_folder_gives_them_back(tmp_path):
    recipe = override(
        load_recipe("digits"),
        {
            "data.train_size": 64,
            "teacher.model": {"name": "timm/resnet10t", "options": {"stem_width": 8}},
            "teacher.training": {"epochs": 1},
            "student.model": {
                "name": "torchvision/squeezenet1_1",
                "input_transform": {"size": 17, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
            },
            "student.training": {"epochs": 1},
        },
    )
    teach(recipe, tmp_path / "t")
    results = distill(recipe, tmp_path / "s", teacher=tmp_path / "t")
    assert (
        json.loads((tmp_path / "s/model.json").read_text())["model"]["input_transform"]["size"]
        == 17
    )
    student = load(tmp_path / "s").model
    assert type(student).__module__.startswith("torchvision")
    assert student(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert results["evaluation"]["accuracy"] >= 0


def test_a_model_that_needs_memory_to_be_built_comes_back_too(tmp_path):
    """torchvision's RegNets read numbers off tensors while they are built."""
    card = {
        "schema": 1, "weights": "w.safetensors", "model": {"name": "torchvision/regnet_y_400mf"},
        "num_classes": 7, "shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3,
        "classes": list("abcdefg"),
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(card))
    model = build("torchvision/regnet_y_400mf")
    save_weights(tmp_path / "w.safetensors", model)
    assert same_state(load(tmp_path).model, model)
