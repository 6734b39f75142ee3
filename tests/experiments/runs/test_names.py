"""Samples by their names, where the data that a run names know them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.ledger.ledger import Ledger

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")


@pytest.fixture(params=[False, True], ids=["lazy", "in memory"])
def run(request, tmp_path) -> Path:
    """On a part of twelve pictures, one of which has the name of a formula."""
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


def test_sound_16_a_ledger_names_the_files_of_its_samples(run, cli, tmp_path):
    plain = json.loads(cli("ledger", "show", str(run), "--json")[1])
    assert all("sample" not in sample for sample in plain["most"])  # nothing was read
    code, out, err = cli("ledger", "show", str(run), "--data", "--json")
    assert code == 0, err
    named = json.loads(out)
    labels = Ledger.load(run).labels
    assert labels is not None
    files = {sample["id"]: Path(sample["sample"]) for sample in named["most"]}
    assert len(files) == 6
    for id, file in files.items():
        assert file.is_file()
        assert file.parent.name == ("=bee", "ant")[labels[id]]
    assert len(set(files.values())) == 6
    code, out, _ = cli("ledger", "show", str(run), "--data")
    assert max(map(len, out.splitlines())) <= 80
    table = tmp_path / "l.csv"
    assert cli("ledger", "export", str(run), "--to", str(table), "--data")[0] == 0
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["id"]): Path(row["sample"]) for row in rows} == files


def test_sound_16_other_data_name_nothing(run, cli, tmp_path):
    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "ant" / "0.png")
    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "ant" / "1.png")
    Image.new("L", (8, 8), 99).save(tmp_path / "pictures" / "=bee" / "0.png")
    for file in (tmp_path / "pictures").rglob("*.png"):
        file.touch()
    code, _, err = cli("ledger", "show", str(run), "--data")
    assert (code, err.count("\n")) == (2, 1)
    assert "are not those that the ledger is of" in err


def test_sound_16_data_without_names_say_so(tmp_path, cli):
    few = ["--set", "data.train_size=60", "--set", "teacher.training.epochs=1"]
    assert cli("teach", "digits", "--out", str(tmp_path / "t"), *few)[0] == 0
    code, _, err = cli("ledger", "show", str(tmp_path / "t"), "--data")
    assert code == 2
    assert "know no names of samples: leave out --data" in err


def test_sound_16_a_text_is_called_as_it_begins(tmp_path, cli, require_data):
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


def test_sound_14_no_heading_of_an_export_is_a_formula(tmp_path):
    ledger = Ledger.new(2, extra={"=1+1": "uint8"})
    ledger.export(tmp_path / "l.csv", names=["-a", "b\rc"])
    head, first, second = (tmp_path / "l.csv").read_text().splitlines()
    assert "'=1+1" in head.split(",")
    assert first.startswith("0,'-a,")
    assert second.startswith("1,b\\rc,")
