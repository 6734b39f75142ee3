"""Signals to a real process: it stops after a step, says how to go on, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from frugalkd.cli import main
from frugalkd.experiments.runs import teaching
from frugalkd.experiments.runs.folder import RunFolder, read_results
from frugalkd.training import api

COMMAND = [sys.executable, "-m", "frugalkd", "teach", "digits"]
SETTINGS = ["--set", "teacher.training.epochs=12", "--set", "checkpoints.steps=7"]


def launch(out, *more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--out", str(out), *SETTINGS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_run_that_then_goes_on_as_if_nothing_had_happened(tmp_path, number, code):
    process = launch(tmp_path / "run")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/epoch-00001-*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1].startswith("stopped after ")
    assert err.rstrip().endswith("--resume")
    assert not (tmp_path / "run" / "results.json").exists()
    for out, more in (("run", ["--resume"]), ("whole", [])):
        process = launch(tmp_path / out, *more)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    for name in ("teacher.safetensors", "ledger.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["looking", "asking", "update_bn"])
def test_a_signal_after_the_last_step_stops_a_run_that_then_goes_on(
    cli, tmp_path, monkeypatch, where, number
):
    """In the student's evaluation, in the teacher's, in the recalibration."""
    settings = ["--set", "student.training.epochs=1", "--set", "student.training.recalibrate_bn=64"]
    settings += ["--set", "student.model.name=resnet8", "--set", "student.model.options={}"]
    settings += ["--set", "teacher.training.epochs=1", "--set", "data.train_size=100"]
    teacher, whole, run = (str(tmp_path / name) for name in ("teacher", "whole", "run"))
    assert main(["teach", "digits", "--out", teacher, *settings]) == 0
    command = ["distill", "digits", "--mode", "regulated", "--teacher", teacher, *settings, "--out"]
    assert main([*command, whole]) == 0
    module, name = {
        "looking": (api, "predict"),
        "asking": (teaching, "held_out_logits"),
        "update_bn": (torch.optim.swa_utils, "update_bn"),
    }[where]
    for store in tmp_path.glob("teacher/targets-*"):  # so that there is something to ask for
        shutil.rmtree(store)
    act = getattr(module, name)

    def signalled(*given, **named):
        signal.raise_signal(number)
        return act(*given, **named)

    monkeypatch.setattr(module, name, signalled)
    code, _, err = cli(*command, run)
    assert code == 128 + number
    assert err.splitlines()[-1].startswith("stopped after 2 steps (1 whole epochs)")
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.undo()
    assert main([*command, run, "--resume"]) == 0
    for file in ("student.safetensors", "ledger.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    found, sound = (read_results(tmp_path / name) for name in ("run", "whole"))
    assert found["evaluation"] == sound["evaluation"]
    assert found["meters"]["student_forwards"] == sound["meters"]["student_forwards"] == 164


def test_ctrl_c_again_and_again_ends_a_comparison_and_all_that_it_began(tmp_path):
    command = [
        sys.executable,
        "-m",
        "frugalkd",
        "compare",
        "digits",
        "--arms",
        "vanilla",
        "--seeds",
    ]
    process = subprocess.Popen(
        [*command, "1", "--jobs", "1", "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(tmp_path.glob("teachers/*/run.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    while process.poll() is None:  # as it stops, and as Python ends
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.15)
    out, err = process.communicate(timeout=60)  # once all that hold these pipes are gone
    assert (process.returncode, out) == (130, "")
    (line,) = [line for line in err.splitlines() if "teach" not in line]
    assert line.startswith("stopped; what is finished is kept; go on with: frugalkd compare")


def test_a_signal_that_comes_too_late_is_not_swallowed(cli, tmp_path, monkeypatch):
    finish = RunFolder.finish

    def signalled(folder, results):
        signal.raise_signal(signal.SIGTERM)
        finish(folder, results)

    monkeypatch.setattr(RunFolder, "finish", signalled)
    command = [
        "teach",
        "digits",
        "--set",
        "teacher.training.epochs=1",
        "--out",
        str(tmp_path / "r"),
    ]
    code, out, err = cli(*command)
    assert (code, out) == (143, "")
    assert err.splitlines()[-1] == f"stopped, but {tmp_path / 'r'} was done by then"
    code, out, err = cli(*command)
    assert code == 0
    assert "holds this very run, finished" in err
