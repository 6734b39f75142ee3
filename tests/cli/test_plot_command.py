"""``plot`` from the command line, and what all commands that write a file say of it."""

from __future__ import annotations

import json

import pytest


def test_a_run_is_drawn_with_a_table_and_as_json(runs, cli, tmp_path):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    to = tmp_path / "new" / "f.png"
    code, out, _ = cli("plot", str(runs / "teacher"), "--to", str(to))
    assert code == 0
    assert to.read_bytes().startswith(b"\x89PNG")
    assert "participation" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli("plot", str(runs / "teacher"), "--to", str(to), "--json")
    assert json.loads(out)["figures"] == ["participation"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "f.gif"], "its name must end in .pdf, .png or .svg"),
        (["--to", "f.png", "--figure", "frontier"], "one run has no frontier"),
        (["--to", "f.png", "--figure", "x"], "'x' is not one of 'frontier', 'participation'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(runs, cli, arguments, says):
    code, out, err = cli("plot", str(runs / "teacher"), *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["predict", "export", "evaluate"])
def test_every_summary_is_a_table_of_80_columns_and_json(runs, cli, tmp_path, command):
    to = str(tmp_path / "table.csv")
    arguments = {
        "predict": ["predict", str(runs / "teacher"), "--data", "digits", "--out", to],
        "export": ["ledger", "export", str(runs / "teacher"), "--to", to],
        "evaluate": ["evaluate", str(runs / "teacher"), "--data", "own"],
    }[command]
    code, out, _ = cli(*arguments)
    assert code == 0
    assert len(out.splitlines()) > 2
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli(*arguments, "--json")
    content = json.loads(out)
    if command == "export":
        assert content == {"ledger": str(runs / "teacher"), "samples": 1437, "to": to}
    else:
        assert content["images" if command == "predict" else "samples"] == 360
