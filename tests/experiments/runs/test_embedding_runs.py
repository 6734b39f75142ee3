"""Embeddings from the command line: distil, predict, report, compare; texts alone in a file."""

from __future__ import annotations

import csv
import importlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frugalkd import load
from frugalkd.errors import ModelError, RecipeError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.ledger.ledger import Ledger

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")

RECIPE = """
name: words
data: {{name: text-lines, options: {{path: {lines}, test: 0.25, max_length: 8}}}}
teacher:
  model: {{name: sentence-encoder, options: {{path: {bert}}}}}
  weights: pretrained
student:
  model: {{name: static-embedding, options: {{width: 6}}}}
  mode: regulated
  regulation: {{confidence: 0.6, when: last-visit, max_skip: 1}}
  objective: {{name: embed-distill}}
  training: {{epochs: 6, batch_size: 8, optimizer: {{lr: 0.2}}}}
teachers: {{}}
arms:
  vanilla: {{set: {{student.mode: vanilla}}}}
  regulated: {{set: {{student.mode: regulated}}}}
  random: {{control: random, match: regulated}}
  permuted: {{control: permuted, match: regulated}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of texts, a tiny BERT, and a recipe that names both."""
    made = tmp_path_factory.mktemp("words")
    stream = np.random.default_rng(0)
    words = ["card", "money", "late", "fee", "limit", "pin", "rate", "app"]
    lines = [" ".join(stream.choice(words, 4)) for _ in range(60)]
    (made / "lines.txt").write_text("\n\n".join(lines))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1 << 16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(made / "bert")
    text = RECIPE.format(lines=made / "lines.txt", bert=made / "bert")
    (made / "words.yaml").write_text(text)
    return made


@pytest.fixture
def recipe(folder):
    return str(folder / "words.yaml")


def results_of(path):
    return json.loads((path / "results.json").read_text())


def test_from_lines_to_embeddings(cli, recipe, folder, tmp_path):
    run = tmp_path / "s"
    code, text, err = cli(
        "distill", recipe, "--out", str(run), "--set", "student.targets.encoding=int8"
    )
    assert code == 0, err
    assert "1 - cosine" in text
    results = results_of(run)
    measured = results["evaluation"]
    assert measured.keys() == {"samples", "mean_cosine_distance", "pairwise_spearman"}
    assert measured["samples"] == 15
    assert 0 < measured["mean_cosine_distance"] < 1
    assert 0 < results["targets"]["encoding_error"]["largest"] < 1e-3
    assert results["targets"]["encoding"] == {"name": "int8"}
    assert load_file(run / "projection.safetensors")["weight"].shape == (8, 6)
    assert Ledger.load(run).reference["mean"].shape == (8,)

    loaded = load(run)
    assert loaded.output.name == "embeddings"
    embedded = loaded.outputs(["card money", "late fee"])
    assert embedded.shape == (2, 6)
    with pytest.raises(ModelError, match="gives embeddings, no classes"):
        loaded.predict(["card"])
    out = tmp_path / "values.csv"
    code, _, err = cli("predict", str(run), "--data", str(folder / "lines.txt"), "--out", str(out))
    assert code == 0, err
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 119  # empty lines are texts here
    assert list(rows[0]) == ["sample", *(f"value {place}" for place in range(6)), "error"]
    line = (folder / "lines.txt").read_text().splitlines()[0]
    assert float(rows[0]["value 3"]) == pytest.approx(loaded.outputs([line])[0, 3], rel=1e-4)

    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    table = importlib.import_module("pyarrow").table({"text": [line], "label": [0]})
    parquet.write_table(table, tmp_path / "x.parquet")
    data = str(tmp_path / "x.parquet")  # whose label is not an embedding
    code, _, err = cli("predict", str(run), "--data", data, "--out", str(out))
    assert code == 0, err
    assert out.read_text().splitlines()[0].split(",") == list(rows[0])

    code, _, err = cli("evaluate", str(run), "--data")
    assert code == 2
    assert "measured against their teacher's" in err
    code, text, err = cli("report", str(run))
    assert code == 0, err
    assert "mean cosine" in text
    page = (run / "report.html").read_text()
    assert "mean of 1 - cosine to the teacher" in page


