"""Regression from the command line: a table from teacher to comparison."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frugalkd import load
from frugalkd.data import Augmentation
from frugalkd.data.table import read_table
from frugalkd.errors import DataError, FrugalKDWarning, ModelError, RecipeError, RunFolderError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.report.model_card import push_run
from frugalkd.experiments.runs.execute import distill
from frugalkd.experiments.runs.from_recipe import make_data, make_teacher, refuse_other_data
from frugalkd.experiments.runs.use import evaluate_run
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.export import example_batch
from frugalkd.runtime.imports import Allowed

pytest.importorskip("pyarrow", reason="needs the extra parquet")

RECIPE = """
name: homes
data: {{name: table, options: {{path: {table}, target: price, log: [price], test: 0.25}}}}
teacher:
  model: {{name: mlp, options: {{hidden: [16]}}}}
  objective: {{name: squared-error}}
  policy: {{name: self-regulation, confidence: 0.95, max_skip: 2}}
  training: {{epochs: 12, batch_size: 8, optimizer: {{lr: 0.02}}}}
student:
  model: {{name: mlp, options: {{hidden: [8]}}}}
  mode: regulated
  regulation: {{confidence: 0.8, max_skip: 1}}
  objective: {{name: regression-kd}}
  targets: {{encoding: float32}}
  training: {{epochs: 16, batch_size: 8, optimizer: {{lr: 0.05}}}}
