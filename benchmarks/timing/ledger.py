"""Time the ledger and the plan: ``python -m benchmarks.timing.ledger --samples N --out FILE``.

Measures the operations of a training: a selection's ``enter`` with the ledger's ``trained``, its
plan in the order of the epoch, and the ledger's ``save``. One thread.
"""

from __future__ import annotations

import argparse
import gc
import operator
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.timing.cases import LEDGER
from benchmarks.timing.machine import machine
from frugalkd import Sampling
from frugalkd.errors import SettingError
from frugalkd.files.opening import named, named_file, remove
from frugalkd.files.writing import atomic, write_json
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs import ONE_CLASS
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.runtime.meters import peak_memory_bytes
from frugalkd.selection import Selection
from frugalkd.selection.observer import record

MUST: dict[str, tuple[str, float]] = {
    figure.name: ("<=" if figure.at_most else ">=", figure.must)
    for figure in LEDGER.figures
    if figure.must is not None
}
"""Bounds of the figures of :func:`measure` at 100 million samples."""

ROWS, CLASSES, BLOCKS = 8192, 10, 64
_ACTIVE = 0.12
_OBSERVES, _PLANS, _SAVES, _WARM_UP = 7, 3, 6, 2
_HOLDS = {"<=": operator.le, ">=": operator.ge}


