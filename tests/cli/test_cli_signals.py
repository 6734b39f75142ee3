"""Signals to a process: it stops after a step, says how to resume, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from frugalkd.cli import main
from frugalkd.experiments.runs import targets
from frugalkd.experiments.runs.folder import RunFolder, read_results
from frugalkd.training import api

TEACH = ["teach", "digits", "--set", "teacher.training.epochs=8", "--set", "checkpoints.steps=7"]
STUDENT = [
    *("--set", "student.training.epochs=1", "--set", "student.training.recalibrate_bn=64"),
    *("--set", "student.model.name=resnet8", "--set", "student.model.options={}"),
    *("--set", "teacher.training.epochs=1", "--set", "data.train_size=100"),
]
RESUMED = ("teacher.safetensors", "student.safetensors", "ledger.safetensors")


def same_files(one: Path, other: Path) -> bool:
    found = [name for name in RESUMED if (other / name).exists()]
    return len(found) == 2 and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in found
    )


def launch(*words: str, **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "frugalkd", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **more,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    until = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """Run folders without a signal: of TEACH, and of a teacher and a student of STUDENT."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main([*TEACH, "--out", str(folder / "run")]) == 0
    teacher = str(folder / "teacher")
    assert main(["teach", "digits", *STUDENT, "--out", teacher]) == 0
    distil = ["distill", "digits", "--mode", "regulated", "--teacher", teacher, *STUDENT]
    assert main([*distil, "--out", str(folder / "student")]) == 0
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_resumes_bit_for_bit(uninterrupted, tmp_path, number, code):
    out = tmp_path / "run"
    process = launch(*TEACH, "--out", str(out))
    wait_for(process, out, "checkpoints/epoch-00001-*")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1].startswith("stopped after ")
    assert err.rstrip().endswith("--resume")
    assert not (out / "results.json").exists()
    assert main([*TEACH, "--out", str(out), "--resume"]) == 0
    assert same_files(out, uninterrupted / "run")
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (api, "predict", signal.SIGTERM),
        (targets, "held_out_logits", signal.SIGINT),
        (torch.optim.swa_utils, "update_bn", signal.SIGTERM),
    ],
)
def test_a_signal_after_the_last_step_stops_a_run(
    uninterrupted, cli, tmp_path, monkeypatch, module, name, number
):
    """In the student's evaluation, in the teacher's, in the recalibration."""
    teacher, whole, run = tmp_path / "teacher", uninterrupted / "student", tmp_path / "run"
    stores = shutil.ignore_patterns("targets-*")  # so that the teacher has to run
    shutil.copytree(uninterrupted / "teacher", teacher, ignore=stores)
    command = ["distill", "digits", "--mode", "regulated", "--teacher", str(teacher), *STUDENT]
    command += ["--out", str(run)]
    act = getattr(module, name)

    def signalled(*given, **named):
        signal.raise_signal(number)
        return act(*given, **named)

    monkeypatch.setattr(module, name, signalled)
    code, _, err = cli(*command)
    assert code == 128 + number
    assert err.splitlines()[-1].startswith("stopped after 2 steps (1 complete epochs)")
    assert not (run / "results.json").exists()
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0
    assert same_files(run, whole)
    found, sound = read_results(run), read_results(whole)
    assert found["evaluation"] == sound["evaluation"]
    assert found["meters"]["student_forwards"] == sound["meters"]["student_forwards"] == 164


@pytest.mark.heavy
def test_ctrl_c_twice_ends_a_comparison_and_its_runs(tmp_path):
    process = launch(
        "compare", "digits", "--arms", "vanilla", "--seeds", "1", "--jobs", "1", "--out",
        str(tmp_path), start_new_session=True,
    )  # fmt: skip
    wait_for(process, tmp_path, "teachers/*/run.json")
    while process.poll() is None:  # as it stops, and as Python ends
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.15)
    out, err = process.communicate(timeout=60)  # once all that hold these pipes are gone
    assert (process.returncode, out) == (130, "")
    (line,) = [line for line in err.splitlines() if "teach" not in line]
    assert line.startswith("stopped; finished work is kept; resume with: frugalkd compare")


def test_a_signal_that_comes_too_late_is_reported(cli, tmp_path, monkeypatch):
    finish = RunFolder.finish

    def signalled(folder, results):
        signal.raise_signal(signal.SIGTERM)
        finish(folder, results)

    monkeypatch.setattr(RunFolder, "finish", signalled)
    out = tmp_path / "r"
    command = ["teach", "digits", "--set", "teacher.training.epochs=1", "--out", str(out)]
    code, said, err = cli(*command)
    assert (code, said) == (143, "")
    assert err.splitlines()[-1] == f"stopped, but {out} was done by then"
    code, said, err = cli(*command)
    assert code == 0
    assert "holds this very run, finished" in err
