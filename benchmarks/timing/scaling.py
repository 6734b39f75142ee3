"""Compute the steps, traffic and memory of a training with many ranks and samples.

No torch. ``docs/scaling.md`` contains the table, and the tests compare it with measured counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frugalkd.errors import SettingError

LEDGER_BYTES = 20
"""Per sample in the ledger, without labels (4) and the policy's additional columns."""

POOL_BYTES = 8
"""Per sample in a selection: its id in the pool."""

TRAINED_BYTES = 22
"""Sent per row that was trained on: id 8, forced 1, loss 4, confidence 4, correct 1, the label's
probability 4; a policy that needs the entropy adds 4."""

SCREENED_BYTES = 17
"""Sent per skipped sample that was screened: without loss and forced."""


@dataclass(frozen=True)
class Scale:
    """One epoch of a training.

    Args:
        samples: of the data set.
        ranks: number of processes.
        batch_size: rows of a batch on each rank.
        gradient_accumulation_steps: batches per optimiser step.
        active: the share of the samples that the policy plans.
        screened: the share of the samples that are skipped and screened before the epoch.

    Raises:
        SettingError: fewer samples than rows in a step, or a share outside [0, 1].
    """

    samples: int
    ranks: int = 1
    batch_size: int = 128
    gradient_accumulation_steps: int = 1
    active: float = 1.0
    screened: float = 0.0

    def __post_init__(self) -> None:
        if (
            min(self.ranks, self.batch_size, self.gradient_accumulation_steps) < 1
            or self.samples < self.step_rows
        ):
            raise SettingError(f"{self}: a step has at least one row, and at most all samples")
        if not (0 <= self.active <= 1 and 0 <= self.screened <= 1):
            raise SettingError(f"{self}: active and screened are shares of the samples, in [0, 1]")

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step, over all ranks."""
        return self.ranks * self.batch_size * self.gradient_accumulation_steps

    @property
    def steps(self) -> int:
        """Optimiser steps, the same on every rank. With several ranks, skipped samples complete the
        last step. If too few samples are skipped, the remaining rows are deferred."""
        planned = round(self.active * self.samples)
        filled = math.ceil(planned / self.step_rows)
        if self.ranks > 1 and filled * self.step_rows > self.samples:
            return planned // self.step_rows
        return filled

    @property
    def rows(self) -> int:
        """Rows used for training, over all ranks."""
        planned = round(self.active * self.samples)
        return planned if self.ranks == 1 else self.steps * self.step_rows

    @property
    def received_bytes(self) -> int:
        """Bytes that each rank receives per epoch: the trained and screened rows of the others."""
        if self.ranks == 1:
            return 0
        others = (self.ranks - 1) / self.ranks
        screened = math.ceil(self.screened * self.samples)
        return round(others * (self.rows * TRAINED_BYTES + screened * SCREENED_BYTES))

    @property
    def memory_bytes(self) -> int:
        """Bytes that each rank keeps during the training: ledger and ids."""
        return self.samples * (LEDGER_BYTES + POOL_BYTES)


def table() -> str:
    """The table of ``docs/scaling.md``: 12 % active, 10 % screened, batches of 128 per rank."""
    lines = [
        "| samples | ranks | steps an epoch | received by each rank an epoch | kept by each rank |",
        "|---:|---:|---:|---:|---:|",
    ]
    for exponent in (6, 7, 8, 9, 10):
        for ranks in (1, 8, 64, 1024):
            scale = Scale(10**exponent, ranks, active=0.12, screened=0.1)
            received, kept = (_text(size) for size in (scale.received_bytes, scale.memory_bytes))
            lines.append(f"| 10^{exponent} | {ranks:,} | {scale.steps:,} | {received} | {kept} |")
    return "\n".join(lines) + "\n"


def _text(size: int) -> str:
    if not size:
        return "–"
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
