"""The ranks case: its launches, and the figures from their results."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.timing import ranks as case
from benchmarks.timing.case import Measurement, find_case
from benchmarks.timing.cases import CASES
from frugalkd.errors import RankError
from frugalkd.files.writing import write_json


@pytest.fixture
def launches(monkeypatch):
    """Replace launches by written results; returns the list of the number of ranks of each."""
    started: list[int] = []

    def run(command, **more):
        ranks = int(command[4].removeprefix("--nproc-per-node="))
        started.append(ranks)
        assert f"teacher.training.batch_size={256 // ranks}" in command
        assert more["env"]["OMP_NUM_THREADS"] == "1"
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        meters = {
            "samples_backpropagated": 1000,
            "wall_seconds": 10.0 / ranks + len(started) / 1000,
            "phases": {"merge": 0.01} if ranks == 2 else {},
        }
        write_json(out / "results.json", {"schema": 1, "meters": meters})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("benchmarks.timing.ranks.subprocess", SimpleNamespace(run=run))
    return started


def test_ranks_are_interleaved_and_compared_per_round(launches):
    figures = case.measure(640)
    assert launches == [2, 1, 1, 2, 2, 1]
    assert figures["speedup"] == pytest.approx(2, rel=0.01)
    assert figures["merge_share"] == pytest.approx(0.002, rel=0.01)
    assert len(figures["runs"]["alone"]) == 3
    listed = find_case("ranks", CASES)
    assert isinstance(listed, Measurement)
    assert {figure.name for figure in listed.figures} <= set(figures)


def test_a_failed_launch_reports_its_output(monkeypatch):
    def run(command, **more):
        return subprocess.CompletedProcess(command, 1, "", "no such\n  thing")

    monkeypatch.setattr("benchmarks.timing.ranks.subprocess", SimpleNamespace(run=run))
    with pytest.raises(RankError, match="2 ranks ended with code 1: no such thing"):
        case.measure(640)


def test_a_launch_within_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RankError, match="run it without torchrun"):
        case.measure(640)
