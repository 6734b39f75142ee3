"""``frugalkd estimate`` in this process."""

import json

import pytest

FEW = ["--set", "teacher.training.epochs=2", "--set", "student.training.epochs=3"]


def test_the_table_fits_80_columns_and_says_everything(cli):
    code, out, _ = cli("estimate", "digits", "--seconds", "1", *FEW)
    assert code == 0
    head = out.partition("next: ")[0]
    assert max(map(len, head.splitlines())) <= 80
    assert "…" not in out
    for words in ("selection ", "vanilla, live", "vanilla, stored", "significance", "regulated",
                  "hybrid", "ceiling 0.9", "by time", "by FLOPs", "screening", "store paid after",
                  "ledger paid after", "pilot", "warning: "):  # fmt: skip
        assert words in out
    assert "next: frugalkd teach digits --out runs/teacher --set teacher.training.epochs=2" in out


@pytest.mark.heavy
def test_at_a_cost_the_modes_are_named_as_those_without(cli, runs):
    teacher = ("--teacher", str(runs / "teacher"))
    code, out, _ = cli("estimate", "digits", "--cost", "0.5", *teacher, "--seconds", "1", *FEW)
    assert code == 0
    assert out.index("at this cost") < out.index("without a limit of the cost")
    assert "next: frugalkd distill digits --cost 0.5 --out" in out


def test_json(cli):
    code, out, err = cli("estimate", "digits", "--seconds", "1", "--json", *FEW)
    assert code == 0
    assert err == ""
    found = json.loads(out)
    assert found["schema"] == 2
    assert found["recipe"] == "digits"
    assert found["epochs"] == 3


def test_a_dry_run_runs_nothing(cli, monkeypatch):
    monkeypatch.setattr("frugalkd.experiments.estimate.estimate", None)
    code, out, _ = cli("estimate", "digits", "--dry-run", "--set", "student.mode=hybrid")
    assert code == 0
    assert out.startswith("# would import: ")
    assert "mode: hybrid" in out
    found = json.loads(cli("estimate", "digits", "--dry-run", "--json")[1])
    assert found["recipe"]["name"] == "digits"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digit"], "did you mean digits"),
        (["digits", "--teacher", "nowhere"], "no folder nowhere"),
        (["digits", "--seconds", "0"], "seconds"),
        (["digits", "--seconds", "inf"], "seconds"),
        (["digits", "--set", "student.mode=quick"], "student.mode"),
    ],
)
def test_errors_are_one_line(cli, arguments, words):
    code, out, err = cli("estimate", *arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
