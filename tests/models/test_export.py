"""Exported files give the model's logits and say how to use them; others are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError, RunFolderError
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model, build_text_model, reorder_classes
from frugalkd.models.saved import Loaded, load
from toys import same_state

KINDS = ("ant", "bee", "cat")
PICTURES = {
    "schema": 1,
    "model": {
        "name": "resnet8",
        "options": {},
        "input_transform": {"size": 8, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2]},
    },
    "weights": "student.safetensors",
    "num_classes": 3,
    "shape": [1, 6, 5],
    "mean": [0.4],
    "std": [0.25],
    "classes": list(KINDS),
}
TEXTS = {
    "schema": 1,
    "model": {"name": "text-cnn", "options": {"ngrams": 2, "buckets": 512}},
    "weights": "student.safetensors",
    "num_classes": 3,
    "vocabulary": 65535,
    "tokenizer": "words",
    "max_length": 12,
    "classes": list(KINDS),
}
WORDS = ["a card that is lost", "why", "the rate of today is not that of yesterday"]


def run_of(folder: Path, card: dict[str, Any]) -> Loaded:
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(card))
    torch.manual_seed(0)
    options = card["model"]["options"]
    if "shape" in card:
        model = build_model("resnet8", num_classes=3, in_channels=3, image_size=8, **options)
    else:
        model = build_text_model("text-cnn", num_classes=3, vocabulary=65535, **options)
    for module in model.modules():  # as a training leaves them
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore
    save_weights(folder / "student.safetensors", model)
    return load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Loaded:
    return run_of(tmp_path_factory.mktemp("pictures") / "run", PICTURES)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Loaded:
    return run_of(tmp_path_factory.mktemp("texts") / "run", TEXTS)


def images(rows: int) -> torch.Tensor:
    return torch.randint(256, (rows, 1, 6, 5), generator=torch.manual_seed(rows)).to(torch.uint8)


def inputs_of(loaded: Loaded, rows: int) -> dict[str, torch.Tensor]:
    """Prepared by frugalkd, from what a user has."""
    if loaded.preprocess is not None:
        return {"pixel_values": loaded.preprocess(images(rows))}
    assert loaded.texts is not None
    [batch] = loaded.texts.batches((WORDS * rows)[:rows])
    return batch


def logits(loaded: Loaded, batch: dict[str, torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        inputs = batch.get("pixel_values")
        made = loaded.model(**batch) if inputs is None else loaded.model(inputs)
    return made.numpy()


def session_of(file: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "texts"])
@pytest.mark.heavy
def test_onnxruntime_gives_the_logits(kind, request, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    loaded: Loaded = request.getfixturevalue(kind)
    calibration = images(200) if kind == "pictures" else None
    files = loaded.export(tmp_path / "new" / "o", int8=True, calibration=calibration)
    assert [file.name for file in files] == ["student.onnx", "student-int8.onnx"]
    assert sorted(path.name for path in (tmp_path / "new" / "o").iterdir()) == sorted(
        file.name for file in files
    )
    full, small = map(session_of, files)
    for rows in (1, 3, 65):
        batch = inputs_of(loaded, rows)
        feed = {name: values.numpy() for name, values in batch.items()}
        want = logits(loaded, batch)
        np.testing.assert_allclose(full.run(["logits"], feed)[0], want, atol=1e-5)
        quantised = small.run(["logits"], feed)[0]
        assert 0 < np.abs(quantised - want).max() < 0.1 * np.abs(want).max()
    assert files[1].stat().st_size < files[0].stat().st_size
    said = json.loads(full.get_modelmeta().custom_metadata_map["frugalkd"])
    assert said["classes"] == list(KINDS)
    prepare = said["preprocessing"]
    if kind == "pictures":  # the numbers in the file prepare an image
        pixels = images(2).numpy()
        mean, std = (np.array(prepare[key])[:, None, None] for key in ("mean", "std"))
        own = ((pixels / 255 - mean) / std).astype(np.float32)
        want = logits(loaded, {"pixel_values": loaded.preprocess(images(2))})  # type: ignore
        np.testing.assert_allclose(full.run(None, {"pixel_values": own})[0], want, atol=1e-4)
        assert prepare["shape"] == [1, 6, 5]
    else:
        assert prepare == {"vocabulary": 65535, "max_length": 12, "tokenizer": "words"}
    of_small = json.loads(small.get_modelmeta().custom_metadata_map["frugalkd"])
    how = of_small.pop("quantisation")
    assert of_small == said
    assert ("calibrated on 200 pictures" in how) == (kind == "pictures")


@pytest.mark.parametrize("kind", ["pictures", "texts"])
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
@pytest.mark.heavy
def test_torch_export_gives_the_logits(kind, request, tmp_path):
    loaded: Loaded = request.getfixturevalue(kind)
    [file] = loaded.export(tmp_path, "torch-export")
    extra = {"frugalkd": ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["frugalkd"])["classes"] == list(KINDS)
    for rows in (1, 65):
        batch = inputs_of(loaded, rows)
        with torch.no_grad():
            found = program(*batch.values())
        np.testing.assert_allclose(found.numpy(), logits(loaded, batch), atol=1e-6)


def test_safetensors_is_what_load_reads(pictures, tmp_path):
    for _ in range(2):  # again over the same files
        [file] = pictures.export(tmp_path / "s", "safetensors")
    assert file == tmp_path / "s" / "student.safetensors"
    again = load(tmp_path / "s")
    assert same_state(again.model, pictures.model)
    assert again.card == pictures.card
    np.testing.assert_array_equal(again.predict(images(5))[1], pictures.predict(images(5))[1])


def test_a_folder_of_another_model_is_kept(pictures, texts, tmp_path):
    texts.export(tmp_path, "safetensors")
    with pytest.raises(RunFolderError, match="holds another model"):
        pictures.export(tmp_path, "safetensors")
    assert load(tmp_path).card == texts.card


@pytest.mark.heavy
def test_an_order_of_classes_that_the_card_lacks(tmp_path):
    loaded = run_of(tmp_path / "run", PICTURES)
    reorder_classes(loaded.model, ("cat", "ant", "bee"))
    with pytest.raises(ModelError, match="reorder_classes"):
        loaded.export(tmp_path / "s", "safetensors")
    [file] = loaded.export(tmp_path / "p", "torch-export")  # it has the order in it
    extra = {"frugalkd": ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["frugalkd"])["classes"] == ["cat", "ant", "bee"]
    batch = inputs_of(loaded, 4)
    found = program(*batch.values()).detach().numpy()
    np.testing.assert_allclose(found, logits(loaded, batch), atol=1e-6)


class Branching(nn.Module):
    def forward(self, x):
        return x.mean((1, 2)) if x.sum() > 0 else x.sum((1, 2))


class OneRow(nn.Module):
    def forward(self, x):
        return x.reshape(3, -1)[:, :2]


CALLS: list[int] = []


class Counting(nn.Module):
    """What a trace takes for a constant."""

    def forward(self, x):
        CALLS.append(1)
        return x.mean((1, 2)) * len(CALLS)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Branching(), "cannot trace this model with a batch of any size"),
        (OneRow(), "cannot trace this model with a batch of any size"),
        (Counting(), "logits are off by .*nothing was written"),
    ],
)
def test_a_model_that_cannot_be_exported(model, says, pictures, tmp_path):
    other = Loaded(model, pictures.preprocess, pictures.card)
    with pytest.raises(ModelError, match=says) as raised:
        other.export(tmp_path / "p", "torch-export")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "p").exists()


def test_what_is_refused_at_once(pictures, tmp_path, monkeypatch):
    own = Loaded(pictures.model, None, pictures.card)
    refused: list[tuple[Loaded, dict[str, Any], str]] = [
        (own, {"to": "torch-export"}, "a data set of your own"),
        (pictures, {"to": "tflite"}, "unknown format 'tflite': give one of onnx, torch-export"),
        (pictures, {"to": "safetensors", "int8": True}, "int8 is for ONNX alone"),
        (pictures, {"to": "onnx", "int8": True}, "needs the range of its activations"),
    ]
    for loaded, options, says in refused:
        with pytest.raises(ModelError, match=says):
            loaded.export(tmp_path / "x", **options)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"pip install 'frugalkd\[onnx\]'"):
        pictures.export(tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.heavy
def test_an_export_leaves_the_model_as_it_was(pictures, tmp_path):
    state, random = pictures.model.state_dict(), torch.random.get_rng_state()
    pictures.model.train()
    pictures.export(tmp_path, "torch-export")
    assert all(module.training for module in pictures.model.modules())
    pictures.model.eval()
    assert torch.equal(random, torch.random.get_rng_state())
    assert same_state(pictures.model, load_state(pictures, state))


def load_state(loaded: Loaded, state: dict[str, torch.Tensor]) -> nn.Module:
    model = build_model("resnet8", num_classes=3, in_channels=3, image_size=8)
    model.load_state_dict(state)
    return model


SILENT = """
import os, sys, tempfile
from frugalkd.models import export
module = export._without_telemetry()
assert "ORT_DISABLE_TELEMETRY" not in os.environ
print(module.__name__, os.listdir(tempfile.gettempdir()))
"""


@pytest.mark.heavy
def test_onnxruntime_reports_nothing(tmp_path):
    """It begins a session of its telemetry, a file for temporary files, when it is imported."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    rest = {key: value for key, value in os.environ.items() if key != "CI"}  # also turns it off
    done = subprocess.run(
        [sys.executable, "-c", SILENT], capture_output=True, text=True,
        env={**rest, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("onnxruntime []\n", "")
