"""How a model is trained, as plain values. No torch here: the command line reads them too."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from frugalkd.errors import SettingError
from frugalkd.runtime.settings import MOST_ROWS, MOST_WORKERS, STRICT, Settings, check_integer


@dataclass(frozen=True)
class Optimizer(Settings):
    """torch's own optimisers in their fused form.

    ``lr`` is the peak learning rate; ``momentum`` (Nesterov) is SGD's, ``betas`` are AdamW's.
    ``weight_decay`` leaves biases and normalisation parameters out.

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
        batch_size: rows of a batch, on each rank where there are several.
        gradient_accumulation_steps: batches of one optimiser step, on each rank; 1 for policies
            with ``when: now``.
        max_grad_norm: the largest gradient norm, or None.
        precision: ``bf16`` runs the forward pass under autocast.
        channels_last: memory format of 4-dimensional inputs and weights.
        compile: run the model through ``torch.compile``; needs a compiler of C++ on a CPU.
        drop_last: leave out a last batch that is short.
        recalibrate_bn: samples for refreshing BatchNorm statistics at the end (0: not at all).
        screen_batch: rows of one forward-only batch when sleepers are screened.
        num_workers: worker processes for data that do not live in memory.
        length_bucket_batches: batches whose rows are regrouped by length, for data that say how
            long samples are (texts); 0: not. Who takes part, in how many steps, stays the same
            (docs/text.md).
        fsdp: cut the model, and a live teacher, over the ranks (FSDP2) where there are several,
            for what does not fit on one device: copies are cut, and the model has its weights, in
            main memory, once it is trained (docs/scaling.md).
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
        least_of = {
            "epochs": 0,
            "batch_size": 1,
            "gradient_accumulation_steps": 1,
            "screen_batch": 1,
        }
        for name, least in least_of.items():
            if not getattr(self, name) >= least or getattr(self, name) == 0:
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
    """When a training writes down where it is. It does so after each epoch, and when it is stopped.

    Attributes:
        steps: also after this many optimiser steps (0: not).
        minutes: also after this many minutes (0: not).
        keep: how many of the last ones stay; a damaged one is passed over for the one before it.

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


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise SettingError(f"{name} must be a finite number, 0 or more, not {value}")
