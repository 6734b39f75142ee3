"""A ledger of a billion samples: create, plan, observe and save it, and measure the memory.

Columns from about 4 GB on are memory-mapped files. An epoch is planned block by block in an order
that is never materialised, and every planned row is observed. One thread.
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
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.policies.policy import Ids
from frugalkd.runtime.meters import peak_memory_bytes
from frugalkd.selection.observer import record

ACTIVE, BATCH = 0.12, 8192


def measure(samples: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Run one epoch with a ledger of ``samples`` samples, 12 % of them active.

    Its columns and its saved file are written to ``folder`` and removed afterwards.

    Returns:
        ``make``, ``plan``, ``observe``, ``save``: seconds, planning and observing separately;
        ``observe_rows``: rows observed per second; ``rows``: planned rows, each of them once;
        ``bytes`` of the ledger per sample; ``peak_memory_bytes``: of the process, including file
        pages that the system can reclaim; ``own_memory_bytes``: without file pages, the maximum
        measured between two blocks (Linux; elsewhere the same as ``peak_memory_bytes``).

    Raises:
        WriteFailed: the disk is full: twice the ledger's 20 bytes per sample are needed.
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
    _skip_most(ledger, seed)
    at = EpochContext(1, 10, seed)
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
                seen = Outcome(confidence[some], correct[some], confidence[some], None)
                failed = record(policy, ledger, at, block, seen, screening=False)
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


def _skip_most(ledger: Ledger, seed: int, block: int = 1 << 24) -> None:
    """All but 12 % have passed the gate and are skipped for many epochs."""
    stream = np.random.default_rng(seed)
    for start in range(0, len(ledger), block):
        part = slice(start, min(start + block, len(ledger)))
        skipped = stream.random(part.stop - start, dtype=np.float32) >= ACTIVE
        ledger["streak"][part] = skipped
        ledger["due"][part] = np.where(skipped, np.uint16(60_000), np.uint16(0))


def _own_memory() -> int:
    """Bytes of anonymous memory of this process."""
    if sys.platform != "linux":
        return peak_memory_bytes()["process"]
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(line for line in lines if line.startswith("RssAnon:"))
    return int(anonymous.split()[1]) * 1024
