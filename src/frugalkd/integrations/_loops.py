"""Where a Lightning trainer has to be told, or refused, something."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from frugalkd.errors import SelectionMisuse

_TRANSFERS = ("on_before_batch_transfer", "on_after_batch_transfer")


def check_trainer(trainer: Any, module: Any) -> None:
    """Refuse what a selection cannot be trained with.

    Raises:
        SelectionMisuse: several processes, manual optimisation, limits on batches or a number of
            epochs that nobody knows, data loaders that are made anew, hooks that change batches.
    """
    if trainer.world_size > 1:
        raise SelectionMisuse(
            f"{trainer.world_size} processes: one process with one device is what there is a plan "
            "for (Trainer(devices=1))"
        )
    if not module.automatic_optimization:
        raise SelectionMisuse(
            "under manual optimisation training_step steps by itself, before its losses can be "
            "weighed: use automatic optimisation, or a Selection in a loop of your own"
        )
    if trainer.limit_train_batches != 1.0 and not trainer.fast_dev_run:
        raise SelectionMisuse(
            "limit_train_batches and overfit_batches cut a plan short: leave them out, and give a "
            "smaller data set"
        )
    if trainer.reload_dataloaders_every_n_epochs:
        raise SelectionMisuse(
            "reload_dataloaders_every_n_epochs changes the data that a ledger is of: leave it out"
        )
    if not math.isfinite(trainer.estimated_stepping_batches):
        raise SelectionMisuse(
            "nobody says when this training ends, and schedules follow progress: set max_epochs"
        )
    for owner in (module, trainer.datamodule):
        for name in _TRANSFERS:
            if owner is not None and _defines(owner, name):
                raise SelectionMisuse(
                    f"{type(owner).__name__}.{name} changes batches that looks and the teacher "
                    "have seen as they were: do it in the data set, or in training_step"
                )


def _defines(owner: Any, name: str) -> bool:
    """Whether a hook is the user's own."""
    home = next(cls for cls in type(owner).__mro__ if name in vars(cls))
    return home.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")


def tell_length(trainer: Any, batches: int) -> None:
    """Say how many batches an epoch has, before Lightning has asked for the first one of them that
    is to come."""
    loop, interval = trainer.fit_loop, trainer.val_check_interval
    loop.max_batches = batches
    if isinstance(interval, float) and trainer.val_check_batch is not None:
        trainer.val_check_batch = max(1, int(batches * interval))
    fetcher = loop._data_fetcher
    fetcher.length, fetcher.done = batches, batches == 0


class Schedules:
    """A trainer's learning-rate schedules, stepped as often as if everything took part.

    Attributes:
        total: steps of a training on everything.
        steps: how often those that Lightning steps with the optimiser were stepped.
        factor: what each learning rate is multiplied by during a step.
    """

    def __init__(self, trainer: Any, module: Any, total: int):
        self.total, self.steps, self.factor = total, 0, 1.0
        self._trainer, self._module = trainer, module
        self._rates: list[Any] = []

    def catch_up(self, position: float) -> None:
        """Step what is at another step than the last whole one before ``position``."""
        for _ in range(math.floor(position) - self.steps):
            self._step("step")
            self.steps += 1

    def epoch_without_steps(self) -> None:
        """Lightning steps by epochs within an epoch's last step."""
        self._step("epoch")

    def _step(self, interval: str) -> None:
        for config in self._trainer.lr_scheduler_configs:
            ours = config.interval == interval and config.frequency == 1
            if ours and not config.reduce_on_plateau:
                self._module.lr_scheduler_step(config.scheduler, None)

    def hooks(self, optimizers: list[Optimizer]) -> list[Callable[[], None]]:
        """Let ``factor`` count in each step; how to undo that."""
        before = [optimizer.register_step_pre_hook(self._scale) for optimizer in optimizers]
        after = [optimizer.register_step_post_hook(self._restore) for optimizer in optimizers]
        return [handle.remove for handle in (*before, *after)]

    def _scale(self, optimizer: Optimizer, *_: Any) -> None:
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.factor != 1:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.factor

    def _restore(self, optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
