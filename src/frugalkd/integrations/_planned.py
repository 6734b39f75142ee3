"""A selection's epochs for a trainer that counts its steps beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from frugalkd.errors import SelectionMisuse
from frugalkd.selection import Batch, Epoch, Selection
from frugalkd.selection.rows import batches_of


def full_batches(samples: int, size: int, drop_last: bool) -> int:
    """Batches of an epoch that uses all of ``samples``."""
    alone = samples == 1 and not drop_last
    return 1 if alone else batches_of(samples, size, drop_last=drop_last)


class PlannedEpochs:
    """A selection's epochs, one after another, and the place of each batch in a training that
    counts its steps beforehand.

    It can replace a trainer's DataLoader: each loop over it is the next epoch that has a batch, and
    its length is that of an epoch that uses everything.

    Args:
        selection: of the batches; a loop has to observe each batch before it reads the next.
        dataset: for a trainer that counts its samples.
        accumulation: batches of one optimiser step.
        batches: of an epoch that uses everything, as the trainer has counted them; by default those
            of all samples that may be used.
    """

    def __init__(
        self, selection: Selection, dataset: Any, accumulation: int, batches: int | None = None
    ):
        self.selection, self.dataset, self.accumulation = selection, dataset, accumulation
        self.epoch: Epoch | None = None
        """The current one, or the last one."""
        self.batch: Batch | None = None
        """The last one that was read."""
        own = full_batches(len(selection.pool), selection.batch_size, selection.drop_last)
        self._full = own if batches is None else batches
        self._epochs = iter(selection)
        self.batches: Iterator[Batch] = iter(())
        """Those that are left of the current epoch; each can be read once."""

    def __len__(self) -> int:
        return self._full

    def __iter__(self) -> Iterator[Batch]:
        while self.advance():
            steps = 0
            for batch in self.batches:
                steps += 1
                yield batch
            if steps:
                return

    def advance(self) -> bool:
        """Plan the next epoch; False where there is none left. One without batches ends here."""
        epoch = next(self._epochs, None)
        if epoch is None:
            return False
        self.epoch, self.batches = epoch, self._read(epoch)
        if not len(epoch):
            next(self.batches, None)
        return True

    def _read(self, epoch: Epoch) -> Iterator[Batch]:
        for batch in epoch:
            self.batch = batch
            yield batch

    @property
    def current(self) -> tuple[Epoch, Batch]:
        """The epoch and the batch of the training step that runs now."""
        assert self.epoch is not None and self.batch is not None, "a batch was read"  # noqa: PT018
        return self.epoch, self.batch

    def finish(self) -> None:
        """End an epoch whose last batch was trained on: a trainer that counts steps reads no
        more."""
        if self.epoch is not None and self.epoch.summary["steps"] == len(self.epoch):
            next(self.batches, None)

    @property
    def done(self) -> bool:
        """Whether the last epoch has ended."""
        epoch, selection = self.epoch, self.selection
        return epoch is not None and epoch.finished and epoch.index + 1 >= selection.epochs

    def rows_of_step(self, first: Batch) -> int:
        """Rows of the optimiser step that begins with the batch ``first``."""
        if self.accumulation == 1:
            return len(first.ids)
        (epoch, _), size = self.current, self.selection.batch_size
        rows = len(epoch) * size if self.selection.drop_last else epoch.planned
        left = rows - int(epoch.summary["steps"]) * size
        return left if batches_of(left, size) <= self.accumulation else self.accumulation * size

    def position(self, batch: Batch, total: int) -> float:
        """Where a schedule of ``total`` steps is at a batch's progress, in steps of a training that
        uses everything. In such a training it is the step's number, exactly."""
        (epoch, _), steps = self.current, math.ceil(len(self) / self.accumulation)
        before = epoch.index * steps
        here = min(steps, total - before)
        return before + here * (self._read_before(batch) / self.accumulation) / math.ceil(
            len(epoch) / self.accumulation
        )

    @property
    def epochs_done(self) -> float:
        """Epochs that are done once the last batch that was read is."""
        if self.epoch is None or self.batch is None:
            return 0.0
        part = 1.0
        if not self.epoch.finished:
            part = (self._read_before(self.batch) + 1) / len(self.epoch)
        return min(self.epoch.index + part, self.selection.epochs)

    def _read_before(self, batch: Batch) -> int:
        """Batches of the current epoch that were read before ``batch``."""
        (epoch, _), selection = self.current, self.selection
        rows = (batch.progress * selection.epochs - epoch.index) / epoch.part * epoch.planned
        return round(rows / selection.batch_size)


class Inputs(dict):
    """What the model gets of a batch, and the batch. (Trainers copy it as a plain dictionary.)"""

    batch: Batch | None = None

    @classmethod
    def of(cls, batch: Batch | None) -> Inputs:
        """Those of ``batch``; empty without one."""
        inputs = cls() if batch is None else cls(batch.data)
        inputs.batch = batch
        return inputs


class StepBatches:
    """The batches of one optimiser step, read one by one; where the epoch ends before, the rest of
    ``size`` are empty, for a trainer that steps after so many."""

    def __init__(self, first: Batch, rest: Iterator[Batch], size: int):
        self._first, self._rest, self._size = first, rest, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Inputs]:
        yield Inputs.of(self._first)
        for _ in range(self._size - 1):
            yield Inputs.of(next(self._rest, None))


def set_rates(scheduler: Any, at: float, factor: float) -> None:
    """Set the learning rates to those of ``scheduler`` at step ``at``, which need not be a whole
    number, times ``factor``. The scheduler's own count of steps stays as it is, and so does a
    schedule that is no function of the step.

    Raises:
        SelectionMisuse: the schedule is no function of the step, and the policy scales the learning
            rate.
    """
    if not isinstance(scheduler, LambdaLR):
        if factor != 1:
            raise SelectionMisuse(
                f"this policy scales the learning rate, and {type(scheduler).__name__} has no "
                "function of the step: choose lr_scheduler_type linear, cosine or another LambdaLR"
            )
        return
    functions = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * function(at) * factor for base, function in functions]  # pyright: ignore
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = rates
