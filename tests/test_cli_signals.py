"""Signals to a real process: it stops after a step, says how to go on, and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

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
