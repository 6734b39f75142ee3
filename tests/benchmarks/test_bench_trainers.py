"""The trainers case: its launches, steps in turn, and the ratios of their times."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.timing import trainers as case
from benchmarks.timing.case import Measurement, find_case
from benchmarks.timing.cases import CASES
from frugalkd.errors import RankError


def test_epochs_are_compared_but_the_first(monkeypatch):
    launched = []

    def run(command, **more):
        ranks = int(command[4].removeprefix("--nproc-per-node="))
        samples, epochs, workers, folder = command[-4:]
        launched.append((ranks, int(workers)))
        assert (samples, epochs) == ("64", "3")
        assert more["env"]["OMP_NUM_THREADS"] == "1"
        for rank in range(ranks):
            plain = [{"wall": 2.0 + rank, "cpu": 1.0}] * 6
            frugal = [{"wall": 3.0 * (2 + rank) * (step > 1), "cpu": 1.5} for step in range(6)]
            times = {"plain": plain, "frugal": frugal}
            (Path(folder) / f"{rank}.json").write_text(json.dumps(times))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(case, "subprocess", SimpleNamespace(run=run))
    figures = case.measure(64, epochs=3)
    assert launched == [(1, 0), (1, 2), (2, 0)]
    for name in ("one", "workers", "two"):
        assert figures["runs"][name] == [3.0, 3.0]
        assert figures["runs"][f"{name}_cpu"] == [1.5, 1.5]
    assert (figures["two"], figures["step"]) == (3.0, 2.0)
    listed = find_case("trainers", CASES)
    assert isinstance(listed, Measurement)
    assert {figure.name for figure in listed.figures} <= set(figures)


def test_a_failed_launch_reports_its_output(monkeypatch):
    def run(command, **more):
        return subprocess.CompletedProcess(command, 1, "", "no such\n  thing")

    monkeypatch.setattr(case, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(RankError, match="1 ranks ended with code 1: no such thing"):
        case.measure(64)


def test_a_launch_within_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RankError, match="run it without torchrun"):
        case.measure(64)


def test_threads_run_in_turn_until_one_ends():
    turns, done = case.Turns(("a", "b")), []

    def run(name, steps):
        with turns.own(name):
            for _ in range(steps):
                done.append(name)
                turns.pass_on(name)

    threads = [threading.Thread(target=run, args=given) for given in (("a", 2), ("b", 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert done == list("ababbb")


@pytest.mark.heavy
def test_both_trainers_are_timed_step_by_step(monkeypatch, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    monkeypatch.setattr(case, "WIDTH", 8)
    case.main(3 * case.BATCH, 2, 0, tmp_path)
    times = json.loads((tmp_path / "0.json").read_text())
    assert {name: len(steps) for name, steps in times.items()} == {"plain": 6, "frugal": 6}
    assert all(step["wall"] > 0 and step["cpu"] > 0 for steps in times.values() for step in steps)
