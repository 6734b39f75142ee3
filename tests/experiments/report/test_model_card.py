"""The card of a run's model: made from its records, loadable, and without this machine's paths."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from made_up import make_arm, make_comparison

import frugalkd
from frugalkd.errors import ModelError, ReportError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.report.model_card import push_run
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_text_model, hub
from toys import same_state

NAME = "me/digits-small"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A comparison's folder with a teacher and a student."""
    folder = tmp_path_factory.mktemp("c")
    few = {
        "data.train_size": 100, "teacher.training.epochs": 2, "student.training.epochs": 2,
        "student.cost": 0.6,
    }  # fmt: skip
    recipe = override(load_recipe("digits"), few)
    teach(recipe, folder / "teachers" / "t")
    distill(recipe, folder / "runs" / "s", teacher=folder / "teachers" / "t")
    return folder


@pytest.fixture
def card(runs, tmp_path):
    push_run(runs / "runs" / "s", NAME, license="mit", out=tmp_path / "card")
    return ModelCard.load(tmp_path / "card" / "README.md")


def test_the_card_says_how_the_model_was_made(card, runs):
    said = json.loads((runs / "runs" / "s" / "results.json").read_text())
    data = card.data.to_dict()
    assert data == {
        "library_name": "frugalkd", "license": "mit", "pipeline_tag": "image-classification",
        "tags": ["frugalkd", "knowledge-distillation", "student"],
    }  # fmt: skip
    for line in (
        f"| SHA-256 of its training data | {said['data']['train']} |",
        "| mode | regulated |",
        "| limit of its cost | 0.6 |",
        f"| distilled from | mlp, digest of its run {said['teacher']['digest']} |",
        f"| accuracy | {100 * said['evaluation']['accuracy']:.1f} % |",
        f"| digest of the run | {said['digest']} |",
        f"| samples backpropagated | {said['meters']['samples_backpropagated']:,} |",
    ):
        assert line in card.text
    assert "comparison that it is part of" not in card.text


def test_what_is_pushed_is_loaded_as_the_card_says(card, runs, tmp_path, monkeypatch):
    given = []

    def fetch(name, **options):
        given.append((name, options["local_files_only"]))
        return str(tmp_path / "card")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    code = card.text.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 5
    names = {"pictures": frugalkd.load_data("digits").test.images[:3]}  # pyright: ignore
    exec(code, names)
    assert len(names["names"]) == 3
    assert given == [(NAME, False)]
    assert same_state(names["model"].model, frugalkd.load(runs / "runs" / "s").model)


def test_no_path_of_this_machine_is_pushed(card, runs, tmp_path):
    for file in (tmp_path / "card").iterdir():
        content = file.read_bytes()
        assert str(runs).encode() not in content
        assert str(tmp_path).encode() not in content


def test_claims_stand_beside_their_controls(runs, tmp_path):
    """Those that name the run's arm, and no others."""
    place = shutil.copytree(runs, tmp_path / "c")
    digest = json.loads((place / "runs" / "s" / "results.json").read_text())["digest"]
    claim = {
        "arm": "regulated", "against": "short", "claim": "better", "p_holm": 0.2, "holds": False,
        "why": "the interval reaches 0", "difference": {"mean": 0.001, "ci95": [-0.001, 0.003]},
    }  # fmt: skip
    arms = [
        make_arm("vanilla", 0.903, mode="vanilla"),
        make_arm("regulated", 0.899, mode="regulated", digests={"0": digest}),
        make_arm("random:regulated", 0.886, control="random", control_of="regulated"),
        make_arm("short", 0.88),
        make_arm("hybrid", 0.87, mode="hybrid"),
        make_arm("random:hybrid", 0.86, control="random", control_of="hybrid"),
    ]
    other = {**claim, "arm": "hybrid", "against": "vanilla"}
    content = make_comparison(arms, claims=[claim, other])
    (place / "comparison.json").write_text(json.dumps(content))
    push_run(place / "runs" / "s", NAME, out=tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    part = text[text.index("comparison that it is part of") :]
    shown = [line.split(" | ")[0] for line in part.splitlines() if line.startswith("| ")]
    assert shown == [
        "| arm", "| ---", "| vanilla", "| regulated", "| random:regulated", "| short",
        "| claim", "| ---", "| regulated better than short",
    ]  # fmt: skip
    assert "| +0.10 ± 0.20 | 0.2 | no (the interval reaches 0) |" in part
    arms[1]["digests"] = {"0": "f" * 64}  # another run's
    (place / "comparison.json").write_text(json.dumps(make_comparison(arms)))
    push_run(place / "runs" / "s", NAME, out=tmp_path / "card")
    assert "part of" not in (tmp_path / "card" / "README.md").read_text()


def test_a_model_that_needs_a_local_folder_is_refused(runs, tmp_path):
    """Unless the tokenizer's name on the hub is given in its place."""
    run, tokenizer = shutil.copytree(runs / "runs" / "s", tmp_path / "s"), tmp_path / "tokens"
    tokenizer.mkdir()
    texts = {
        "schema": 1, "model": {"name": "text-cnn", "options": {"buckets": 8}},
        "weights": "student.safetensors", "num_classes": 2, "vocabulary": 16, "max_length": 4,
        "tokenizer": str(tokenizer), "classes": ["ant", "bee"],
    }  # fmt: skip
    (run / "model.json").write_text(json.dumps(texts))
    model = build_text_model("text-cnn", num_classes=2, vocabulary=16, buckets=8)
    save_weights(run / "student.safetensors", model)
    with pytest.raises(ModelError, match=r"a folder of this machine: .*--tokenizer"):
        push_run(run, NAME, out=tmp_path / "card")
    assert not (tmp_path / "card").exists()
    allowed = frugalkd.runtime.imports.Allowed(tokenizer="me/tokens")
    push_run(run, NAME, out=tmp_path / "card", allowed=allowed)
    assert json.loads((tmp_path / "card" / "model.json").read_text())["tokenizer"] == "me/tokens"
    text = (tmp_path / "card" / "README.md").read_text()
    assert "model.predict(texts)" in text
    assert "pipeline_tag: text-classification" in text


def test_the_command_pushes_what_it_writes(runs, monkeypatch, cli):
    given = {}

    def push(write, repo_id, **options):
        given.update(options, repo_id=repo_id)
        return "https://hub/commit/1"

    monkeypatch.setattr(hub, "push", push)
    code, out, err = cli("push", str(runs / "runs" / "s"), NAME, "--private", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["where"] == "https://hub/commit/1"
    assert given == {"repo_id": NAME, "private": True, "commit_message": None}


def test_a_comparison_is_no_model(written):
    with pytest.raises(ReportError, match="name one of its runs"):
        push_run(written(make_comparison()), NAME)
