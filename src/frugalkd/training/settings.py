"""How a model is trained, and where the run lives. No torch here: the command line reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Optional

from frugalkd.errors import SettingError
from frugalkd.files import StrPath, path_of
from frugalkd.policies.policy import Plan
from frugalkd.runtime.settings import (
    MOST_ROWS,
    MOST_WORKERS,
    BelowOne,
    Count,
    NotNegative,
    Positive,
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
    """torch's optimisers in their fused form, or another one.

    Attributes:
        name: ``adamw`` or ``sgd``; not used where there is a ``path``.
        lr: the peak learning rate.
        weight_decay: of all parameters but biases and those of normalisation.
        momentum: Nesterov, of sgd.
        betas: of adamw.
        path: of another optimiser, ``package.module:Name``, which is called with groups of
            parameters, ``lr`` and ``options``: ``torch.optim:RAdam``, ``timm.optim:Lion``.
        options: its other keyword arguments.

    Raises:
        SettingError: a value is impossible.
    """

    name: Literal["adamw", "sgd"] | None = "adamw"
    lr: NotNegative = 1e-3
    weight_decay: NotNegative = 0.0
    momentum: BelowOne = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if own := {"params", "lr", "weight_decay"} & {*self.options}:
            raise SettingError(f"options must not hold {min(own)}, which is a setting of its own")
        if self.path is None and self.options:
            raise SettingError("options must be left out without a path, whose they are")
        if self.path is None and self.name is None:
            raise SettingError("name must be adamw or sgd, unless there is a path")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError(f"betas must be in [0, 1), not {list(self.betas)}")


@dataclass(frozen=True)
class Schedule(Settings):
    """The learning rate as a function of progress in [0, 1], what is spent of a budget or of the
    epochs: linear up to the peak at ``warmup``, while the ``shape`` takes the peak down to
    ``final`` times the peak at progress 1.

    Attributes:
        shape: not used where there is a ``path``.
        warmup: the progress at which the peak is reached.
        final: the last rate over the peak.
        path: of a function of your own, ``package.module:name``: called with the progress before a
            step, it returns the factor of the peak, in the place of shape and final.

    Raises:
        SettingError: a value is impossible.
    """

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: BelowOne = 0.0
    final: NotNegative = 0.0
    path: str | None = None


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

    epochs: Positive = 10.0
    batch_size: Count = 128
    gradient_accumulation_steps: Count = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    max_grad_norm: Positive | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    drop_last: bool = False
    recalibrate_bn: Annotated[int, "0 or more"] = 0
    screen_batch: Count = 256
    num_workers: int = 0
    length_bucket_batches: Annotated[int, "0 or more"] = 0
    fsdp: bool = False
    ema: BelowOne | None = None

    @property
    def imports(self) -> tuple[str, ...]:
        """The import paths that it names."""
        return tuple(filter(None, (self.optimizer.path, self.schedule.path)))

    def __post_init__(self) -> None:
        if self.epochs > 60_000:
            raise SettingError("epochs must be at most 60000: the ledger counts in 16 bits")
        check_integer("num_workers", self.num_workers, 0, MOST_WORKERS)
        for name in ("batch_size", "gradient_accumulation_steps", "screen_batch"):
            check_integer(name, getattr(self, name), 1, MOST_ROWS)


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

    steps: Annotated[int, "0 or more"] = 0
    minutes: NotNegative = 10.0
    keep: Count = 2


@dataclass(frozen=True)
class RunOptions(Settings):
    """Where a training keeps its checkpoints, and the functions that it calls.

    Attributes:
        folder: for checkpoints; None: none are saved.
        checkpointing: when to save them; default after each epoch and every ten minutes.
        resume: resume from the newest checkpoint in ``folder``, which has to be of this training.
        on_epoch_end: receives each epoch's record, a dictionary, on the first rank.
        on_plan: receives, before that, the epoch's number and the rows that it used for training,
            a :class:`frugalkd.policies.Plan`, on the first rank.
        on_progress: receives, after each batch of what is computed beside the epochs (the features
            of :func:`frugalkd.train_head`), what that is, rows done and rows to do.
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
    on_plan: Callable[[int, Plan], None] | None = None
    on_progress: Callable[[str, int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.folder is not None:
            path_of(self.folder, "folder")
        kind = Optional[Callable]  # noqa: UP045
        for name in ("on_epoch_end", "should_stop", "on_plan", "on_progress"):
            check_types(**{name: (getattr(self, name), kind)})
