"""How a model is trained, and where the run lives. No torch here: the command line reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Optional

from frugalkd.errors import SettingError
from frugalkd.files import StrPath, path_of
from frugalkd.runtime.settings import (
    MOST_ROWS,
    MOST_WORKERS,
    STRICT,
    Settings,
    check_integer,
    check_types,
)

Listener = Callable[[dict[str, Any]], None]
"""Receives the record of each finished epoch."""

Stop = Callable[[], bool]
"""Returns whether to stop."""


@dataclass(frozen=True)
class Optimizer(Settings):
    """torch's own optimisers in their fused form.

    ``lr`` is the peak learning rate; ``momentum`` (Nesterov) is SGD's, ``betas`` are AdamW's.
    ``weight_decay`` is not applied to biases and normalisation parameters.

    Raises SettingError for impossible values.
    """

    __pydantic_config__: ClassVar = STRICT

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        _not_negative(lr=self.lr, weight_decay=self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise SettingError(f"momentum must be in [0, 1), not {self.momentum}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError(f"betas must be in [0, 1), not {list(self.betas)}")


@dataclass(frozen=True)
class Schedule(Settings):
    """The learning rate as a function of progress in [0, 1].

    ``warmup_steps`` linear steps first; then the ``shape`` takes the peak down to
    ``final`` times the peak at progress 1. Raises SettingError for negative values.
    """

    __pydantic_config__: ClassVar = STRICT

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(warmup_steps=self.warmup_steps, final=self.final)


@dataclass(frozen=True)
class Training(Settings):
    """One training run's settings.

    Attributes:
        epochs: may be fractional; the last epoch is then a random part of the data.
        batch_size: rows of a batch, on each rank.
        gradient_accumulation_steps: batches of one optimiser step, on each rank; 1 for policies
            with ``when: now``.
        max_grad_norm: the largest gradient norm, or None.
        precision: ``bf16`` runs the forward pass under autocast.
        channels_last: memory format of 4-dimensional inputs and weights.
        compile: run the model through ``torch.compile``; needs a C++ compiler on a CPU.
        drop_last: leave out a last batch that is short.
        recalibrate_bn: samples for refreshing BatchNorm statistics at the end; 0: none.
        screen_batch: rows of one forward-only batch when skipped samples are screened.
        num_workers: worker processes for data that are not in memory.
        length_bucket_batches: batches whose rows are regrouped by length, for data that have the
            lengths of their samples (texts); 0: none. The samples that are used and the number of
            steps stay the same (docs/text.md).
        fsdp: shard the model, and a live teacher, over several ranks (FSDP2), for what does not fit
            on one device: copies are sharded, and the model has its weights, in main memory, once
            it is trained (docs/scaling.md).
        ema: the decay, in [0, 1), of a moving average of the weights over the steps, which is the
            trained model in the end; None: the last step's weights are (docs/teachers.md).

    Raises:
        SettingError: a value is impossible.
    """

    __pydantic_config__: ClassVar = STRICT

    epochs: float = 10.0
    batch_size: int = 128
    gradient_accumulation_steps: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    max_grad_norm: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    drop_last: bool = False
    recalibrate_bn: int = 0
    screen_batch: int = 256
    num_workers: int = 0
    length_bucket_batches: int = 0
    fsdp: bool = False
    ema: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps", "screen_batch"):
            if not getattr(self, name) > 0:
                raise SettingError(f"training.{name} must be positive, not {getattr(self, name)}")
        if self.epochs > 60_000:
            raise SettingError(
                "training.epochs must be at most 60000: the ledger counts in 16 bits"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise SettingError(f"training.max_grad_norm must be positive, not {self.max_grad_norm}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise SettingError(f"training.ema must be in [0, 1), not {self.ema}")
        _not_negative(
            recalibrate_bn=self.recalibrate_bn, length_bucket_batches=self.length_bucket_batches
        )
        check_integer("training.num_workers", self.num_workers, 0, MOST_WORKERS)
        for name in ("batch_size", "gradient_accumulation_steps", "screen_batch"):
            check_integer(f"training.{name}", getattr(self, name), 1, MOST_ROWS)


@dataclass(frozen=True)
class Checkpointing(Settings):
    """When checkpoints are saved: after each epoch, when a training is stopped, and more often.

    Attributes:
        steps: also after this many optimiser steps (0: not).
        minutes: also after this many minutes (0: not).
        keep: how many of the last ones are kept; the one before replaces a damaged one.

    Raises:
        SettingError: a value is impossible.
    """

    __pydantic_config__: ClassVar = STRICT

    steps: int = 0
    minutes: float = 10.0
    keep: int = 2

    def __post_init__(self) -> None:
        _not_negative(steps=self.steps, minutes=self.minutes)
        if self.keep < 1:
            raise SettingError(f"keep must be 1 or more, not {self.keep}")


@dataclass(frozen=True)
class RunOptions(Settings):
    """Where a training keeps its checkpoints, and the functions that it calls.

    Attributes:
        folder: for checkpoints; None: none are saved.
        checkpointing: when to save them; default after each epoch and every ten minutes.
        resume: resume from the newest checkpoint in ``folder``, which has to be of this training.
        on_epoch_end: receives each epoch's record, a dictionary, on the first rank.
        should_stop: called after each step and each batch of screenings and evaluations. Where it
            returns True, a checkpoint is saved and Stopped is raised.

    Raises:
        SettingError: a value of another type.
    """

    folder: StrPath | None = None
    checkpointing: Checkpointing = field(default_factory=Checkpointing)
    resume: bool = False
    on_epoch_end: Listener | None = None
    should_stop: Stop | None = None

    def __post_init__(self) -> None:
        if self.folder is not None:
            path_of(self.folder, "folder")
        kind = Optional[Callable]  # noqa: UP045
        check_types(on_epoch_end=(self.on_epoch_end, kind), should_stop=(self.should_stop, kind))


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise SettingError(f"{name} must be a finite number, 0 or more, not {value}")
