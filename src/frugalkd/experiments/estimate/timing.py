"""What a row costs, measured on short stretches of what will really run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import Dataset

from frugalkd.data.source import open_source
from frugalkd.experiments.estimate.part import Part
from frugalkd.training.settings import Schedule, Training
from frugalkd.training.trainer import Run

_STRETCHES = 8


@dataclass(frozen=True)
class Timing:
    """Seconds of one row, in several equal stretches of work."""

    stretches: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The lower quartile: what else ran on the machine only ever adds."""
        return float(np.percentile(self.stretches, 25))

    def __add__(self, other: Timing) -> Timing:
        """Both together: the same work, at two times."""
        return Timing(self.stretches + other.stretches)

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        low, middle, high = np.percentile(self.stretches, [25, 50, 75])
        return float((high - low) / middle) if middle > 0 else 0.0


def time_looks(
    look: Callable[[Any], Any],
    data: Dataset,
    batch_size: int,
    device: torch.device,
    seconds: float,
    *,
    with_loading: bool,
) -> Timing:
    """Seconds of a row of ``look(batch of data on the device)``, for about ``seconds``; at least
    three batches after one that is not counted."""
    samples = len(data)  # pyright: ignore[reportArgumentType]
    size = min(batch_size, samples)
    rng = np.random.default_rng(0)
    measured: list[float] = []
    began = time.perf_counter()
    with open_source(data) as source:
        while len(measured) < 4 or time.perf_counter() - began < seconds:
            ids = np.sort(rng.choice(samples, size, replace=False))
            started = time.perf_counter()
            batch = send_to_device(next(source.batches([(ids, np.zeros_like(ids))])), device)
            if not with_loading:
                _wait_for(device)
                started = time.perf_counter()
            look(batch)
            _wait_for(device)
            measured.append((time.perf_counter() - started) / size)
    return Timing(tuple(measured[1:]))


def time_training(
    train: Callable[[Part, Training], Run], part: Part, training: Training, seconds: float
) -> Timing:
    """Seconds of a row of ``train(some of part, training)``, which trains on all of it in every
    epoch, for about ``seconds``."""
    # The rate is held small: a stretch measures time, and must not diverge on few samples.
    calm = replace(
        training,
        optimizer=replace(training.optimizer, lr=min(training.optimizer.lr, 1e-4)),
        schedule=Schedule(shape="constant"),
        recalibrate_bn=0,
    )
    batch, samples = training.batch_size, len(part.ids)
    first = min(samples, 2 * batch)
    rough = _epochs(train(part.some(first), replace(calm, epochs=3)), first)[-1]
    rows = min(samples, max(1, round(seconds / _STRETCHES / rough / batch)) * batch)
    epochs = max(4, min(_STRETCHES + 1, round(seconds / (rows * rough)) + 1))
    run = train(part.some(rows), replace(calm, epochs=epochs))
    return Timing(tuple(_epochs(run, rows)[1:]))


def _epochs(run: Run, rows: int) -> Sequence[float]:
    """Seconds of a row in each epoch; the first has what is done once."""
    ends = [record["wall_seconds"] for record in run.history]
    return [float(seconds) / rows for seconds in np.diff(ends, prepend=0.0)]


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
