"""``frugalkd compare``: budgets, claims, and one run at a time."""

from __future__ import annotations

import json

import pytest

FEW = [
    *("--set", "data.train_size=200", "--set", "teacher.training.epochs=3"),
    *("--set", "student.training.epochs=2", "--set", "teacher.model.options={hidden: [8]}"),
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arms", "regulatd"], "unknown arm 'regulatd': did you mean regulated?"),
        (["--arms", "regulated", "--budgets", "0"], "in (0, 1], not 0"),
        (["--arms", "regulated", "--budgets", "1.1"], "in (0, 1], not 1.1"),
        (["--arms", "regulated", "--budgets", "half"], "--budgets half: write parts of 1"),
        (["--arms", "regulated@"], "write NAME@BUDGET"),
        (["--arms", "regulated", "--claim", "regulated"], "write 'A > B' (better)"),
        (["--arms", "regulated", "--claim", "regulated > random"], "unknown arm 'random'"),
        (["--arms", "regulated", "--only", "abc"], "at least 6 digits"),
        (["--arms", "regulated", "--only", "abcdef"], "no run has that digest"),
    ],
)
def test_what_cannot_be_compared_is_one_line(cli, tmp_path, arguments, says):
    code, _, err = cli("compare", "digits", *arguments, "--out", str(tmp_path / "c"))
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.heavy
def test_a_job_array_and_what_collects_it(cli, tmp_path):
    where = str(tmp_path / "c")
    command = ["compare", "digits", *FEW, "--arms", "regulated,random", "--budgets", "0.5"]
    command += ["--seeds", "1", "--claim", "regulated@0.5 >= random@0.5"]
    command += ["--margin", "0.3", "--out", where]
    code, out, _ = cli(*command, "--list", "--json")
    assert code == 0
    jobs = json.loads(out)
    assert [job["name"] for job in jobs] == [
        *["self-regulated"] * 2,
        *("regulated@0.5", "random@0.5"),
    ]
    code, _, err = cli(*command, "--only", jobs[2]["digest"])
    assert code == 2
    assert f"--only {jobs[0]['digest']}" in err
    for job in jobs:
        code, out, _ = cli(*command, "--only", job["digest"])
        assert code == 0
        assert out.startswith(f"done: {job['digest']}")
    code, out, _ = cli(*command, "--list")
    assert [line.split()[1] for line in out.splitlines()] == ["done"] * 4
    code, out, err = cli(*command, "--json")
    assert code == 0
    assert err.count("done before") == 3
    comparison = json.loads(out)
    assert [row["arm"] for row in comparison["arms"]] == ["regulated@0.5", "random@0.5"]
    (claim,) = comparison["claims"]
    assert claim["margin"] == 0.003
    assert not claim["holds"]
    assert "1 of the 10 seeds" in claim["why"]
