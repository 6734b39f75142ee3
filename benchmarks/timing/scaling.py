"""What a training of many ranks and samples comes to, by arithmetic: steps, traffic, memory.

No torch. ``docs/scaling.md`` is made of it, and the tests hold it against what is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frugalkd.errors import SettingError

LEDGER_BYTES = 20
"""Of a sample in the ledger, but for labels (4) and a policy's own columns."""

POOL_BYTES = 8
"""Of a sample in a selection: its id, among those that may take part."""

TOLD_BYTES = 22
"""Of a row that was trained on, as a rank tells it: id 8, forced 1, loss 4, confidence 4, correct
1, the label's probability 4; a policy that asks for the entropy adds 4."""

LOOK_BYTES = 17
"""The same of a sleeper that was screened: without loss and forced."""


@dataclass(frozen=True)
class Scale:
    """One epoch of a training.

    Args:
        samples: of the data set.
        ranks: processes that train together.
        batch_size: rows of a batch on each rank.
        accumulate: batches of an optimiser step.
        awake: of the samples, those that the policy plans.
        screened: of the samples, the sleepers that are looked at before.

    Raises:
        SettingError: fewer samples than a step has rows, or a share that is none.
    """

    samples: int
    ranks: int = 1
    batch_size: int = 128
    accumulate: int = 1
    awake: float = 1.0
    screened: float = 0.0

    def __post_init__(self) -> None:
        if min(self.ranks, self.batch_size, self.accumulate) < 1 or self.samples < self.step_rows:
            raise SettingError(f"{self}: a step has at least one row, and at most all samples")
        if not (0 <= self.awake <= 1 and 0 <= self.screened <= 1):
            raise SettingError(f"{self}: awake and screened are shares of the samples, in [0, 1]")

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step, on all ranks together."""
        return self.ranks * self.batch_size * self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps, the same on every rank. Of several ranks the plan is filled up to whole
        ones from the sleepers; where too few sleep, what is above is deferred."""
        planned = round(self.awake * self.samples)
        filled = math.ceil(planned / self.step_rows)
        if self.ranks > 1 and filled * self.step_rows > self.samples:
            return planned // self.step_rows
        return filled

    @property
    def rows(self) -> int:
        """Rows that train, on all ranks together."""
        planned = round(self.awake * self.samples)
        return planned if self.ranks == 1 else self.steps * self.step_rows

    @property
    def received_bytes(self) -> int:
        """What each rank is told by the others in an epoch: what they trained and looked at."""
        if self.ranks == 1:
            return 0
        others = (self.ranks - 1) / self.ranks
        looked = math.ceil(self.screened * self.samples)
        return round(others * (self.rows * TOLD_BYTES + looked * LOOK_BYTES))

    @property
    def memory_bytes(self) -> int:
        """What each rank keeps for the whole training: ledger and ids."""
        return self.samples * (LEDGER_BYTES + POOL_BYTES)


def table() -> str:
    """The table of ``docs/scaling.md``: 12 % awake, 10 % screened, batches of 128 a rank."""
    lines = [
        "| samples | ranks | steps an epoch | told to each rank an epoch | kept by each rank |",
        "|---:|---:|---:|---:|---:|",
    ]
    for exponent in (6, 7, 8, 9, 10):
        for ranks in (1, 8, 64, 1024):
            scale = Scale(10**exponent, ranks, awake=0.12, screened=0.1)
            told, kept = (_text(size) for size in (scale.received_bytes, scale.memory_bytes))
            lines.append(f"| 10^{exponent} | {ranks:,} | {scale.steps:,} | {told} | {kept} |")
    return "\n".join(lines) + "\n"


def _text(size: int) -> str:
    if not size:
        return "–"
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
