"""The speedup of a second process: one rank with one thread, and two ranks on two cores.

CIFAR-10's teacher trains on the first samples for two epochs, with the same global batch size,
under torchrun in both cases. Runs are interleaved. The time is that of the training, without the
start of the processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing.machine import machine
from frugalkd.errors import RankError
from frugalkd.experiments.runs.folder import read_results
from frugalkd.runtime.process import rank_and_world

BATCH, EPOCHS, ROUNDS = 256, 2, 3
_LAST = 500
"""Characters of the output of a failed launch to report."""


def measure(
    samples: int, rounds: int = ROUNDS, *, device: str = "cpu", data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train ``rounds`` times on one rank and on two, interleaved: on ``device``, a GPU each for
    cuda, and on CIFAR-10 or the ``data`` of a recipe.

    Returns:
        ``alone``, ``together``: rows backpropagated per second; ``speedup``: their ratio per
        round; ``merge_share``: the share of the time of two ranks that they spent to exchange
        their observations. Each is a median; ``runs`` has the single values.

    Raises:
        RankError: a launch failed, or this process is itself a rank.
    """
    if rank_and_world()[1] > 1:
        raise RankError("the ranks case starts its own ranks: run it without torchrun")
    runs: dict[str, list[float]] = {
        name: [] for name in ("alone", "together", "speedup", "merge_share")
    }
    found = machine()
    with tempfile.TemporaryDirectory(prefix="frugalkd-") as place:
        for turn in range(rounds):
            meters = {}
            for ranks in (1, 2) if turn % 2 else (2, 1):
                out = Path(place) / f"{turn}-{ranks}"
                meters[ranks] = _train(out, samples, ranks, device, data)
            speeds = {
                ranks: each["samples_backpropagated"] / each["wall_seconds"]
                for ranks, each in meters.items()
            }
            runs["alone"].append(speeds[1])
            runs["together"].append(speeds[2])
            runs["speedup"].append(speeds[2] / speeds[1])
            merging = meters[2]["phases"].get("merge", 0.0)
            runs["merge_share"].append(merging / meters[2]["wall_seconds"])
    return {
        "samples": samples,
        **{name: statistics.median(values) for name, values in runs.items()},
        "threads": 1,
        "cpu": found["cpu"],
        "runs": runs,
        "machine": found,
    }


def _train(
    out: Path, samples: int, ranks: int, device: str, data: dict[str, Any] | None
) -> dict[str, Any]:
    """The meters of one training."""
    settings = {
        **({} if data is None else {"data": json.dumps(data)}),
        "data.train_size": samples,
        "threads": 1,
        "device": device,
        "teacher.training.epochs": EPOCHS,
        "teacher.training.batch_size": BATCH // ranks,
        "checkpoints.minutes": 0,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "frugalkd", "teach", "cifar10"]
    command += ["--out", str(out)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise RankError(f"{ranks} ranks ended with code {done.returncode}: {last_words(done)}")
    return read_results(out)["meters"]


def last_words(launch: subprocess.CompletedProcess[str]) -> str:
    """The end of what a failed launch wrote, in one line."""
    return " ".join(launch.stderr.split())[-_LAST:]
