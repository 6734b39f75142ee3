"""Exported files are measured beside the run's model, on data that may be read."""

from __future__ import annotations

import json

import pytest

from frugalkd.data import load_data
from frugalkd.errors import DataError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs import exported as exporting
from frugalkd.experiments.runs.exported import export_run
from frugalkd.experiments.runs.use import evaluate_run
from frugalkd.models.saved import Loaded
from frugalkd.runtime.imports import Allowed
from toys import as_images

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")


@pytest.fixture(scope="module")
def recipe():
    few = {
        "data.train_size": 300,
        "teacher.training.epochs": 2,
        "teacher.model": {"name": "lenet5-half", "options": {}},
        "teacher.model.input_transform": {"size": 28},
    }
    return override(load_recipe("digits"), few)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(exporting, "_SECONDS", 0.001)


@pytest.mark.heavy
def test_a_table_of_what_was_exported(trained, tmp_path, fast):
    done = export_run(trained, tmp_path / "x", "torch-export", allowed=Allowed(data=True))
    measured, _ = evaluate_run(trained, allowed=Allowed(data=True))
    student, file = done["table"]
    assert student["accuracy"] == file["accuracy"] == measured["accuracy"]
    assert file["agreement"] == 1
    assert done["samples"] == measured["samples"]
    assert file["file"] == str(tmp_path / "x" / "teacher.pt2") == done["files"][0]
    assert file["bytes"] == (tmp_path / "x" / "teacher.pt2").stat().st_size
    for row in done["table"]:
        assert 0 < row["milliseconds"]["1"] < row["milliseconds"]["64"]


@pytest.mark.heavy
def test_agreement_is_with_the_runs_model(trained, tmp_path, fast, monkeypatch):
    """A file that gives the classes in another order disagrees."""
    opened = exporting.opened

    def reversed_(file, to):
        made = opened(file, to)
        made.register_forward_hook(lambda model, inputs, output: output.flip(1))
        return made

    monkeypatch.setattr(exporting, "opened", reversed_)
    [student, file] = export_run(
        trained, tmp_path, "torch-export", data="digits", allowed=Allowed()
    )["table"]
    assert student["agreement"] == 1
    assert file["agreement"] < 0.5
    assert file["accuracy"] < student["accuracy"]


def test_without_data_none_are_read(trained, tmp_path, fast, monkeypatch):
    def reads(*given, **options):
        raise AssertionError("data were read")

    for name in ("data_of_run", "load_data", "on_data"):
        monkeypatch.setattr(exporting, name, reads)
    done = export_run(trained, tmp_path / "x", "safetensors")
    assert done["data"] is None
    assert [row["model"] for row in done["table"]] == ["student", "safetensors"]
    assert "accuracy" not in done["table"][0]
    for data in (None, "pictures"):
        with pytest.raises(DataError, match=r"int8 .* calibrated on training data"):
            export_run(trained, tmp_path / "y", "onnx", int8=True, data=data)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("data", [None, "digits"])
def test_int8_is_calibrated_on_training_data(data, trained, tmp_path, fast, monkeypatch):
    """Evenly over them, without the held-out part."""
    found = {}

    def export(loaded, out, to, *, int8, calibration):
        found["rows"] = calibration
        raise DataError("seen")

    monkeypatch.setattr(Loaded, "export", export)
    with pytest.raises(DataError, match="seen"):
        export_run(trained, tmp_path, "onnx", int8=True, data=data,
                   allowed=Allowed(data=data is None))  # fmt: skip
    assert found["rows"].shape == (300 if data is None else 512, 1, 8, 8)
    train = {image.numpy().tobytes() for image in as_images(load_data("digits").train).images}
    assert {image.numpy().tobytes() for image in found["rows"]} <= train


@pytest.mark.slow
@pytest.mark.heavy
def test_the_command_prints_a_table_and_json(trained, tmp_path, fast, cli):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    words = ["export", str(trained), "--to", "onnx", "--out", str(tmp_path / "o"), "--int8"]
    code, out, err = cli(*words, "--data")
    assert code == 0, err
    table, _, files = out.rstrip().rpartition("  \n")
    assert max(map(len, table.splitlines())) <= 80
    assert files.split() == [str(tmp_path / "o" / f"teacher{end}.onnx") for end in ("", "-int8")]
    for word in ("batch 64", "agreement", "onnx int8", "samples of its"):
        assert word in " ".join(out.split())  # a line is wrapped where the folder's name ends
    done = json.loads(cli(*words, "--data", "--json")[1])
    assert done["calibrated_on"] == 300
    assert [row["model"] for row in done["table"]] == ["student", "onnx", "onnx int8"]
    assert done["table"][1]["agreement"] == 1
    assert done["table"][2]["agreement"] > 0.9
    assert done["table"][2]["bytes"] < done["table"][1]["bytes"]
    code, _, err = cli(*words)
    assert code == 2
    assert err.startswith("error: int8 of a model of pictures is calibrated on training data")


def test_a_call_that_takes_longer_is_timed_once(monkeypatch):
    monkeypatch.setattr(exporting, "_SECONDS", 0.0)
    calls = []
    assert exporting._seconds(lambda: calls.append(1)) > 0
    assert len(calls) == 2
