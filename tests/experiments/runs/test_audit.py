"""``ledger audit``: the table, the decisions in it, and the recipe that they make."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from frugalkd.data import Augmentation, data_digest
from frugalkd.data.labels import Corrections
from frugalkd.errors import DataError, LedgerError, RunFolderError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.audit import fix, read_decisions
from frugalkd.experiments.runs.execute import teach
from frugalkd.experiments.runs.from_recipe import make_data
from frugalkd.experiments.runs.targets import store
from frugalkd.ledger.audit import export_suspects, ranked, scores, suspects
from frugalkd.ledger.ledger import Ledger
from frugalkd.teachers import StoredTargets
from toys import write_kinds

NOISY = {"data.train_size": 300, "data.noise": {"rate": 0.2}, "teacher.training.epochs": 10}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "t"
    teach(override(load_recipe("digits"), NOISY), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "t"))


def data_of(recipe) -> Any:
    return make_data(recipe, Augmentation(), 0).train


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_injected_noise_is_found(run, cli, tmp_path):
    ledger = Ledger.load(run)
    recipe = override(load_recipe("digits"), NOISY)
    clean = data_of(override(recipe, {"data.noise": None})).labels.numpy()
    wrong = np.flatnonzero(ledger.labels != clean)
    first = ranked(ledger)[:20]
    assert np.isin(first, wrong).mean() >= 0.7, "chance: 0.2"
    rows = suspects(ledger, first)
    right = [row["suggested"] == str(clean[row["id"]]) for row in rows if row["id"] in wrong]
    assert np.mean(right) > 0.8
    code, out, err = cli("ledger", "audit", str(run), "--top", "5", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert [row["id"] for row in said["suspects"]] == first[:5].tolist()
    assert said["refused"] == (ledger["margin"] < 0).sum()
    code, out, _ = cli("ledger", "audit", str(run), "--top", "5")
    assert "most suspicious labels" in out
    assert "next:" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_table_has_every_sample(run, cli, tmp_path):
    code, out, err = cli("ledger", "audit", str(run), "--out", str(tmp_path / "new" / "a.csv"))
    assert code == 0, err
    assert f"ledger audit {run} --fix {tmp_path}/new/a.csv --to fixed" in out
    rows, ledger = read(tmp_path / "new" / "a.csv"), Ledger.load(run)
    assert [int(row["id"]) for row in rows] == ranked(ledger).tolist()
    assert len(rows) == 300
    assert {(row["decision"], row["label"], row["sample"]) for row in rows} == {("", "", "")}
    found = [float(row["score"]) for row in rows]
    assert found == sorted(found)
    assert found[0] == pytest.approx(scores(ledger).min(), abs=1e-4)
    assert {row["data"] for row in rows} == {ledger.about["data"][:12]}
    with pytest.raises(DataError, match="decides nothing"):
        read_decisions(tmp_path / "new" / "a.csv", ledger)


def test_decisions_make_a_recipe_of_corrected_data(run, cli, tmp_path):
    ledger, table = Ledger.load(run), tmp_path / "d.csv"
    cli("ledger", "audit", str(run), "--out", str(table))
    rows = read(table)
    for row in rows[:3]:
        row["decision"] = " Exclude "
    for row in rows[3:5]:
        row["decision"] = "relabel"
    rows[4]["label"], rows[5]["decision"] = "7", "keep"
    write(table, rows)
    out, before = tmp_path / "fixed", (run / "ledger.safetensors").read_bytes()
    code, said, err = cli("ledger", "audit", str(run), "--fix", str(table), "--to", str(out))
    assert code == 0, err
    assert f"frugalkd teach {out}/recipe.yaml --out {out}/teacher" in said
    assert (run / "ledger.safetensors").read_bytes() == before
    fixed = load_recipe(str(out / "recipe.yaml"))
    old, new = data_of(override(load_recipe("digits"), NOISY)), data_of(fixed)
    gone = [int(row["id"]) for row in rows[:3]]
    kept = np.setdiff1d(np.arange(300), gone)
    labels = old.labels.numpy().copy()
    labels[int(rows[3]["id"])], labels[int(rows[4]["id"])] = int(rows[3]["suggested"]), 7
    assert new.labels.tolist() == labels[kept].tolist()
    # Again: what is there stays, and another decision cannot take its place.
    code, _, err = cli("ledger", "audit", str(run), "--fix", str(table), "--to", str(out))
    assert code == 2
    assert "would be overwritten" in err
    # A second audit, of a run on the corrected data, adds to the first.
    teach(override(fixed, {"teacher.training.epochs": 1}), tmp_path / "t2")
    second = Ledger.load(tmp_path / "t2")
    decided = Corrections(second.about["data"], frozenset({0}), {5: "3"})
    fix(tmp_path / "t2", second, decided, tmp_path / "again")
    both = data_of(load_recipe(str(tmp_path / "again" / "recipe.yaml")))
    labels[kept[5]] = 3
    assert both.labels.tolist() == labels[kept[1:]].tolist()
    assert data_digest(old.subset(kept)) != data_digest(new), "two labels were changed"
    assert ledger.about["data"] == data_digest(old)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "300"}, r"line 2: no sample '300': the ledger has 0 \.\. 299"),
        ({"id": "-1"}, "no sample '-1'"),
        ({"id": "1e3"}, "no sample '1e3'"),
        ({"decision": "delete"}, "no decision 'delete': known are"),
        ({"decision": "relabel", "label": "eleven"}, "'eleven' is not a class"),
        ({"decision": "relabel", "label": "", "suggested": ""}, "'' is not a class"),
        ({"data": "0" * 12}, "about other data"),
        ({"given": "x"}, "given label of sample"),
    ],
)
def test_impossible_decisions_name_their_line(run, tmp_path, change, says):
    ledger, table = Ledger.load(run), tmp_path / "d.csv"
    export_suspects(ledger, suspects(ledger, ranked(ledger, 2)), table)
    rows = read(table)
    rows[0] |= {"decision": "exclude", **change}
    with pytest.raises(DataError, match=rf"^(?!.*\n).*d\.csv, .*{says}"):
        read_decisions(write(table, rows), ledger)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        (b"id,label\n1,2\n", "has no column decision"),
        (b"\xff\xfe", "not a readable CSV file"),
        (b"id,decision\n1,exclude\n1,exclude\n", "line 3: sample 1 is decided twice"),
        (b"", "has no column id, decision"),
        (b"id,decision\n1\n", "decides nothing"),
    ],
)
def test_files_that_hold_no_decisions_are_refused(run, tmp_path, content, says):
    table = tmp_path / "d.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_decisions(table, Ledger.load(run))


def test_a_table_of_a_spreadsheet_is_read(run, tmp_path):
    """A mark of the byte order, other columns, and nothing but what is needed."""
    table = tmp_path / "d.csv"
    table.write_bytes(b"\xef\xbb\xbfnote,id,decision,label\r\n,7,RELABEL,4\r\nx,2,exclude,\r\n")
    decided = read_decisions(table, Ledger.load(run))
    assert (decided.exclude, decided.relabel) == (frozenset({2}), {7: "4"})


def test_a_ledger_of_no_run_can_be_ranked_and_not_fixed(run, tmp_path):
    alone = Path(shutil.copy(run / "ledger.safetensors", tmp_path / "l.safetensors"))
    ledger = Ledger.load(alone)
    assert len(ranked(ledger)) == 300
    with pytest.raises(RunFolderError):
        fix(alone, ledger, Corrections(ledger.about["data"], frozenset({1})), tmp_path / "f")
    ledger.about.pop("data")
    with pytest.raises(LedgerError, match="which data"):
        fix(run, ledger, Corrections("", frozenset({1})), tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_options_that_belong_together(run, cli, tmp_path):
    for one in (("--fix", "d.csv"), ("--to", "x")):
        code, _, err = cli("ledger", "audit", str(run), *one)
        assert code == 2
        assert "belong together" in err
    code, _, err = cli("ledger", "audit", str(run), "--fix", "d.csv", "--to", "x", "--data")
    assert code == 2
    assert "leave out --out, --data and --targets" in err


def test_the_teachers_class_comes_from_its_store(run, cli, tmp_path):
    settings = ["data.train_size=300", "data.noise={rate: 0.2}", "teacher.training.epochs=10"]
    recipe = load_recipe("digits", settings)
    store(recipe, tmp_path / "s", teacher=run)
    code, out, err = cli(
        "ledger", "audit", str(run), "--targets", str(tmp_path / "s"), "--json", "--top", "300"
    )
    assert code == 0, err
    top = StoredTargets(tmp_path / "s").all_logits().argmax(axis=1)
    assert {r["id"]: r["teacher"] for r in json.loads(out)["suspects"]} == {
        id: str(label) for id, label in enumerate(top)
    }
    store(override(recipe, {"data.noise": None}), tmp_path / "other", teacher=run)
    code, _, err = cli("ledger", "audit", str(run), "--targets", str(tmp_path / "other"))
    assert code == 2
    assert "soft targets of other data" in err


@pytest.fixture
def pictures(tmp_path) -> Path:
    pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    data = write_kinds(tmp_path / "pictures", samples=4)
    few = {"data": data, "teacher.training.epochs": 2, "teacher.model.name": "mlp"}
    teach(override(load_recipe("digits"), few), tmp_path / "t")
    return tmp_path / "t"


def test_files_are_named_where_they_may_be_read(pictures, cli, tmp_path):
    hint = "add --data for their files or texts"
    for command in (("show",), ("audit",), ("export", "--to", str(tmp_path / "l.csv"))):
        plain = cli("ledger", command[0], str(pictures), *command[1:])
        assert hint in plain[1], command
        named = cli("ledger", command[0], str(pictures), *command[1:], "--data")
        assert named[0] == 0, named[2]
        assert hint not in named[1]
    code, _, err = cli("ledger", "audit", str(pictures), "--data", "--out", str(tmp_path / "a.csv"))
    assert code == 0, err
    rows, ledger = read(tmp_path / "a.csv"), Ledger.load(pictures)
    for row in rows:
        assert Path(row["sample"]).is_file()
        assert Path(row["sample"]).parent.name == row["given"]
    assert len({row["sample"] for row in rows}) == len(ledger) == 16


def test_a_made_ledger_is_audited_too(run, cli, tmp_path):
    sets = [word for k, v in (("data.train_size", 300), ("data.noise", "{rate: 0.2}"))
            for word in ("--set", f"{k}={v}")]  # fmt: skip
    made = tmp_path / "made"
    code, _, err = cli(
        "ledger", "make", "digits", "--teacher", str(run), "--out", str(made), *sets,
        "--set", "teacher.policy.confidence=0.2", "--epochs", "9",
    )  # fmt: skip
    assert code == 0, err
    table = tmp_path / "d.csv"
    cli("ledger", "audit", str(made), "--out", str(table))
    rows = read(table)
    assert len(rows) == 300
    rows[0]["decision"] = "exclude"
    write(table, rows)
    code, _, err = cli(
        "ledger", "audit", str(made), "--fix", str(table), "--to", str(tmp_path / "f")
    )
    assert code == 0, err
    said = yaml.safe_load((tmp_path / "f" / "recipe.yaml").read_text())
    assert len(data_of(Recipe.model_validate(said))) == 299
