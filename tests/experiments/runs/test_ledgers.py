"""``ledger make`` gives the significance of a full training; the names of a ledger's samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.experiments.runs.ledgers import FASTEST, HEAD, REACH, _rate, make_ledger
from frugalkd.ledger.ledger import Ledger

SHORT = ("--set", "teacher.training.epochs=12", "--set", "student.training.epochs=4")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Digits: a self-regulated teacher and a conventional one."""
    root = tmp_path_factory.mktemp("teachers")
    recipe = load_recipe("digits", ["teacher.training.epochs=12"])
    teach(recipe, root / "regulated")
    teach(override(recipe, {"teacher.policy": {"name": "all"}}), root / "conventional")
    return root


@pytest.mark.heavy
def test_a_heads_ledger_ranks_samples_like_a_full_trainings(cli, teachers, tmp_path):
    out = tmp_path / "ledger"
    code, text, err = cli(
        "ledger", "make", "digits", "--teacher", str(teachers / "conventional"), "--out", str(out)
    )
    assert code == 0, err
    assert "mean significance" in text
    assert f"next: frugalkd ledger show {out}" in text
    made, full = Ledger.load(out), Ledger.load(teachers / "regulated")
    assert made.about["data"] == full.about["data"]
    assert np.asarray(spearmanr(made.significance, full.significance))[0] > 0.5
    said = json.loads((out / "ledger.json").read_text())
    assert said["made"] == "head"
    assert said["took_part"] == np.count_nonzero(made.significance)
    weights = (teachers / "conventional" / "teacher.safetensors").read_bytes()
    again = cli(
        "ledger", "make", "digits", "--teacher", str(teachers / "conventional"),
        "--out", str(tmp_path / "again"), "--json",
    )  # fmt: skip
    assert json.loads(again[1])["took_part"] == said["took_part"]
    assert (tmp_path / "again" / "ledger.safetensors").read_bytes() == (
        out / "ledger.safetensors"
    ).read_bytes()
    assert (teachers / "conventional" / "teacher.safetensors").read_bytes() == weights
    recipe = load_recipe("digits", [f"teacher.class_weights={[9, *[1] * 9]}"])
    make_ledger(recipe, tmp_path / "weighed", teacher=teachers / "conventional")
    assert (Ledger.load(tmp_path / "weighed")["loss"] != made["loss"]).any()


@pytest.mark.heavy
def test_students_learn_with_it(cli, teachers, tmp_path):
    teacher, out = str(teachers / "conventional"), tmp_path / "ledger"
    assert cli("ledger", "make", "digits", "--teacher", teacher, "--out", str(out))[0] == 0
    shared = ("distill", "digits", "--mode", "hybrid", "--teacher", teacher, *SHORT)
    code, _, err = cli(*shared, "--out", str(tmp_path / "s"), "--ledger", str(out))
    assert code == 0, err
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    took = np.count_nonzero(Ledger.load(out).significance)
    assert results["history"][0]["planned"] == took
    other = str(teachers / "regulated")
    code, _, err = cli(*shared, "--out", str(tmp_path / "s"), "--ledger", other)
    assert code == 2
    assert "holds another run" in err
    code, _, err = cli(*shared, "--out", str(tmp_path / "x"), "--ledger", str(tmp_path / "no"))
    assert code == 2
    assert "ledger make" in err
    assert not (tmp_path / "x").exists()


def test_a_ledger_from_a_log(cli, tmp_path):
    log = tmp_path / "log.csv"
    with open(log, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "id", "confidence", "correct"])
        for epoch in range(4):
            writer.writerows([epoch, id, 0.5 + 0.2 * (epoch > id % 5), 1] for id in range(1437))
    out = tmp_path / "ledger"
    shared = ("ledger", "make", "digits", "--log", str(log), "--out", str(out))
    code, _, err = cli(*shared, "--set", "teacher.policy.confidence=0.6")
    assert code == 0, err
    ledger = Ledger.load(out)
    expected = np.minimum((np.arange(1437) % 5 + 1) / 4, 1)
    np.testing.assert_allclose(ledger.significance, expected)
    code, _, err = cli(*shared, "--set", "teacher.policy.confidence=0.9")
    assert code == 2
    assert "every sample was used in every epoch of this log" in err
    code, _, err = cli(*shared, "--teacher", str(tmp_path))
    assert code == 2
    assert "leave out --teacher" in err


