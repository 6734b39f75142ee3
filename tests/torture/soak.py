"""Many short runs in one process: none leaves memory, a thread, an open file or a temporary file.

``python tests/torture/soak.py --runs 200`` teaches and distils the digits in every mode in turn,
prints what the process holds after each tenth, and exits with 1 if something grew.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from works import works

FEW = {
    "data.train_size": 400,
    "teacher.training.epochs": 3,
    "teacher.training.batch_size": 16,
    "teacher.policy.confidence": 0.3,
    "student.training.epochs": 2,
    "checkpoints.steps": 10,
}
MOST = 12_000
"""Bytes that a run may add. The optimiser of one of these students alone has more than that, and
so has its ledger with its data: one that is kept somewhere would be seen."""


@dataclass(frozen=True)
class Held:
    """What the process holds after a run: bytes in memory, threads (of Python and of the system),
    open files, and files in the folder for temporary ones."""

    memory: int
    python_threads: int
    threads: int
    open_files: int
    temporary: int


def held(temporary: Path) -> Held:
    """Now, once garbage has been collected, and free pages of the heap given back: how many it
    keeps differs from run to run by more than a run of the digits holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        pages * os.sysconf("SC_PAGESIZE"),
        threading.active_count(),
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        sum(1 for _ in temporary.iterdir()),
    )


def soak(
    runs: int, work: Callable[[int], object], temporary: Path, report: Callable[[int, Held], None]
) -> list[Held]:
    """Do ``work(0) .. work(runs - 1)``; what is held after each."""
    found = []
    for run in range(runs):
        work(run)
        found.append(held(temporary))
        report(run, found[-1])
    return found


def slope(found: list[Held]) -> float:
    """Bytes a run: the median of the slopes between runs half the time apart (Theil and Sen's, of
    pairs far apart), which a jump up or down does not move."""
    memory = [one.memory for one in found]
    apart = len(memory) // 2
    pairs = zip(memory, memory[apart:], strict=False)
    return statistics.median((later - early) / apart for early, later in pairs)


def leaks(found: list[Held], warm_up: int, most: float = MOST) -> list[str]:
    """What grew after the first ``warm_up`` runs (torch makes a folder for its caches once);
    memory by more than ``most`` bytes a run."""
    rest = found[warm_up:]
    said = []
    grown = slope(rest)
    if grown > most:
        said.append(f"memory grows by {grown:,.0f} bytes a run")
    for what in ("python_threads", "threads", "open_files", "temporary"):
        before, after = getattr(rest[0], what), getattr(rest[-1], what)
        if after > before:
            said.append(f"{what} grew from {before} to {after}")
    return said


def digits(folder: Path) -> Callable[[int], object]:
    """``work(run)``: teach, then distill in every mode, then store, in turn; all leave only their
    run folder, which goes away."""
    teacher = folder / "teacher"
    made = works(teacher, FEW)
    made[0].run(teacher, False)

    def work(run: int) -> None:
        one = made[run % len(made)]
        one.run(folder / "run", False)
        one.outcome(folder / "run")
        shutil.rmtree(folder / "run")

    return work


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--most", type=float, default=MOST, help="bytes a run that are not a leak")
    parser.add_argument("--json", type=Path, help="write what was held after each run there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="frugalkd-soak-") as name:
        temporary = Path(name) / "tmp"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)  # for the libraries of this process alone

        def report(run: int, now: Held) -> None:
            if run % max(1, options.runs // 10) == 0 or run == options.runs - 1:
                print(
                    f"run {run + 1:4}: {now.memory / 2**20:7.1f} MiB, {now.threads} threads, "
                    f"{now.open_files} open files, {now.temporary} temporary files",
                    flush=True,
                )

        found = soak(options.runs, digits(Path(name)), temporary, report)
        tempfile.tempdir = None
    warm_up = max(10, min(options.runs // 4, 30))  # each work once, at least
    said = leaks(found, warm_up, options.most)
    grown = slope(found[warm_up:])
    print(f"memory: {grown:+,.0f} bytes a run after {warm_up} runs; {'; '.join(said) or 'no leak'}")
    if options.json:
        result: dict[str, Any] = {
            "schema": 1,
            "command": f"tests/torture/soak.py --runs {options.runs}",
            "runs": options.runs,
            "warm_up": warm_up,
            "bytes_a_run": grown,
            "leaks": said,
            "held": [asdict(one) for one in found],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
