"""``plot`` from the command line, and what all commands that write a file say of it."""

from __future__ import annotations

import json

import pytest

from frugalkd.cli import main

FEW = ["--set", "data.train_size=100", "--set", "teacher.training.epochs=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["teach", "digits", "--out", str(folder), *FEW]) == 0
    return folder


def test_a_run_is_drawn_and_told_as_a_table_and_as_json(run, cli, tmp_path):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    to = tmp_path / "new" / "f.png"
    code, out, _ = cli("plot", str(run), "--to", str(to))
    assert code == 0
    assert to.read_bytes().startswith(b"\x89PNG")
    assert "participation" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli("plot", str(run), "--to", str(to), "--json")
    assert json.loads(out)["figures"] == ["participation"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "f.gif"], "its name must end in .pdf, .png or .svg"),
        (["--to", "f.png", "--figure", "frontier"], "one run has no frontier"),
        (["--to", "f.png", "--figure", "x"], "unknown figure 'x': known are frontier, partici"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run, cli, arguments, says):
    code, out, err = cli("plot", str(run), *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["predict", "export", "evaluate"])
def test_every_summary_is_a_table_of_80_columns_and_json(run, cli, tmp_path, command):
    to = str(tmp_path / "table.csv")
    arguments = {
        "predict": ["predict", str(run), "--data", "digits", "--out", to],
        "export": ["ledger", "export", str(run), "--to", to],
        "evaluate": ["evaluate", str(run), "--data"],
    }[command]
    code, out, _ = cli(*arguments)
    assert code == 0
    assert len(out.splitlines()) > 2
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli(*arguments, "--json")
    told = json.loads(out)
    if command == "export":
        assert told == {"ledger": str(run), "samples": 100, "to": to}
    else:
        assert told["images" if command == "predict" else "samples"] == 360