@pytest.mark.parametrize("samples", [8000, 60_000])
def test_the_heads_rate_depends_on_the_samples(samples):
    steps = -(-samples // HEAD.batch_size)
    assert _rate(samples) * steps == pytest.approx(REACH)
    assert _rate(9) == FASTEST == 0.003


@pytest.fixture(params=[False, True], ids=["lazy", "in memory"])
def pictures_run(request, tmp_path) -> Path:
    """On a part of twelve pictures, one of which has the name of a formula."""
    Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    for kind in ("ant", "=bee"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for row in range(6):
            file = tmp_path / "pictures" / kind / f"{row}.png"
            Image.new("L", (8, 8), 40 * row).save(file)
    options = {"path": "pictures", "test": 0.25, "channels": 1, "in_memory": request.param}
    data = {"name": "image-folder", "root": str(tmp_path), "options": options, "train_size": 6}
    few = {"data": data, "teacher.training.epochs": 1, "teacher.model.name": "mlp"}
    teach(override(load_recipe("digits"), few), tmp_path / "t")
    return tmp_path / "t"


def test_a_ledger_names_the_files_of_its_samples(pictures_run, cli, tmp_path):
    plain = json.loads(cli("ledger", "show", str(pictures_run), "--json")[1])
    assert all("sample" not in sample for sample in plain["most"])  # nothing was read
    code, out, err = cli("ledger", "show", str(pictures_run), "--data", "--json")
    assert code == 0, err
    named = json.loads(out)
    labels = Ledger.load(pictures_run).labels
    assert labels is not None
    files = {sample["id"]: Path(sample["sample"]) for sample in named["most"]}
    assert len(files) == 6
    for id, file in files.items():
        assert file.is_file()
        assert file.parent.name == ("=bee", "ant")[labels[id]]
    assert len(set(files.values())) == 6
    code, out, _ = cli("ledger", "show", str(pictures_run), "--data")
    assert max(map(len, out.splitlines())) <= 80
    table = tmp_path / "l.csv"
    assert cli("ledger", "export", str(pictures_run), "--to", str(table), "--data")[0] == 0
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["id"]): Path(row["sample"]) for row in rows} == files


def test_other_data_name_nothing(pictures_run, cli, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "ant" / "0.png")
    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "ant" / "1.png")
    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "=bee" / "0.png")
    for file in (tmp_path / "pictures").rglob("*.png"):
        file.touch()
    code, _, err = cli("ledger", "show", str(pictures_run), "--data")
    assert (code, err.count("\n")) == (2, 1)
    assert "are not those of the ledger" in err


def test_data_without_names_say_so(tmp_path, cli):
    few = ["--set", "data.train_size=60", "--set", "teacher.training.epochs=1"]
    assert cli("teach", "digits", "--out", str(tmp_path / "t"), *few)[0] == 0
    code, _, err = cli("ledger", "show", str(tmp_path / "t"), "--data")
    assert code == 2
    assert "have no sample names: leave out --data" in err


def test_a_text_is_named_by_its_beginning(tmp_path, cli, require_data):
    require_data("trec6/train.parquet")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: q\ndata: {name: trec6, train_size: 60}\n"
        "teacher: {model: {name: text-cnn, options: {width: 4}}, training: {epochs: 1}}\n"
        "student: {model: {name: text-cnn}}\n"
    )
    assert cli("teach", str(recipe), "--out", str(tmp_path / "t"))[0] == 0
    said = json.loads(cli("ledger", "show", str(tmp_path / "t"), "--data", "--json")[1])
    assert all(" " in sample["sample"] for sample in said["most"])


def test_no_heading_of_an_export_is_a_formula(tmp_path):
    ledger = Ledger.new(2, extra={"=1+1": "uint8"})
    ledger.export(tmp_path / "l.csv", names=["-a", "b\rc"])
    head, first, second = (tmp_path / "l.csv").read_text().splitlines()
    assert "'=1+1" in head.split(",")
    assert first.startswith("0,'-a,")
    assert second.startswith("1,b\\rc,")
