"""What all commands have in common: a summary within 80 columns, and the same as JSON."""

from __future__ import annotations

import json

import pytest
import typer
from rich.cells import cell_len
from small_runs import TINY

from frugalkd.cli import app, main

NO_TABLE = {"schema", "recipes show"}
"""These print a file: JSON, and YAML to start from."""


def commands(group, path=()):
    for name, command in getattr(group, "commands", {}).items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        yield " ".join((*path, name)), command


def test_every_command_that_prints_a_table_has_json():
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) >= 15
    without = {
        name
        for name, command in found.items()
        if not any("--json" in option.opts for option in command.params)
    }
    assert without - {"ledger"} == NO_TABLE  # ledger is a group without an action


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A folder with a teacher; its recipe has a name that is as long as it is strange."""
    folder = tmp_path_factory.mktemp("runs")
    name = "[/] \x1b[31m" + "long " * 30
    few = [*TINY, "--set", f"name={json.dumps(name)}"]
    assert main(["teach", "digits", "--out", str(folder / "t"), *few]) == 0
    return folder, few


@pytest.mark.parametrize(
    "command",
    ["recipes", "teach", "distill", "store", "ledger show", "ledger make", "ledger export",
     "evaluate", "predict", "report"],
)  # fmt: skip
@pytest.mark.heavy
def test_a_summary_fits_80_columns_and_is_json_for_machines(strange, cli, tmp_path, command):
    folder, few = strange
    teacher, out = str(folder / "t"), str(tmp_path / "o")
    arguments = {
        "recipes": [],
        "teach": ["digits", "--out", teacher, *few],
        "distill": ["digits", "--teacher", teacher, "--out", out, *few],
        "store": ["digits", "--teacher", teacher, "--out", out, *few],
        "ledger show": [teacher],
        "ledger make": ["digits", "--teacher", teacher, "--out", out, "--epochs", "20", *few,
                        "--set", "teacher.policy.confidence=0.2"],
        "ledger export": [teacher, "--to", f"{out}.csv"],
        "evaluate": [teacher, "--data", "own"],
        "predict": [teacher, "--data", "digits", "--out", f"{out}.csv"],
        "report": [teacher],
    }[command]  # fmt: skip
    code, text, err = cli(*command.split(), *arguments)
    assert code == 0, err
    # What is to be copied stands on a line of its own, however long.
    copied = ("next: ", "written: ")
    lines = [line for line in text.splitlines() if not line.startswith(copied)]
    assert len(lines) > 2
    assert max(map(cell_len, lines)) <= 80
    assert all(sign.isprintable() or sign == "\n" for sign in text + err)
    code, text, _ = cli(*command.split(), *arguments, "--json")
    assert code == 0
    assert isinstance(json.loads(text), dict)
