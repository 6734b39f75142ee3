"""Which wrong labels are found, and what a student makes of the others.

    python -m benchmarks.noise run --out OUT --noise symmetric-0.2,symmetric-0.4 --seeds 2
    python -m benchmarks.noise table --out OUT --to benchmarks/results/noise-fashion-mnist.json

A job is a method on a data set with a kind of noise and a seed; it has a folder in OUT. Finished
jobs are not run again, and a job that was stopped begins again. ``run`` is one process of one
thread at the lowest priority, and may be started several times. With the noise ``none``, ``teach``
and ``teach-auto`` show what ``label_noise: auto`` costs on clean data. A result file whose name
begins with ``noise-`` is a table of BENCHMARKS.md (``python -m benchmarks.write``). Banking77,
whose own labels are partly wrong, is for ``untouched``, ``removed``, ``relabelled`` and
``removed-at-random``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.noise.data import TASKS, load
from benchmarks.noise.methods import CORRECTED, METHODS, NEEDS
from benchmarks.noise.table import summarise, table
from frugalkd.errors import FolderBusy
from frugalkd.files.lock import Lock
from frugalkd.files.writing import write_json

RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    data: str
    rows: int
    noise: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.rows}-{self.noise}-{self.method}-s{self.seed}"

    @property
    def other(self) -> str | None:
        """The job whose files this one reads."""
        needs = NEEDS.get(self.method)
        return None if needs is None else Job(**{**vars(self), "method": needs}).name


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """All jobs, the seeds in the outer loop: what is done first is complete for its seeds."""
    noises, methods = options.noise.split(","), options.methods.split(",")
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        sys.exit(f"no method {', '.join(unknown)}: known are {', '.join(METHODS)}")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [
        Job(options.data, options.rows, noise, method, seed)
        for seed in seeds
        for noise in noises
        for method in methods
    ]


def work(jobs: list[Job], out: Path) -> int:
    """Run the jobs that no other process runs; returns how many."""
    import torch

    os.nice(max(0, 19 - os.nice(0)))
    torch.set_num_threads(1)
    done = 0
    for job in jobs:
        folder = out / job.name
        if (folder / RESULT).exists() or (job.other and not (out / job.other / RESULT).exists()):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with Lock(folder):
                if not (folder / RESULT).exists():
                    run(job, folder)
                    done += 1
        except FolderBusy:
            continue
    return done


def run(job: Job, folder: Path) -> None:
    """One job: ``scores.npz`` where it has scores, and then its result."""
    noisy = load(job.data, job.rows, job.noise, job.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    scores, notes = METHODS[job.method](TASKS[job.data], noisy, job.seed, folder)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if scores:
        np.savez(folder / "scores.npz", wrong=noisy.wrong, **scores)  # pyright: ignore
    about = {**vars(job), "rows": len(noisy.wrong), "wrong": float(noisy.wrong.mean())}
    write_json(folder / RESULT, {**about, "seconds": seconds, **notes})
    print(f"{job.name}: {seconds['cpu']:.0f} CPU seconds, {seconds['wall']:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=__doc__)
    parser.add_argument("do", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the jobs")
    parser.add_argument("--to", type=Path, help="of table: the result file")
    parser.add_argument("--data", default="fashion-mnist", choices=list(TASKS))
    parser.add_argument("--rows", type=int, default=20_000, help="the first rows")
    parser.add_argument("--noise", default="none,symmetric-0.2,symmetric-0.4,next-class-0.2")
    usual = [name for name in METHODS if name not in CORRECTED]
    parser.add_argument("--methods", default=",".join(usual))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args(arguments)
    jobs = jobs_of(options)
    if options.do == "run":
        while work(jobs, options.out):  # what waited for another job
            pass
        return
    found = summarise(options.out, [job.name for job in jobs])
    if options.to is not None:
        write_json(options.to, found)
    print(table(found))


if __name__ == "__main__":
    main()