def measure(samples: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Measure a ledger of ``samples`` samples; files are written to ``folder`` and removed.

    Returns:
        ``bytes`` of memory per sample; ``observe_logits``, ``observe_verdicts``: rows per second,
        in blocks of 8,192 random ids, from float32 logits of ten classes or from given outcomes to
        the last column of the ledger; ``plan_12``, ``plan_all``: seconds to plan and order an epoch
        with 12 % or all samples active; ``save``, ``raw_write``: seconds for the ledger and for
        the same columns in a plain file, both synced and renamed; ``save_ratio``;
        ``peak_memory_bytes`` of the process so far; ``cpu_share``: CPU time over wall time before
        the saves, below 1 if other processes used the core. Each value is a median,
        ``save_ratio`` a median over pairs; ``runs`` has the single measurements, ``machine`` the
        hardware and versions.

    Raises:
        ValueError: fewer than one sample.
    """
    if samples < 1:
        raise SettingError(f"samples must be 1 or more, not {samples}")
    found, stream = machine(), np.random.default_rng(seed)
    selection = Selection(
        _Nothing(samples),
        epochs=1000,
        batch_size=ROWS,
        seed=seed,
        model=nn.Identity(),
        sampling=Sampling(policy=SelfRegulation()),
    )
    ledger = selection.ledger
    runs: dict[str, list[float]] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    _observe(selection, stream, runs)
    _activate(ledger, stream.random(samples, dtype=np.float32) < _ACTIVE)
    runs["plan_12"] = [_plan(selection) for _ in range(_PLANS)]
    _activate(ledger, np.ones(samples, dtype=bool))
    runs["plan_all"] = [_plan(selection) for _ in range(_PLANS)]
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    _save(ledger, folder, runs)
    return {
        "samples": samples,
        "bytes": sum(column.nbytes for column in ledger.columns.values()) / samples,
        **{name: statistics.median(values) for name, values in runs.items()},
        "peak_memory_bytes": peak_memory_bytes()["process"],
        "cpu_share": cpu_share,
        "threads": torch.get_num_threads(),
        "cpu": found["cpu"],
        "runs": runs,
        "machine": found,
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """One line for each bound of :data:`MUST` that the figures of :func:`measure` miss."""
    return [
        f"{name} is {figures[name]:.4g}, and must be {sign} {bound:.4g}"
        for name, (sign, bound) in MUST.items()
        if not _HOLDS[sign](figures[name], bound)
    ]


class _Nothing(Dataset):
    """A data set whose samples are never read."""

    def __init__(self, samples: int):
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, id: int) -> Tensor:
        raise NotImplementedError


def _observe(
    selection: Selection, stream: np.random.Generator, runs: dict[str, list[float]]
) -> None:
    """Time observing; all blocks together touch more memory than the CPU cache holds."""
    samples = len(selection.ledger)
    rows = min(ROWS, samples)
    blocks = [stream.choice(samples, rows, replace=False) for _ in range(BLOCKS)]
    # Few enough to stay in the CPU cache, as the output of a model does.
    logits = [torch.from_numpy(stream.normal(0, 4, (rows, CLASSES))).float() for _ in range(4)]
    labels = [torch.from_numpy(stream.integers(CLASSES, size=rows)) for _ in range(4)]
    losses = [stream.random(rows, dtype=np.float32) for _ in range(4)]
    outcomes = [_as_arrays(ONE_CLASS.outcome(*pair)) for pair in zip(logits, labels, strict=True)]
    forced = np.zeros(rows, dtype=bool)

    def enter(ids: NDArray[np.int64], seen: Outcome, losses: NDArray[np.float32]) -> None:
        at = EpochContext(epoch, 1000, selection.seed)
        failed = record(selection.policy, selection.ledger, at, ids, seen, screening=False)
        selection.ledger.trained(ids, participated=failed & ~forced, forced=forced, losses=losses)

    def from_logits() -> None:
        for block, ids in enumerate(blocks):
            seen = _as_arrays(ONE_CLASS.outcome(logits[block % 4], labels[block % 4]))
            enter(ids, seen, losses[block % 4])

    def from_verdicts() -> None:
        for block, ids in enumerate(blocks):
            enter(ids, outcomes[block % 4], losses[block % 4])

    epoch = 0
    cases = {"observe_logits": from_logits, "observe_verdicts": from_verdicts}
    for repeat in range(_OBSERVES + _WARM_UP):
        for name, observe in cases.items():
            seconds = _seconds(observe)
            epoch += 1
            if repeat >= _WARM_UP:
                runs.setdefault(name, []).append(BLOCKS * rows / seconds)


def _as_arrays(seen: Outcome) -> Outcome:
    return seen.each(lambda part: part.numpy())


def _activate(ledger: Ledger, active: NDArray[np.bool_]) -> None:
    """All samples that are not ``active`` have passed the gate and are skipped for many epochs."""
    ledger["streak"][:] = ~active
    ledger["due"][:] = np.where(active, np.uint16(0), np.uint16(60_000))


def _plan(selection: Selection) -> float:
    gc.collect()
    return _seconds(lambda: next(iter(selection)))


def _save(ledger: Ledger, folder: Path, runs: dict[str, list[float]]) -> None:
    """Time saving and the raw write, interleaved, in alternating order: the speed of the disk
    varies, and the first write may pay for the page cache."""
    paths = [named(folder) / "ledger.safetensors", named(folder) / "raw"]

    def raw() -> None:
        with atomic(paths[1]) as aside, open(aside, "wb", closefd=False) as file:
            for column in ledger.columns.values():
                file.write(column.data)

    try:
        for repeat in range(_SAVES + _WARM_UP):
            turns = {"save": lambda: ledger.save(paths[0]), "raw_write": raw}
            names = list(turns)[:: 1 if repeat % 2 else -1]
            seconds = {name: _seconds(turns[name]) for name in names}
            seconds["save_ratio"] = seconds["save"] / seconds["raw_write"]
            for name, value in seconds.items() if repeat >= _WARM_UP else ():
                runs.setdefault(name, []).append(value)
    finally:
        for path in paths:
            remove(path)


def _seconds(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def main() -> None:
    """Measure, write the figures, and print the missed bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timing.ledger")
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON file; temporary files are written to its folder",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(given.samples, given.out.parent, given.seed)
    write_json(named_file(given.out), figures)
    for name in (*MUST, "save", "raw_write", "peak_memory_bytes", "cpu_share"):
        print(f"{name:20} {figures[name]:.4g}")
    print(*missed(figures), sep="\n")


if __name__ == "__main__":
    main()
