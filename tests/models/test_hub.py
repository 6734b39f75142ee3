"""Models come from the hub only where that is allowed, and go there with a card; no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import frugalkd
from frugalkd.errors import ModelError, RunFolderError
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model, hub
from frugalkd.models.saved import load
from toys import images, net, same_state

NAME = "me/bees"


def write_model(folder: Path):
    """A model of pictures and its card."""
    card = {
        "schema": 1, "model": {"name": "mlp", "options": {"hidden": [4]}},
        "weights": "student.safetensors", "num_classes": 2, "shape": [1, 4, 4], "mean": [0.5],
        "std": [0.25], "classes": ["ant", "bee"],
    }  # fmt: skip
    model = build_model("mlp", num_classes=2, in_channels=1, image_size=4, hidden=[4])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(card))
    save_weights(folder / "student.safetensors", model)
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Api:
    """In the place of HfApi: keeps what it is given."""

    calls: list[tuple[str, dict]]
    error: Exception | None

    def __init__(self, **given):
        self.calls.append(("HfApi", given))

    def create_repo(self, repo_id, **given):
        if self.error is not None:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **given}))

    def upload_folder(self, folder_path, **given):
        files = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        self.calls.append(("upload_folder", {**given, "files": files}))
        return "https://hub/me/bees/commit/1"


@pytest.fixture
def api(monkeypatch):
    Api.calls, Api.error = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_model_in_the_cache_is_loaded_without_a_network(cache, contacted):
    """The cache has links to its blobs."""
    repo = cache / "models--me--bees"
    model, shown = write_model(repo / "blobs"), repo / "snapshots" / "abc"
    shown.mkdir(parents=True)
    for file in (repo / "blobs").iterdir():
        (shown / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    loaded = frugalkd.load(NAME)
    assert same_state(loaded.model, model)
    assert loaded.classes == ("ant", "bee")
    assert loaded.folder == shown
    assert contacted == []


def test_nothing_is_fetched_unless_it_is_allowed(cache, contacted, cli):
    with pytest.raises(RunFolderError, match=r"no folder me/bees, .*--download .*download=True"):
        load(NAME)
    assert contacted == []
    code, _, err = cli("evaluate", NAME)
    assert code == 2
    assert "--download" in err
    with pytest.raises(ModelError, match=r"me/bees"):
        load(NAME, download=True)
    assert contacted


def test_a_folder_is_read_before_the_hub(cache, tmp_path, monkeypatch, contacted):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / NAME)
    assert same_state(load(NAME, download=True).model, model)
    assert contacted == []


def test_what_is_fetched_is_no_code(tmp_path, monkeypatch):
    given = {}
    write_model(tmp_path / "x")

    def fetch(name, **options):
        given.update(options, name=name)
        return str(tmp_path / "x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load(NAME, download=True)
    assert given == {
        "name": NAME, "local_files_only": False, "allow_patterns": ["*.json", "*.safetensors"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def run():
    training = frugalkd.Training(epochs=2, batch_size=16)
    data = images()
    return frugalkd.distill(
        net(), data, teacher=net(1), training=training, eval_dataset=images(seed=1)
    )


def test_a_run_is_pushed_with_a_card(run, api, tmp_path):
    url = run.push_to_hub(
        NAME, license="mit", private=True, token="t", commit_message="first", branch="b",
        description="From a large one.",
    )  # fmt: skip
    assert url == "https://hub/me/bees/commit/1"
    [made, created, uploaded] = api.calls
    assert made[1] == {"token": "t", "library_name": "frugalkd"}
    assert created[1] == {"repo_id": NAME, "private": True, "exist_ok": True}
    files = uploaded[1].pop("files")
    assert uploaded[1] == {
        "repo_id": NAME, "commit_message": "first", "revision": "b", "create_pr": None,
    }  # fmt: skip
    card = ModelCard(files["README.md"].decode())
    front = card.data.to_dict()
    assert (front["library_name"], front["license"]) == ("frugalkd", "mit")
    assert {"frugalkd", "knowledge-distillation"} <= set(front["tags"])
    assert card.text.index("From a large one.") < card.text.index("## Load it")
    for said in (
        "`mit`", run.ledger.about["data"], run.ledger.about["policy"],
        f"| samples backpropagated, of full training | "
        f"{100 * run.meters.samples_backpropagated / 74:.1f} % |",
        f"| accuracy | {run.evaluation['accuracy']:.4f} |",
        'hf_hub_download("me/bees", "student.safetensors")',
    ):  # fmt: skip
        assert said in card.text, said
    (tmp_path / "s.safetensors").write_bytes(files["student.safetensors"])
    other = net(3)
    frugalkd.files.tensors.load_weights(other, tmp_path / "s.safetensors")
    assert same_state(other, run.model)


def test_the_licence_field_is_always_there(run, api):
    run.push_to_hub(NAME)
    card = ModelCard(api.calls[-1][1]["files"]["README.md"].decode())
    assert card.data.to_dict()["license"] == "unknown"
    assert "stated no licence" in card.text
    assert api.calls[-1][1]["commit_message"] == hub.MESSAGE


@pytest.mark.parametrize("name", ["bees", "a/b/c", "me/be es", "", "me/.."])
def test_a_name_that_is_no_repository_is_refused(run, api, name):
    with pytest.raises(ModelError, match="give USER/NAME"):
        run.push_to_hub(name)
    assert api.calls == []


def test_a_refusal_of_the_hub_is_one_line(run, api):
    api.error = OSError("401 Client Error\n\nRequest ID: 1")
    with pytest.raises(ModelError, match=r"me/bees cannot be pushed .*401 Client Error Request"):
        run.push_to_hub(NAME)


def test_nothing_is_made_on_the_hub_where_writing_fails(api):
    def write(folder):
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        hub.push(write, NAME)
    assert [call for call, _ in api.calls] == ["HfApi"]


def test_cells_are_plain_text():
    lines = hub.table(["a|b"], [["<script>|`x`\n[y](z)"]]).splitlines()
    assert lines == ["| a\\|b |", "| --- |", "| &lt;script>\\|\\`x\\` \\[y](z) |"]


class Made:
    """What a recipe may name by import path: builds a model of transformers."""

    def __new__(cls, kind):
        transformers = pytest.importorskip("transformers", reason="needs transformers")
        sizes = {
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "num_labels": 2,
        }  # fmt: skip
        if kind == "bert":
            config = transformers.BertConfig(vocab_size=16, **sizes)
            return transformers.BertForSequenceClassification(config)
        config = transformers.ViTConfig(image_size=4, patch_size=4, num_channels=1, **sizes)
        return transformers.ViTForImageClassification(config)


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_a_model_of_transformers_is_saved_as_one(kind, tmp_path, capsys):
    """In one file where its weights have the same names there, which those of a ViT have not."""
    write_model(tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    card["model"] = {"path": "test_hub:Made", "options": {"kind": kind}}
    (tmp_path / "model.json").write_text(json.dumps(card))
    torch.manual_seed(0)
    save_weights(tmp_path / "student.safetensors", Made(kind))  # pyright: ignore
    model = load(tmp_path, imports=["test_hub:Made"]).model
    capsys.readouterr()
    [file] = load(tmp_path, imports=["test_hub:Made"]).export(tmp_path / "out", "safetensors")
    assert capsys.readouterr().err == ""
    names = {"config.json", "model.json", "model.safetensors", file.name}
    assert {each.name for each in (tmp_path / "out").iterdir()} == names
    assert len(names) == (3 if kind == "bert" else 4)
    theirs: Any = type(model).from_pretrained(tmp_path / "out")  # pyright: ignore
    assert theirs.config.id2label == {0: "ant", 1: "bee"}
    assert same_state(theirs, model)
    assert same_state(load(tmp_path / "out", imports=["test_hub:Made"]).model, model)
    said = hub.own_loading(model, NAME, file)
    assert said.splitlines()[1] == f"from transformers import {type(model).__name__}"
    assert said.splitlines()[3].endswith('.from_pretrained("me/bees")')
