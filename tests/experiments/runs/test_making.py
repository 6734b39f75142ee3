"""``ledger make``: its ledger speaks of the same samples as that of a full training."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from frugalkd.experiments.runs.making import FASTEST, HEAD, REACH, paced
from frugalkd.ledger.ledger import Ledger

SHORT = ("--set", "teacher.training.epochs=12", "--set", "student.training.epochs=4")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Digits: a self-regulated teacher and a conventional one."""
    from frugalkd.experiments.recipes.load import load_recipe, override
    from frugalkd.experiments.runs.execute import teach

    root = tmp_path_factory.mktemp("teachers")
    recipe = load_recipe("digits", ["teacher.training.epochs=12"])
    teach(recipe, root / "regulated")
    teach(override(recipe, {"teacher.policy": {"name": "all"}}), root / "conventional")
    return root


def test_a_heads_ledger_ranks_samples_like_a_full_trainings(cli, teachers, tmp_path):
    out = tmp_path / "ledger"
    code, text, err = cli(
        "ledger", "make", "digits", "--teacher", str(teachers / "conventional"), "--out", str(out)
    )
    assert code == 0, err
    assert "mean significance" in text
    assert f"--ledger {out}" in text
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


def test_a_log_takes_the_teachers_place(cli, tmp_path):
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
    assert "everybody took part in every epoch of this log" in err
    code, _, err = cli(*shared, "--teacher", str(tmp_path))
    assert code == 2
    assert "leave out --teacher" in err


@pytest.mark.parametrize("samples", [8000, 60_000])
def test_an_epoch_of_many_samples_takes_the_head_no_further_than_one_of_few(samples):
    steps = -(-samples // HEAD.batch_size)
    assert paced(samples).lr * steps == pytest.approx(REACH)
    assert paced(9).lr == FASTEST == 0.003
    assert paced(samples).name == "adamw"
