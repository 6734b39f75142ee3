"""A ledger of a billion samples: made, planned, observed, saved; and what memory that takes.

The columns lie in files from some 4 GB on. An epoch is planned block by block in an order that is
never materialised, and every row that it plans is observed. One thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing.large import planned
from benchmarks.timing.machine import machine
from frugalkd.errors import SettingError
from frugalkd.files.opening import named, remove
from frugalkd.ledger import Ledger
from frugalkd.meters import peak_memory_bytes
from frugalkd.policies import Moment, SelfRegulation
from frugalkd.policies._policy import Ids
from frugalkd.selection.entering import enter
from frugalkd.verdict import Look

AWAKE, BATCH = 0.12, 8192


def measure(samples: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Take a ledger of ``samples`` samples through an epoch in which 12 % are awake; its columns
    and the file that it is saved to lie in ``folder``, and go away.

    Returns:
        ``make``, ``plan``, ``observe``, ``save``: seconds, planning and observing apart;
        ``observe_rows``: rows observed a second; ``rows``: that were planned, each of them once;
        ``bytes`` of the ledger a sample; ``peak_memory_bytes``: of the process, the pages of files
        that the system may take back among them; ``own_memory_bytes``: without those, the largest
        seen between two blocks (Linux; else as the other).

    Raises:
        WriteFailed: the disk is too full: twice the ledger's 20 bytes a sample are needed.
        ValueError: fewer than one sample.
    """
    if samples < 1:
        raise SettingError(f"samples must be 1 or more, not {samples}")
    found, policy = machine(), SelfRegulation()
    seconds, own = {"make": 0.0, "plan": 0.0, "observe": 0.0, "save": 0.0}, [0]

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = work()
        seconds[name] += time.perf_counter() - began
        own.append(_own_memory())
        return done

    ledger: Ledger = timed("make", lambda: Ledger.new(samples, folder=folder))
    _fall_asleep(ledger, seed)
    at = Moment(1, 10, seed)
    epoch, rows, twice = planned(policy, ledger, at), 0, 0
    stream = np.random.default_rng(seed)
    confidence = stream.random(BATCH, dtype=np.float32)
    correct = stream.random(BATCH) < 0.9
    while (plan := timed("plan", lambda: next(epoch, None))) is not None:
        rows += len(plan.ids)
        twice += int((ledger["last_epoch"][plan.ids] == at.epoch).sum())

        def observe(ids: Ids = plan.ids) -> None:
            for start in range(0, len(ids), BATCH):
                block = ids[start : start + BATCH]
                some = slice(0, len(block))
                seen = Look(confidence[some], correct[some], confidence[some], None)
                failed = enter(policy, ledger, at, block, seen, screening=False)
                ledger.trained(
                    block, participated=failed, forced=~correct[some], losses=confidence[some]
                )

        timed("observe", observe)
    assert not twice, "each id once"
    path = named(folder) / "ledger.safetensors"
    try:
        timed("save", lambda: ledger.save(path))
    finally:
        remove(path)
    return {
        "samples": samples,
        "rows": rows,
        **seconds,
        "observe_rows": rows / max(seconds["observe"], 1e-9),
        "bytes": sum(column.nbytes for column in ledger.columns.values()) / samples,
        "mapped": isinstance(ledger["visits"], np.memmap),
        "peak_memory_bytes": peak_memory_bytes()["process"],
        "own_memory_bytes": max(own),
        "threads": torch.get_num_threads(),
        "cpu": found["cpu"],
        "runs": {},
        "machine": found,
    }


def _fall_asleep(ledger: Ledger, seed: int, block: int = 1 << 24) -> None:
    """All but 12 % have passed, and sleep on for a long time."""
    stream = np.random.default_rng(seed)
    for start in range(0, len(ledger), block):
        part = slice(start, min(start + block, len(ledger)))
        asleep = stream.random(part.stop - start, dtype=np.float32) >= AWAKE
        ledger["streak"][part] = asleep
        ledger["due"][part] = np.where(asleep, np.uint16(60_000), np.uint16(0))


def _own_memory() -> int:
    """Bytes of this process that lie in no file."""
    if sys.platform != "linux":
        return peak_memory_bytes()["process"]
    lines = Path("/proc/self/status").read_text().splitlines()
    said = next(line for line in lines if line.startswith("RssAnon:"))
    return int(said.split()[1]) * 1024
