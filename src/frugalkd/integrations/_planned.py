"""A selection's epochs as a trainer that counts steps beforehand wants them."""

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
    """Batches of an epoch in which all of ``samples`` take part."""
    alone = samples == 1 and not drop_last
    return 1 if alone else batches_of(samples, size, drop_last=drop_last)


class PlannedEpochs:
    """A selection's epochs, one after another, and where each of their batches is in a training
    that counts its steps beforehand.

    It can stand in a trainer's place for a DataLoader: each loop over it is the next epoch that has
    a batch, and its length is that of an epoch in which everything takes part.

    Args:
        selection: whose batches these are; a loop may not ask for one before it has observed the
            last.
        dataset: for a trainer that counts its samples.
        accumulation: batches of one optimiser step.
        batches: of an epoch in which everything takes part, as the trainer has counted them; by
            default those of all that may take part.
    """

    def __init__(
        self, selection: Selection, dataset: Any, accumulation: int, batches: int | None = None
    ):
        self.selection, self.dataset, self.accumulation = selection, dataset, accumulation
        self.epoch: Epoch | None = None
        """The one under way, or the last one."""
        self.batch: Batch | None = None
        """The last one that was read."""
        own = full_batches(len(selection.pool), selection.batch_size, selection.drop_last)
        self._full = own if batches is None else batches
        self._epochs = iter(selection)
        self._batches: Iterator[Batch] = iter(())

    def __len__(self) -> int:
        return self._full

    def __iter__(self) -> Iterator[Batch]:
        while self.advance():
            steps = 0
            for batch in self.batches():
                steps += 1
                yield batch
            if steps:
                return

    def advance(self) -> bool:
        """Plan the next epoch; False where there is none left. One without batches ends here."""
        epoch = next(self._epochs, None)
        if epoch is None:
            return False
        self.epoch, self._batches = epoch, self._read(epoch)
        if not len(epoch):
            next(self._batches, None)
        return True

    def batches(self) -> Iterator[Batch]:
        """Those of the epoch under way that are left, each to be read once."""
        return self._batches

    def _read(self, epoch: Epoch) -> Iterator[Batch]:
        for batch in epoch:
            self.batch = batch
            yield batch

    def finish(self) -> None:
        """Let an epoch end whose last batch was trained on; who counts steps asks for no more."""
        if self.epoch is not None and self.epoch.summary["steps"] == len(self.epoch):
            next(self._batches, None)

    @property
    def done(self) -> bool:
        """Whether the last epoch has ended."""
        epoch, selection = self.epoch, self.selection
        return epoch is not None and epoch.finished and epoch.index + 1 >= selection.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch in which everything takes part."""
        return math.ceil(len(self) / self.accumulation)

    def rows_of_step(self, first: Batch) -> int:
        """Rows of the optimiser step that begins with the batch ``first``."""
        epoch, selection = self.epoch, self.selection
        assert epoch is not None, "there is a batch"
        if self.accumulation == 1:
            return len(first.ids)
        size = selection.batch_size
        rows = len(epoch) * size if selection.drop_last else epoch.planned
        left = rows - int(epoch.summary["steps"]) * size
        return left if batches_of(left, size) <= self.accumulation else self.accumulation * size

    def position(self, batch: Batch, total: int) -> float:
        """Where a schedule of ``total`` steps is at a batch's progress: in steps, as if everything
        took part. Where it does, this is the step's number, exactly."""
        epoch, batches = self._before(batch)
        before = epoch.index * self.steps
        here = min(self.steps, total - before)
        return before + here * (batches / self.accumulation) / math.ceil(
            len(epoch) / self.accumulation
        )

    @property
    def epochs_done(self) -> float:
        """How many epochs are done, once the last batch that was asked for is."""
        if self.epoch is None or self.batch is None:
            return 0.0
        part = 1.0
        if not self.epoch.finished:
            part = (self._before(self.batch)[1] + 1) / len(self.epoch)
        return min(self.epoch.index + part, self.selection.epochs)

    def _before(self, batch: Batch) -> tuple[Epoch, int]:
        """The epoch under way, and how many batches of it were read before ``batch``."""
        epoch, selection = self.epoch, self.selection
        assert epoch is not None, "there is a batch"
        rows = (batch.progress * selection.epochs - epoch.index) / selection.part * epoch.planned
        return epoch, round(rows / selection.batch_size)


class Inputs(dict):
    """What the model gets of a batch, and the batch; None: there is none."""

    batch: Batch | None = None

    @classmethod
    def of(cls, batch: Batch | None) -> Inputs:
        """A copy of the batch's data, or nothing."""
        inputs = cls() if batch is None else cls(batch.data)
        inputs.batch = batch
        return inputs


class Step:
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


def set_rates(scheduler: LambdaLR, at: float, factor: float) -> None:
    """Set the learning rates to those of ``scheduler`` at step ``at``, which need not be a whole
    number, times ``factor``. The scheduler's own count of steps stays as it is."""
    given = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * function(at) * factor for base, function in given]  # pyright: ignore
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = rates


def follow(scheduler: Any, at: float, factor: float) -> None:
    """:func:`set_rates` where the schedule is a function of the step; any other is left to itself.

    Raises:
        SelectionMisuse: it is not, and the policy scales the learning rate.
    """
    if isinstance(scheduler, LambdaLR):
        set_rates(scheduler, at, factor)
    elif factor != 1:
        raise SelectionMisuse(
            f"this policy scales the learning rate, and {type(scheduler).__name__} has no function "
            "of the step: choose lr_scheduler_type linear, cosine or another LambdaLR"
        )
