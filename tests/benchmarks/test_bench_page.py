"""The tables that benchmarks/write.py generates from result files."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.timing.run import bench

SCRIPT = Path(__file__).parents[2] / "benchmarks/write.py"


@pytest.fixture(scope="module")
def write():
    sys.path.insert(0, str(SCRIPT.parent))  # as if the script is run
    spec = importlib.util.spec_from_file_location("write", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.mark.heavy
def test_a_case_is_two_tables_and_a_line(write, processes, tiny, options):
    content = bench(tiny, replace(options, rounds=1))
    arms, ratios, line = write.time_tables(content).split("\n\n")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in arms.splitlines()]
    assert len({len(row) for row in rows}) == 1
    live, stored, regulated = rows[2:]
    assert live[:2] == ["`live`", "1"]
    assert live[-1] == "1 of 4 epochs, scaled"
    assert live[4] == ""
    assert stored[-1] == "complete"
    assert re.fullmatch(r"\d+\.\d\d", stored[4])
    assert stored[5] == "100.0"
    assert float(regulated[5]) <= 100
    first, second = ratios.splitlines()[2:]
    assert first.startswith("| `live / regulated` | ")
    assert second.endswith("| ≤ 1 G yes | ≤ 0 no |")
    assert line.endswith("Failed runs: none.")
    assert f"commit {content['machines'][0]['commit']}" in line


def test_a_quick_run_is_refused(write, processes, tiny, options):
    content = bench(tiny, replace(options, quick=True, rounds=1, arms=("live",)))
    with pytest.raises(SystemExit, match="is from a quick run, not a result"):
        write.time_tables(content)


def test_a_range_of_accuracies_and_a_mixture_of_parts(write):
    value = {"median": 0.5, "min": 0.25, "max": 0.75, "n": 3}
    assert write.accuracy_range(value) == "50.00 (25.00 – 75.00)"
    runs = [{"part": part, "epochs": 24.0} for part in (None, 6)]
    assert write.part_run(runs) == "some 6 of 24 epochs, scaled"


def test_options_report_the_first_run(write, processes, beside, options):
    content = bench(replace(beside, arms=beside.arms[1:], ratios=[], per_rows=True), options)
    arms, _ = write.time_tables(content).split("\n\n")
    row = [cell.strip() for cell in arms.splitlines()[2].split("|")[1:-1]]
    (arm,) = content["arms"]
    assert row[:2] == ["`engine`", "3"]
    assert float(row[2]) == pytest.approx(arm["seconds"]["median"] / 0.8, rel=0.05)
    assert float(row[4]) == pytest.approx(arm["first_seconds"], rel=0.05)


def test_killed_runs_are_counted_by_kind(write):
    def trial(work, kept, equal=True):
        return {"work": work, "kept": kept, "equal": equal}

    trials = [trial("teach", ["nothing", "epoch-1"]), trial("store", ["nothing"], False)]
    versions = {"torch": "2"}
    content = {
        "seconds": {"teach": 1, "store": 1},
        "trials": trials,
        "versions": versions,
        "seed": 3,
    }
    *rows, _, line = write.torture_table(content).splitlines()
    assert rows[2:] == [
        "| teach | 1 | 2 | 1 | 1 | 1 |",
        "| store | 1 | 1 | 0 | 1 | 0 |",
        "| all | 2 | 3 | 1 | 2 | 1 |",
    ]
    assert line == "torch 2, seed 3."


def test_a_soak_reports_memory_and_leaks(write):
    held = [{"memory": n << 20, "threads": 2, "open_files": 6} for n in (5, 7, 8)]
    content = {"runs": 3, "warm_up": 1, "bytes_a_run": 99.6, "leaks": [], "held": held}
    assert write.soak_line(content) == (
        "3 runs in one process: 7 MiB after run 2 and 8 MiB after the last (100 bytes per run), 2 "
        "threads and 6 open files at the end. Leaks: none."
    )
    assert write.soak_line({**content, "leaks": ["memory"]}).endswith("Leaks: memory.")


def test_malformed_files_are_counted_by_kind(write):
    tally = {"cases": 1800, "refused": 1700, "read": 98, "failures": ["a", "b"]}
    kinds = {
        "card": {**tally, "worst": 3 << 19},
        "run": {**tally, "failures": [], "worst": -5},
    }
    content = {"kinds": kinds, "versions": {"torch": "2", "pyyaml": "6"}, "seed": 3}
    *rows, _, line = write.fuzz_table(content).splitlines()
    assert rows[2:] == [
        "| card | 1,800 | 1,700 | 98 | 2 | 1.5 |",
        "| run | 1,800 | 1,700 | 98 | 0 | 0.0 |",
    ]
    assert line == "torch 2, pyyaml 6, seed 3."
