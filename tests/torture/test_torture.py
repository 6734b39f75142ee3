"""Killed runs resume to the same bytes: a few of them here, 50 with ``make torture``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("torture.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# In a process of its own, since it forks; one work after another, none of which is a training.
TRIAL = """
import sys
sys.path.insert(0, sys.argv[1])
import json, os, time
from pathlib import Path
from torture import one
from works import Work

def trial_of(kind, folder):
    def run(out, resume):
        out.mkdir(exist_ok=True, parents=True)
        for name in ("a", "b"):
            if kind == "forgets" and resume:
                (out / name).write_bytes(b"resumed")
            else:
                (out / name).write_bytes(b"sound")
            time.sleep(0.3)
        if kind == "fails" and resume:
            raise KeyError("lost")
        if kind == "litters":
            (out / ".a.12.tmp").touch()
        forwards = 5 if kind == "miscounts" and resume else 4
        meters = {"student_forwards": forwards, "wall_seconds": time.time()}
        history = [{"loss": 0.5, "wall_seconds": time.time()}]
        results = {"recipe": {"checkpoints": resume}, "meters": meters, "history": history}
        (out / "results.json").write_text(json.dumps(results))

    work = Work(kind, run, lambda out: run(out, False), ("a", "b"))
    run(folder / "sound", False)
    (folder / "sound" / ".a.12.tmp").unlink(missing_ok=True)
    trial = one(work, "7", 0.5, work.outcome(folder / "sound"), folder / "out", folder / "log")
    return len(trial.moments), trial.equal, str(trial.said)

kinds = ("sound", "forgets", "fails", "litters", "miscounts")
print(json.dumps({kind: trial_of(kind, Path(sys.argv[2]) / kind) for kind in kinds}))
"""


@pytest.mark.heavy
def test_a_run_that_does_not_come_to_the_same_is_seen(tmp_path):
    command = [sys.executable, "-c", TRIAL, str(SCRIPT.parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    trials = json.loads(done.stdout)
    assert all(kills >= 1 for kills, _, _ in trials.values())
    assert {kind: (equal, said) for kind, (_, equal, said) in trials.items()} == {
        "sound": (True, "[]"),
        "forgets": (False, "['a', 'b']"),
        "fails": (False, "KeyError: 'lost'"),
        "litters": (False, "['.a.12.tmp']"),
        "miscounts": (False, "['results.json: meters']"),
    }


@pytest.mark.heavy
def test_killed_runs_end_in_the_same_bytes(tmp_path):
    out = tmp_path / "torture.json"
    command = [sys.executable, SCRIPT, "--kills", "8", "--seed", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["equal"] == result["runs"] >= 5
    assert result["kills"] >= 8
