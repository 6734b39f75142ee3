"""``python -m benchmarks.timing`` in this process, without running a case."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

from benchmarks.timing import CASES
from benchmarks.timing.__main__ import NAME, app
from benchmarks.timing.summary import SCHEMA


def content(case, failed=()):
    return {"schema": SCHEMA, "case": case.name, "summary": case.summary, "quick": False,
            "threads": 1, "per_rows": False, "arms": [], "ratios": [], "figures": [],
            "failed": list(failed)}  # fmt: skip


@pytest.fixture
def bench(cli):
    """``bench("a", "--dry-run")``: the exit code, stdout and stderr, in 80 columns."""
    return partial(cli, app=app, name=NAME)


@pytest.fixture
def requested(monkeypatch):
    """The cases and options that the command passes to ``bench``, which is replaced."""
    requested = []

    def bench(case, options, listener):
        requested.append((case.name, options))
        listener(f"{case.name} ...")
        return content(case, [{"run": "0-x", "error": "so"}] if options.rounds == 9 else [])

    monkeypatch.setattr("benchmarks.timing.run.bench", bench)
    return requested


def test_without_a_case_all_are_listed(bench):
    code, out, err = bench()
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = out.split()
    assert all(case.name in rows for case in CASES)
    assert "next: python -m benchmarks.timing a --dry-run" in out
    listed = json.loads(bench("--json")[1])
    assert [each["case"] for each in listed] == [case.name for case in CASES]
    assert "torchdistill" in listed[0]["arms"]
    assert (listed[-1]["arms"], listed[-1]["rounds"]) == ([], None)


@pytest.mark.heavy
def test_listing_does_not_need_torch():
    script = (
        "import sys; from frugalkd.cli import main; from benchmarks.timing.__main__ import app; "
        "code = main([], app=app); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dry_run_runs_nothing(bench, requested, tmp_path):
    out = tmp_path / "out"
    code, text, err = bench("a", "ledger", "--dry-run", "--out", str(out))
    assert (code, err, requested) == (0, "", [])
    assert not out.exists()
    assert "a: 30 runs to do" in text
    assert "6 of 24" in text
    assert "ledger: 1 run to do on 100,000,000 samples" in text
    whole = ("a", "--dry-run", "--whole", "--out", str(out), "--json")
    (plan,) = json.loads(bench(*whole)[1])
    assert {arm["epochs"] for arm in plan["arms"]} == {24}


def test_options_are_passed(bench, requested, tmp_path):
    code, out, err = bench(
        "b", "b", "--rounds", "2", "--arms", "regulated, torchdistill",
        "--part", "3", "--teacher", "b=there", "--quick", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    assert [name for name, _ in requested] == ["b"]
    options = requested[0][1]
    assert (options.out, options.rounds, options.part) == (tmp_path, 2, 3)
    assert (options.quick, options.whole) == (True, False)
    assert options.arms == ("regulated", "torchdistill")
    assert {name: str(folder) for name, folder in options.teachers.items()} == {"b": "there"}
    assert err.splitlines() == ["b ..."]
    assert "CIFAR-10" in out


def test_a_failed_run_sets_the_exit_code(bench, requested):
    code, out, err = bench("loop", "--rounds", "9", "--json")
    assert code == 1
    assert json.loads(out)[0]["failed"] == [{"run": "0-x", "error": "so"}]
    assert "failed: 0-x: so" in err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lop"], "error: unknown case 'lop': did you mean loop?"),
        (["loop", "--arms", "engin-64", "--dry-run"], "error: unknown arm of case loop 'engin-64'"),
        (["loop", "a", "--arms", "plain-64"], "error: unknown arm of case a 'plain-64'"),
        (["ledger", "--arms", "regulated"], "error: case ledger has no arms: leave --arms out"),
        (["a", "--teacher", "A=here"], "error: unknown teacher 'A': known are a, b"),
        (["a", "--teacher", "here"], "error: --teacher is 'here': give NAME=DIR"),
        (["a", "--teacher", "a=nowhere", "--dry-run"], "error: nowhere holds no finished run"),
        (["a", "--rounds", "0"], "error: invalid value for '--rounds'"),
    ],
)
def test_mistakes_are_one_line(bench, requested, arguments, message):
    code, out, err = bench(*arguments)
    assert (code, out, requested) == (2, "", [])
    assert err.startswith(message)
    assert len(err.splitlines()) == 1