teachers: {{conventional: {{teacher.policy: {{name: all}}}}}}
arms:
  vanilla: {{set: {{student.mode: vanilla}}}}
  regulated: {{set: {{student.mode: regulated}}}}
  random: {{control: random, match: regulated}}
  permuted: {{control: permuted, match: regulated}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a recipe that names it."""
    made = tmp_path_factory.mktemp("homes")
    stream = np.random.default_rng(0)
    size, kind = stream.uniform(1, 5, 96), stream.choice(["flat", "house"], 96)
    price = np.exp(size + (kind == "house") + 0.05 * stream.standard_normal(96))
    rows = [f"{s:.4f},{k},{p:.4f}" for s, k, p in zip(size, kind, price, strict=True)]
    (made / "homes.csv").write_text("\n".join(["size,kind,price", *rows]) + "\n")
    (made / "homes.yaml").write_text(RECIPE.format(table=made / "homes.csv"))
    return made


@pytest.fixture(scope="module")
def recipe(folder):
    return load_recipe(str(folder / "homes.yaml"))


@pytest.fixture
def path(folder):
    return str(folder / "homes.yaml")


def results_of(run):
    return json.loads((run / "results.json").read_text())


def test_a_teacher_has_a_significance(trained):
    results = results_of(trained)
    assert results["evaluation"].keys() == {"samples", "r2", "mae", "rmse", "teacher_rmse"}
    assert results["evaluation"]["r2"] > 0.9
    ledger = Ledger.load(trained)
    assert 0 < ledger.significance.mean() < 1
    assert not ledger.has_dynamics
    sample = json.loads((trained / "summary.json").read_text())["most"][0]
    assert float(sample["predicted"]) == pytest.approx(float(sample["wanted"]), abs=2)


def test_from_a_table_to_values(cli, path, folder, teacher, tmp_path):
    store, run = tmp_path / "store", tmp_path / "s"
    code, text, err = cli("store", path, "--teacher", str(teacher), "--out", str(store))
    assert code == 0, err
    code, text, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(run),
        "--set", f"student.targets.folder={store}",
    )  # fmt: skip
    assert code == 0, err
    assert "the same to the teacher's values" in text
    results = results_of(run)
    measured = results["evaluation"]
    assert measured["r2"] > 0.5
    assert results["targets"]["encoding"]["name"] == "float32"
    assert results["targets"]["filled_here"] is False
    assert results["budget"] < 1

    loaded = load(run)
    assert loaded.output.name == "regression"
    assert loaded.classes == ("log price",)
    with pytest.raises(ModelError, match="gives regression targets, no classes"):
        loaded.predict(["x"])
    out = tmp_path / "values.csv"
    data = str(folder / "homes.csv")
    code, _, err = cli("predict", str(run), "--data", data, "--out", str(out))
    assert code == 0, err
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 96
    assert list(rows[0]) == ["sample", "log price", "label log price", "error"]
    errors = [float(row["log price"]) - float(row["label log price"]) for row in rows]
    code, text, err = cli("evaluate", str(run), "--data", data, "--json")
    assert code == 0, err
    assert json.loads(text)["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)

    code, text, err = cli("evaluate", str(run), "--data", "own", "--json")
    assert code == 0, err
    assert json.loads(text)["rmse"] == pytest.approx(measured["rmse"], rel=1e-6)
    code, text, err = cli("report", str(run), "--data")
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "predicted" in page
    assert "root of the mean squared error" in page
    assert "kind flat" in page


def test_a_table_that_changed_is_not_the_runs_own(recipe, teacher, folder, tmp_path):
    """Twice the sizes: standardised they are the same numbers."""
    evaluate_run(teacher, None, Allowed(data=True))
    lines = (folder / "homes.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    changes = {
        "other": [f"{5 - float(s):.4f},{k},{p}" for s, k, p in rows],
        "twice": [f"{2 * float(s):.4f},{k},{p}" for s, k, p in rows],
    }
    results = results_of(teacher)
    for name, changed in changes.items():
        file = tmp_path / f"{name}.csv"
        file.write_text("\n".join([lines[0], *changed]) + "\n")
        results["recipe"]["data"]["options"]["path"] = str(file)
        (teacher / "results.json").write_text(json.dumps(results))
        with pytest.raises(DataError, match=r"have changed since that run: restore"):
            evaluate_run(teacher, None, Allowed(data=True))
        with pytest.raises(RunFolderError, match="finished run on other data"):
            refuse_other_data(results, Recipe.model_validate(results["recipe"]), teacher)


def test_a_teacher_reads_a_table_as_in_its_training(recipe, teacher, folder):
    """Other means, from a part of the rows, and other places of the columns."""
    options = {"features": ["kind", "size"], "test": 0.5}
    changed = override(recipe, {f"data.options.{key}": value for key, value in options.items()})
    data = make_data(changed, Augmentation(), 0).train
    with pytest.warns(FrugalKDWarning, match="another part of a table, .*inputs are converted"):
        made = make_teacher(changed, teacher, data)
    rows = [int(name.removeprefix("row ")) for name in data.names(range(len(data)))]  # pyright: ignore
    table = {key: value[rows] for key, value in read_table(folder / "homes.csv").items()}
    found = made(data.features).detach().numpy()  # pyright: ignore
    assert found == pytest.approx(load(teacher).outputs(table), abs=1e-5)


def test_predictions_need_the_columns(cli, folder, teacher, tmp_path):
    (tmp_path / "x.csv").write_text("size,kind\n1,flat\n2,house\n")
    out = tmp_path / "x.out.csv"
    code, _, err = cli(
        "predict", str(teacher), "--data", str(tmp_path / "x.csv"), "--out", str(out)
    )
    assert code == 0, err
    assert out.read_text().startswith("sample,log price,error\nrow 0,")
    code, _, err = cli("evaluate", str(teacher), "--data", str(tmp_path / "x.csv"))
    assert code == 2
    assert "has no labels: give a data set's name, or a table with log price" in err
    at = ("--data", str(tmp_path / "x.csv"), "--out", str(out), "--probabilities")
    code, _, err = cli("predict", str(teacher), *at)
    assert code == 2
    assert "regression targets have no probabilities to write" in err
    (tmp_path / "y.csv").write_text("size\n1\n")
    code, _, err = cli(
        "predict", str(teacher), "--data", str(tmp_path / "y.csv"), "--out", str(out)
    )
    assert code == 2
    assert "there is no column 'kind'" in err


def test_what_float16_changes_is_measured(recipe, teacher, tmp_path, monkeypatch):
    half = override(recipe, {"student.targets.encoding": "float16", "student.training.epochs": 1})
    results = distill(half, tmp_path / "a", teacher=teacher)
    assert 0 < results["targets"]["encoding_error"]["largest"] < 0.01
    monkeypatch.setattr("frugalkd.experiments.runs.targets._COARSE", 1e-6)
    with pytest.warns(FrugalKDWarning, match=r"float16 changes .* set student\.targets\.encoding"):
        distill(half, tmp_path / "b", teacher=teacher)


def test_an_estimate_and_no_new_head(cli, path, teacher, tmp_path):
    code, text, err = cli(
        "estimate", path, "--teacher", str(teacher), "--seconds", "0.2", "--json"
    )  # fmt: skip
    assert code == 0, err
    rows = [row["mode"] for row in json.loads(text)["modes"]]
    assert "regulated" in rows
    assert "ceiling 0.9" not in rows
    code, _, err = cli("ledger", "make", path, "--teacher", str(teacher), "--out", str(tmp_path))
    assert code == 2
    assert "a new head is trained on classes, and teacher.objective learns regression" in err


def test_its_card_says_what_it_does(trained, tmp_path):
    push_run(trained, "me/homes", out=tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    assert "pipeline_tag: tabular-regression" in text
    assert "values = model.outputs(table)" in text
    (tmp_path / "x.csv").write_text("size,kind\n1.5,flat\n2,house\n")
    assert load(tmp_path / "card").outputs(read_table(tmp_path / "x.csv")).shape == (2, 1)


@pytest.mark.heavy
def test_the_same_run_twice_and_again(cli, path, teacher, tmp_path):
    for name in ("one", "other", "other"):
        code, _, err = cli(
            "distill", path, "--teacher", str(teacher), "--out", str(tmp_path / name)
        )
        assert code == 0, err
    states = [load_file(tmp_path / name / "student.safetensors") for name in ("one", "other")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(part, states[1][key]) for key, part in states[0].items())


def test_significance_weighs_a_distillation(cli, path, teacher, tmp_path):
    out = tmp_path / "h"
    code, _, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(out), "--mode", "hybrid"
    )
    assert code == 0, err
    assert results_of(out)["budget"] < 1


@pytest.mark.heavy
def test_a_comparison_with_its_controls(cli, path, tmp_path):
    out = tmp_path / "c"
    code, text, err = cli(
        "compare", path, "--out", str(out), "--seeds", "2", "--jobs", "1",
        "--set", "student.training.epochs=4", "--set", "teacher.training.epochs=8",
    )  # fmt: skip
    assert code == 0, err
    assert "R2" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["measure"] == "R2"
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert rows.keys() == {"vanilla", "regulated", "random", "permuted"}
    assert rows["vanilla"]["accuracy"]["mean"] < 1
    assert rows["regulated"]["budget"]["mean"] < 1
    assert not any(row["collapsed"] for row in rows.values() if row["accuracy"]["mean"] > 0.1)
    code, _, err = cli("report", str(out))
    assert code == 0, err
    assert "R2" in (out / "report.html").read_text()


REFUSED = {
    "class-balanced": (
        {"student.regulation": {"budget": 0.5, "budget_rule": "class-balanced"}}, "plans by class"
    ),
    "top-k": ({"student.targets.encoding": "top-k"}, "reads the teacher's outputs themselves"),
    "int8": ({"student.targets.encoding": "int8"}, "int8 is for embeddings"),
    "its own average": ({"student.targets.kind": "ema"}, "one teacher that does not change"),
    "el2n": (
        {"student.mode": None, "student.policy": {"name": "el2n"}}, "scored by trainings on classes"
    ),
    "el2n of a teacher": ({"teacher.policy": {"name": "el2n"}}, "scored by trainings on classes"),
    "a head": ({"teacher.trains": "head"}, "head is for classes, not for regression targets"),
    "a teacher of classes": (
        {"teacher.objective": {"name": "cross-entropy"}},
        "learns classes and student.objective regression targets",
    ),
    "a student of classes": (
        {"student.objective": {"name": "kd"}}, "learns regression targets and student.objective cl"
    ),
    "a sum of two kinds": (
        {"student.objective": {"name": "sum", "terms": [
            {"of": {"name": "kd"}}, {"of": {"name": "regression-kd"}}]}},
        "learn one-class and regression",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "says"), REFUSED.values(), ids=REFUSED)
def test_a_recipe_that_is_impossible_is_refused_when_read(path, settings, says):
    with pytest.raises(RecipeError, match=says):
        override(load_recipe(path), settings)


def test_models_and_teachers_of_another_kind_are_refused(cli, path, teacher, tmp_path):
    code, _, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(tmp_path / "a"),
        "--set", "student.model={name: lenet5}",
    )  # fmt: skip
    assert code == 2
    assert "model 'lenet5' takes no rows of a table" in err
    kinds = "student.objective={name: kd}", "teacher.objective={name: cross-entropy}"
    code, _, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(tmp_path / "b"),
        *(part for each in kinds for part in ("--set", each)), "--set", "data.options.target=null",
        "--set", "data.options.log=[]", "--set", "data.options.label=kind",
    )  # fmt: skip
    assert code == 2
    assert "gives regression targets, and the objective learns classes" in err


def test_a_table_of_classes_is_one_class_a_sample(cli, path, folder, tmp_path):
    out = tmp_path / "t"
    code, _, err = cli(
        "teach", path, "--out", str(out), "--set", "teacher.objective={name: cross-entropy}",
        "--set", "student.objective={name: kd}", "--set", "data.options.target=null",
        "--set", "data.options.log=[]", "--set", "data.options.label=kind",
        "--set", "teacher.training.epochs=2",
    )  # fmt: skip
    assert code == 0, err
    code, text, err = cli("evaluate", str(out), "--data", str(folder / "homes.csv"))
    assert code == 0, err
    assert "accuracy" in text


def test_the_shipped_recipe_is_valid():
    recipe = load_recipe("diamonds")
    assert recipe.student.objective.build().learns == "regression"


def test_a_model_of_tables_says_what_is_not_exported(teacher):
    with pytest.raises(ModelError, match="models of tables are not exported to this format"):
        example_batch(load(teacher), 2)