@pytest.mark.heavy
def test_a_stopped_run_has_the_same_result(cli, recipe, tmp_path):
    code, _, err = cli("distill", recipe, "--out", str(tmp_path / "whole"))
    assert code == 0, err
    code, _, err = cli("distill", recipe, "--out", str(tmp_path / "again"))
    assert code == 0, err
    weights = [load_file(tmp_path / name / "student.safetensors") for name in ("whole", "again")]
    assert torch.equal(weights[0]["rows.weight"], weights[1]["rows.weight"])
    code, _, err = cli("distill", recipe, "--out", str(tmp_path / "again"))  # it is finished
    assert code == 0, err


@pytest.mark.heavy
def test_a_comparison_with_its_controls(cli, recipe, tmp_path):
    out = tmp_path / "c"
    code, text, err = cli(
        "compare", recipe, "--out", str(out), "--seeds", "2", "--jobs", "1",
        "--set", "student.training.epochs=4",
    )  # fmt: skip
    assert code == 0, err
    assert "mean cosine" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["measure"] == "mean cosine"
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert rows.keys() == {"vanilla", "regulated", "random", "permuted"}
    assert all(-1 < row["accuracy"]["mean"] < 1 for row in rows.values())
    assert rows["regulated"]["budget"]["mean"] < 1
    spent = [rows[name]["meters"]["samples_backpropagated"] for name in ("regulated", "permuted")]
    assert spent[0] == spent[1]
    code, _, err = cli("report", str(out))
    assert code == 0, err
    assert "Mean cosine over" in (out / "report.html").read_text()


REFUSED = {
    "class-balanced": (
        {"student.regulation": {"budget": 0.5, "budget_rule": "class-balanced"}}, "plans by class"
    ),
    "top-k": ({"student.targets.encoding": "top-k"}, "reads the teacher's outputs themselves"),
    "its own average": ({"student.targets.kind": "ema"}, "one teacher that does not change"),
    "el2n": (
        {"student.mode": None, "student.policy": {"name": "el2n"}}, "scored by trainings on classes"
    ),
    "a teacher that needs training": (
        {"teacher.model": {"name": "text-cnn"}}, "weights: pretrained is for sentence-encoder"
    ),
    "int8 of logits": (
        {"student.objective": {"name": "kd"}, "student.targets.encoding": "int8"},
        "int8 is for embeddings",
    ),
    "a sum of two kinds": (
        {"student.objective": {"name": "sum", "terms": [
            {"of": {"name": "kd"}}, {"of": {"name": "embed-distill"}}]}},
        "learn embeddings and one-class",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "says"), REFUSED.values(), ids=REFUSED)
def test_a_recipe_that_is_impossible_is_refused_when_read(recipe, settings, says):
    with pytest.raises(RecipeError, match=says):
        override(load_recipe(recipe), settings)


def test_an_estimate_needs_labels(cli, recipe):
    code, _, err = cli("estimate", recipe)
    assert code == 2
    assert "miniatures of the teacher from labels, and embeddings have none" in err


def test_a_pretrained_teacher_is_not_trained(cli, recipe, tmp_path):
    code, _, err = cli("teach", recipe, "--out", str(tmp_path / "t"))
    assert code == 2
    assert "nothing to train: run 'frugalkd distill'" in err


def test_the_digest_knows_the_encoders_weights(cli, recipe, folder, tmp_path, monkeypatch):
    from frugalkd.experiments.runs.digest import run_digest

    before = run_digest("distill", load_recipe(recipe), None)
    monkeypatch.setattr("frugalkd.experiments.runs.digest.model_folder", lambda path: str(tmp_path))
    assert run_digest("distill", load_recipe(recipe), None) != before


def test_the_shipped_recipe_is_valid():
    recipe = load_recipe("banking77-embeddings")
    assert recipe.student.objective.build().learns == "embeddings"
