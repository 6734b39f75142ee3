"""The trackers themselves, without a network: a run is stopped, resumed and read back.

Each in a process of its own: some of them read their environment as they are imported, and leave
threads behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

READERS = Path(__file__).parent / "reading_back.py"
PACKAGES = {
    "mlflow": ["mlflow", "sqlalchemy", "alembic"],
    "tensorboard": ["tensorboard"],
    "trackio": ["trackio"],
    "wandb": ["wandb"],
}
OTHERS = ("mlflow", "trackio", "wandb")


def offline(folder: Path) -> dict[str, str]:
    """An environment in which trackers keep everything in ``folder``."""
    return {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
    }


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["tensorboard", *OTHERS])
def test_a_resumed_run_is_one_run_of_the_tracker(name, tmp_path):
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI must have {', '.join(missing)}: see requirements-dev.txt")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -r requirements-dev.txt")
    done = subprocess.run(
        [sys.executable, str(READERS), name, str(tmp_path / "run")],
        env=offline(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)  # all that trackers print goes to stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["runs"] == 1
    losses = {str(record["epoch"]): record["loss"] for record in results["history"]}
    assert found["losses"] == pytest.approx(losses, rel=1e-6)  # TensorBoard keeps 32 bits
    accuracy = {str(len(losses)): results["evaluation"]["accuracy"]}
    assert found["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert float(found["settings"]["teacher.training.epochs"]) == 3
    assert found["settings"]["digest"] == results["digest"]
