"""Several labels from the command line: a table from teacher to comparison, and texts."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from frugalkd import load
from frugalkd.data import TextData, load_data
from frugalkd.errors import DataError
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.ledger.ledger import Ledger

pytest.importorskip("pyarrow", reason="needs the extra parquet")

RECIPE = """
name: stones
data: {{name: table, options: {{path: {table}, label: [red, green, blue], test: 0.25}}}}
teacher:
  model: {{name: mlp, options: {{hidden: [16]}}}}
  objective: {{name: binary-cross-entropy}}
  policy: {{name: self-regulation, confidence: 0.7, max_skip: 2}}
  training: {{epochs: 12, batch_size: 8, optimizer: {{lr: 0.03}}}}
student:
  model: {{name: mlp, options: {{hidden: [8]}}}}
  mode: regulated
  regulation: {{confidence: 0.6, max_skip: 1}}
  objective: {{name: multi-label-kd}}
  training: {{epochs: 8, batch_size: 8, optimizer: {{lr: 0.05}}}}
teachers: {{conventional: {{teacher.policy: {{name: all}}}}}}
arms:
  vanilla: {{set: {{student.mode: vanilla}}}}
  regulated: {{set: {{student.mode: regulated}}}}
  random: {{control: random, match: regulated}}
"""
NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("stones")
    stream = np.random.default_rng(0)
    x = stream.standard_normal((96, 4))
    labels = (x[:, :3] + 0.1 * stream.standard_normal((96, 3)) > 0.3).astype(int)
    rows = [",".join(map(str, [*a.round(4), *b])) for a, b in zip(x, labels, strict=True)]
    (made / "stones.csv").write_text("\n".join([",".join(["a,b,c,d", *NAMES]), *rows]) + "\n")
    (made / "stones.yaml").write_text(RECIPE.format(table=made / "stones.csv"))
    return made


@pytest.fixture(scope="module")
def recipe(folder):
    return load_recipe(str(folder / "stones.yaml"))


@pytest.fixture
def path(folder):
    return str(folder / "stones.yaml")


MEASURES = {"samples", "micro_f1", "macro_f1", "mean_average_precision", "teacher_agreement"}


def test_from_a_table_to_labels(cli, path, folder, teacher, tmp_path):
    assert 0 < Ledger.load(teacher).significance.mean() < 1
    run = tmp_path / "s"
    code, text, err = cli("distill", path, "--teacher", str(teacher), "--out", str(run))
    assert code == 0, err
    assert "macro F1" in text
    results = json.loads((run / "results.json").read_text())
    measured = results["evaluation"]
    assert measured.keys() == MEASURES
    assert measured["macro_f1"] > 0.7
    assert measured["teacher_agreement"] > 0.7
    assert results["targets"]["encoding"]["name"] == "values"
    sample = json.loads((run / "summary.json").read_text())["most"][0]
    assert {*sample["wanted"].split(", ")} <= {*NAMES, "none"}
    assert load(run).classes == NAMES

    out, data = tmp_path / "labels.csv", str(folder / "stones.csv")
    code, _, err = cli("predict", str(run), "--data", data, "--out", str(out), "--probabilities")
    assert code == 0, err
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sample", "labels", "wanted", *(f"p {n}" for n in NAMES), "error"]
    likely = [name for name in NAMES if float(rows[0][f"p {name}"]) >= 0.5]
    assert rows[0]["labels"] == (", ".join(likely) or "none")
    code, text, err = cli("evaluate", str(run), "--data", data, "--json")
    assert code == 0, err
    assert json.loads(text)["macro_f1"] > 0.7
    code, text, err = cli("evaluate", str(run), "--data", "own", "--json")
    assert code == 0, err
    assert json.loads(text)["macro_f1"] == measured["macro_f1"]
    code, _, err = cli("report", str(run), "--data")
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "mean average precision" in page
    assert "wanted " in page


@pytest.mark.heavy
def test_a_comparison_with_a_control(cli, path, tmp_path):
    out = tmp_path / "c"
    code, text, err = cli(
        "compare", path, "--out", str(out), "--seeds", "2", "--jobs", "1",
        "--set", "student.training.epochs=4", "--set", "teacher.training.epochs=6",
    )  # fmt: skip
    assert code == 0, err
    assert "macro F1" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["measure"] == "macro F1"
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert rows.keys() == {"vanilla", "regulated", "random"}
    assert rows["regulated"]["budget"]["mean"] < 1


def test_a_column_of_lists_has_several_labels(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    tags = [["a", "b"], [], ["b"], ["c"]] * 5
    values = [0.5, 1.5, 2.5, 3.5] * 5
    table = datasets.Dataset.from_dict(
        {"text": ["one two", "three", "four", "five"] * 5, "label": tags, "value": values}
    )
    table.save_to_disk(str(tmp_path / "texts"))
    given = {"path": str(tmp_path / "texts"), "text": "text", "test": 0.25}
    train = load_data("hugging-face", **given).train
    assert isinstance(train, TextData)
    assert train.classes == ("a", "b", "c")
    names = train.names([0])
    assert names is not None
    row = names[0]
    wanted = dict(zip(["one two", "three", "four", "five"], tags[:4], strict=True))[row]
    assert [
        name for name, has in zip("abc", train.labels[0].tolist(), strict=True) if has
    ] == wanted
    assert train[0]["labels"].shape == (3,)
    values = load_data("hugging-face", **given, label="value").train
    assert values.labels.shape == (15, 1)
    assert values.classes == ("value",)


def test_labels_of_a_table_are_0_or_1(folder, tmp_path):
    text = (folder / "stones.csv").read_text().splitlines()
    (tmp_path / "x.csv").write_text("\n".join([text[0], text[1][:-1] + "3", *text[2:]]) + "\n")
    with pytest.raises(DataError, match="label 'blue' is 3 in row 0: 0 or 1 is needed"):
        load_data("table", path=str(tmp_path / "x.csv"), label=[*NAMES])
