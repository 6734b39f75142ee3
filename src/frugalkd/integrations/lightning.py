"""frugalkd inside Lightning: a callback that chooses the samples, and a loader that yields them.

Needs the extra ``lightning``; both ``lightning.pytorch`` and ``pytorch_lightning`` work.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from frugalkd.data.batches import call, inputs_of, unwrapped
from frugalkd.data.source import check_map_style
from frugalkd.distributed.ranks import world_here
from frugalkd.errors import ModelError, RunFolderError, SelectionMisuse, UnsupportedData
from frugalkd.files import StrPath
from frugalkd.integrations._frugal import (
    Frugal,
    PlannedEpochs,
    default_objective,
    full_epoch,
    torchs_start_method,
)
from frugalkd.language.corpus import Corpus
from frugalkd.objectives import Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling, SelfRegulation
from frugalkd.runtime.settings import check_types
from frugalkd.selection import Batch, DataLoading, Selection
from frugalkd.selection.checks import labels_of
from frugalkd.selection.finite import bad_gradients
from frugalkd.teachers import Targets
from frugalkd.training.api import new_selection

if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    _used = [name for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]
    try:
        Callback = import_module(_used[0] if _used else "pytorch_lightning").Callback
    except ImportError as error:
        raise ImportError(
            "this integration needs Lightning: pip install 'frugalkd[lightning]'"
        ) from error


class FrugalLoader:
    """A map-style data set in batches that a :class:`FrugalCallback` chooses. It replaces the
    DataLoader that ``train_dataloader`` returns, and shuffles. A last batch of one row joins the
    batch before (see :class:`frugalkd.Selection`).

    Args:
        dataset, batch_size: as of torch's DataLoader.
        loading: collation, workers and the like; the device and accumulation are the trainer's.
        seed: of the order; the order is a function of (seed, epoch).

    Raises:
        UnsupportedData: the data are iterable, or a Corpus.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        *,
        loading: DataLoading | None = None,
        seed: int = 0,
    ):
        check_map_style(dataset)
        if isinstance(dataset, Corpus):
            raise UnsupportedData(
                "a Corpus is trained on by distill, train_teacher or FrugalTrainer, not by "
                "Lightning"
            )
        check_types(loading=(loading, DataLoading | None))
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.loading = loading or DataLoading()
        self.full_steps = 0
        """Batches of an epoch that uses everything where the checkpoint was written, if more."""
        self.planned: PlannedEpochs | None = None
        """The epochs of the callback that trains now."""
        self.begin: Callable[[], None] = lambda: None
        """Called before the first batch of an epoch, or of the rest of one."""

    @property
    def full(self) -> int:
        """Batches of an epoch that uses everything, on each of the processes that there are now."""
        rows, drop_last = len(self.dataset), self.loading.drop_last
        full = full_epoch(rows, self.batch_size, world=world_here(), drop_last=drop_last)
        return max(1, full)  # of none Lightning would train on nothing, without an error

    def __len__(self) -> int:
        """Batches of the current epoch; before there is one, of everything."""
        epoch = None if self.planned is None else self.planned.epoch
        return max(self.full, self.full_steps) if epoch is None else len(epoch)

    def __iter__(self) -> Iterator[Any]:
        if self.planned is None:
            raise SelectionMisuse(
                "FrugalLoader requires a FrugalCallback: put one among the trainer's callbacks"
            )
        self.begin()
        for batch in self.planned.batches:
            yield batch.data

    def state_dict(self) -> dict[str, Any]:
        """Nothing; Lightning then resumes in the middle of an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, likewise."""


class FrugalCallback(Frugal, Callback):
    """Put among a Lightning trainer's callbacks, with a :class:`FrugalLoader` as its training data:
    training then runs through the epochs of a :class:`~frugalkd.Selection`. Validation, logging and
    checkpoints stay Lightning's.

    ```python
    frugal = FrugalCallback(teacher=big)
    trainer = Trainer(max_epochs=10, callbacks=[frugal])
    trainer.fit(module, FrugalLoader(train, batch_size=64), val)
    ```

    ``training_step`` returns the logits (rows, classes) of its batch, or ``{"logits": ...}``; the
    objective computes the loss. With neither teacher nor objective it may return its own losses,
    one a row, if it calls ``forward`` once for the logits; or ``{"loss": ..., "logits": ...}``.
    Gradients are accumulated as Lightning does it.

    A schedule that Lightning steps with the optimiser is stepped as many times as a training on
    everything would have stepped it at the same progress. One by epochs is not changed, but at a
    cost, where it follows progress, too. ``max_epochs`` and ``max_steps`` are those of training on
    everything, and raised once schedules are made.

    With several devices (``Trainer(devices=2)``, torchrun) each process reads its own rows of the
    plan, all take as many steps, and the ledger of each is that of all of them.

    Args:
        teacher: a model or targets; None: no distillation. It moves to the trainer's device.
        store: a folder that keeps the teacher's outputs at their first use, of one view of each
            sample; None: the teacher runs each time.
        cost: what the training may cost, as a fraction of full training over ``max_epochs`` (or
            ``max_steps``), as for :func:`frugalkd.distill`: there are then up to four times as many
            epochs as it pays for.
        sampling: which samples are used and what they weigh; default: mode *regulated*.
        objective: default ``KD()`` with a teacher and ``CrossEntropy()`` without; of another
            ``sampling.output`` what takes their place.
        forward: the model's logits (rows, classes) for a batch, for screening; by default the
            module called on the batch's inputs.

    Raises:
        SelectionMisuse: a policy with ``when: now``; another strategy than DDP and a single device,
            manual optimisation, limits on batches, an unknown number of epochs, data loaders that
            are reloaded, hooks that change batches, StochasticWeightAveraging at a cost or with
            BatchNorm.
        RankError: several processes that differ in data, settings, weights or checkpoint, or that
            have too few samples for a step; or ``store`` with several processes.
        RunFolderError: the checkpoint to resume from is of another training, or has no state of
            this callback.
        NonFiniteLoss: logits, losses, gradients or weights stopped being finite; no checkpoint is
            written of them.
        UnsupportedData, DataError, ModelError, LedgerError, TargetsError, UnknownName: as
            :func:`frugalkd.distill`.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module | Targets | None = None,
        store: StrPath | None = None,
        cost: float | None = None,
        sampling: Sampling | None = None,
        objective: Objective | None = None,
        forward: Callable[[Any], Tensor] | None = None,
    ):
        self._take_settings(store, sampling, objective, cost)
        if self.policy.when == "now":
            raise SelectionMisuse(
                "when: now knows only after a step whether it was the epoch's last, and Lightning "
                "needs to know before (for validation, schedules, accumulation): use when: "
                "last-visit"
            )
        self.teacher, self._forward = teacher, forward
        self._state: dict[str, Any] | None = None  # to resume from
        self._undo: list[Callable[[], None]] = []
        self._seen: list[Tensor] = []  # what forward returned within a training step

    # The run.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before a checkpoint is read."""
        self._state = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Schedules are made, for the epochs and steps as given: raise these to what there may be
        at most."""
        epochs, steps = self._limits = trainer.max_epochs, trainer.max_steps
        self._undo.append(functools.partial(set_limits, trainer, epochs, steps))
        set_limits(
            trainer,
            epochs if epochs in (None, -1) else math.ceil(self.sampling.epochs_of(epochs)),
            steps if steps == -1 else math.ceil(self.sampling.epochs_of(steps)),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a Lightning checkpoint holds: tensors and plain values."""
        if self.selection is None:
            return {}
        kept = self._kept(self.selection.state_dict(), self._loader.dataset)
        return kept | {
            "steps": self._scheduled, "stepped": self._stepped, "batches": self._length
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training begins."""
        self._state = state_dict

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """On more devices an epoch has fewer steps: schedules, which are made next, and the
        checkpoint's steps keep the measure of those before."""
        state = checkpoint["callbacks"].get(self.state_key)
        if not state or trainer.state.fn != "fit":
            return
        trainer.fit_loop.setup_data()
        loader, full_steps = trainer.train_dataloader, state["full_steps"]
        if isinstance(loader, FrugalLoader) and full_steps > loader.full:
            loader.full_steps = trainer.fit_loop.max_batches = full_steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The selection is made, and resumes from a checkpoint."""
        check_trainer(trainer, pl_module)
        loader = trainer.train_dataloader
        if not isinstance(loader, FrugalLoader):
            raise SelectionMisuse(
                f"the training data come in a {type(loader).__name__}: give FrugalLoader(dataset, "
                "batch_size) in its place, which makes the batches"
            )
        state, self._state = self._state, None
        if state is None and trainer.global_step > 0:
            raise RunFolderError(
                f"the training resumes at step {trainer.global_step}, and there is no state of the "
                "selection: give a checkpoint that was written with this callback"
            )
        self._loader, self._started = loader, time.perf_counter()
        self._length = 0  # batches of Lightning's current epoch, or of its last one
        self._steps, self._over = trainer.global_step, False
        most = trainer.max_epochs, trainer.max_steps
        set_limits(trainer, *self._limits)
        self._total = trainer.estimated_stepping_batches  # of training on everything
        set_limits(trainer, *most)
        self._scheduled = 0  # steps of the schedules that Lightning steps with the optimiser
        self.selection = self._select(trainer, pl_module)
        by_steps = trainer.max_steps != -1
        self._restore(state, loader.dataset, full_steps=loader.full, by_steps=by_steps)
        self.planned = PlannedEpochs(
            self.selection, loader.dataset,
            epochs=self._given_epochs, batches=loader.full, full_steps=loader.full_steps,
        )  # fmt: skip
        self._check_averaging(trainer, pl_module)
        self._take_schedules(trainer)
        loader.planned, loader.begin = self.planned, functools.partial(self._begin, trainer)
        self._wrap(trainer, pl_module)
        if state is not None:
            self._scheduled, batches = state["steps"], state["batches"]
            self._stepped = state.get("stepped") or self._stepped
            if batches and state["selection"]["under_way"] is not None:
                self.planned.advance()
                epoch = self.planned.epoch
                assert epoch is not None, "advance() sets the epoch"
                done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
                batches = done + len(epoch) - epoch.resumed
            if batches:
                self._set_length(trainer, batches)

    def _select(self, trainer: Any, module: Any) -> Selection:
        loader, device = self._loader, trainer.strategy.root_device
        own = type(module).forward.__qualname__ != "LightningModule.forward"
        if self._forward is None and not own:
            raise ModelError(
                f"{type(module).__name__} has no forward: define it to give logits for a batch's "
                "inputs, or pass forward= to the callback"
            )
        self._take_teacher(self.teacher, module)
        objective = self.objective or default_objective(None, self.sampling.output)
        self._criterion = Criterion(objective)
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(device)
        steps = -(-loader.full // trainer.accumulate_grad_batches)
        most, most_steps = self._limits
        epochs = [] if most in (None, -1) else [float(most)]
        epochs += [] if most_steps == -1 else [most_steps / max(1, steps)]
        self._given_epochs = min(epochs)
        precision = trainer.precision_plugin

        def forward(batch: Any) -> Tensor:
            batch = precision.convert_input(batch)
            with precision.forward_context():
                if self._forward is not None:
                    return self._forward(batch)
                return call(module, inputs_of(batch))

        loading = replace(
            loader.loading, device=device, gradient_accumulation_steps=1,
            multiprocessing_context=loader.loading.multiprocessing_context or torchs_start_method(),
        )  # fmt: skip
        selection = new_selection(
            dataset=loader.dataset, sampling=self.sampling, epochs=self._given_epochs,
            batch_size=loader.batch_size, model=module, forward=forward,
            targets=self._targets(loader.dataset), seed=loader.seed, loading=loading,
            labels=labels_of(loader.dataset, OUTPUTS[self.sampling.output]),
        )  # fmt: skip
        selection.check_first_batch()
        return selection

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The epoch is planned."""
        self._begin(trainer)

    def _begin(self, trainer: Any) -> None:
        """Plan the next epoch, unless one has batches left. After some checkpoints Lightning reads
        a batch without on_train_epoch_start."""
        epoch = self.planned.epoch
        if epoch is not None and not epoch.finished:
            return
        if self.planned.advance():
            self._set_length(trainer, len(self._loader))
        else:  # an empty epoch comes last
            self._over = trainer.should_stop = True
            self._set_length(trainer, 0)

    def _set_length(self, trainer: Any, batches: int) -> None:
        """Set how many batches an epoch has, before Lightning reads the next one."""
        self._length = batches
        loop, interval = trainer.fit_loop, trainer.val_check_interval
        loop.max_batches = batches
        if trainer.val_check_batch is not None and trainer.check_val_every_n_epoch is not None:
            share = isinstance(interval, float)
            most = int(batches * interval) if share else min(interval, batches)
            trainer.val_check_batch = max(1, most)
        fetcher = loop._data_fetcher
        fetcher.length, fetcher.done = batches, batches == 0

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Schedules are stepped for the samples that were left out; those that Lightning steps as
        well, once for each step more."""
        current, accumulation = self.planned.current[1], trainer.accumulate_grad_batches
        position = self.planned.position(current, self._total, accumulation)
        self._follow(pl_module, position, accumulation)
        for _ in range(math.floor(position) - self._scheduled):
            self._step_schedules(trainer, pl_module, "step")
            self._scheduled += 1

    @property
    def _has_cost(self) -> bool:
        """Whether the training has a cost, its gate's own too: the number of its epochs is then
        not the given one. A budget keeps it."""
        gate = self.policy
        own = isinstance(gate, SelfRegulation) and gate.cost is not None
        return own or self.sampling.cost is not None

    def _check_averaging(self, trainer: Any, module: Any) -> None:
        """Raises SelectionMisuse where StochasticWeightAveraging would not average, or would end
        the training, since it counts epochs."""
        kinds = {cls.__name__ for each in trainer.callbacks for cls in type(each).__mro__}
        batchnorm = any(isinstance(each, _BatchNorm) for each in module.modules())
        if "StochasticWeightAveraging" in kinds and (self._has_cost or batchnorm):
            what = "a cost" if self._has_cost else "an epoch that it adds for BatchNorm"
            raise SelectionMisuse(
                f"StochasticWeightAveraging goes by the number of epochs, which {what} changes: "
                "use Lightning's EMAWeightAveraging, or average the weights in your module"
            )

    def _take_schedules(self, trainer: Any) -> None:
        """Have Lightning step no schedule whose steps it would count wrongly: :meth:`_follow`
        does."""
        selection = self._made()
        rows = self.policy.planned_rows(len(selection.ledger), selection.epochs)
        self._taken: list[tuple[Any, int]] = []  # with their frequencies
        for config in trainer.lr_scheduler_configs:
            every = config.frequency
            by_batches = config.interval == "step" and (bool(rows) or every != 1)
            if (self._has_cost or by_batches) and not config.reduce_on_plateau:
                self._taken.append((config, every))
                self._undo.append(functools.partial(setattr, config, "frequency", every))
                config.frequency = sys.maxsize
        self._stepped = [0] * len(self._taken)

    def _follow(self, module: Any, position: float, accumulation: int) -> None:
        """Step the schedules as full training would have until ``position``, in its steps."""
        batches = len(self.planned)
        epoch, step = divmod(position, math.ceil(batches / accumulation))
        for place, (config, every) in enumerate(self._taken):
            if config.interval == "step":
                ends = range(every, batches + 1, every)
                ends = [end for end in ends if end % accumulation == 0 or end == batches]
                due = int(epoch) * len(ends) + sum(end <= step * accumulation for end in ends)
            else:
                due = math.floor(round(position * self._given_epochs / self._total, 6) / every)
            for _ in range(due - self._stepped[place]):
                module.lr_scheduler_step(config.scheduler, None)
                self._stepped[place] += 1

    def _step_schedules(self, trainer: Any, module: Any, interval: str) -> None:
        for config in trainer.lr_scheduler_configs:
            regular = config.interval == interval and config.frequency == 1
            if regular and not config.reduce_on_plateau:
                module.lr_scheduler_step(config.scheduler, None)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """A loss scaler skips steps whose gradients are not finite, which is not an error."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            self.planned.current[1].stepped(bad_gradients(optimizer))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The plan's epoch ends with its last batch, before a checkpoint is written."""
        if trainer.global_step > self._steps:  # not in the middle of an accumulation
            self._steps = trainer.global_step
            self._scheduled += 1
        self.planned.finish()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's epoch ends, too."""
        if self._length == 0 and not self._over:
            self._step_schedules(trainer, pl_module, "epoch")  # as an epoch's last step does
            trainer.fit_loop.max_batches = len(self.planned)  # 0 would end the training
        trainer.should_stop |= self.planned.done

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation has its own clock."""
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Its time does not count as training."""
        if self.selection is not None and not trainer.sanity_checking and self._undo:
            self._leave_out(time.perf_counter() - self._validation)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """What a stopped training has left on the device is read."""
        self._made().state_dict()
        self._read_clock()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The module, the optimisers and the loader are again as they were."""
        while self._undo:
            self._undo.pop()()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    # The step.

    def _wrap(self, trainer: Any, module: Any) -> None:
        """Put the loss between the module's ``training_step`` and Lightning."""
        own, was_own = module.training_step, "training_step" in vars(module)

        @functools.wraps(own)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._seen = []
            return self._loss(self.planned.current[1], own(*args, **kwargs))

        module.training_step = training_step

        def unwrap() -> None:
            del module.training_step
            if was_own:
                module.training_step = own

        def release() -> None:
            self._close_data()
            self._loader.planned, self._loader.begin = None, lambda: None
            self._loader.full_steps = 0

        before = [each.register_step_pre_hook(self._scale) for each in trainer.optimizers]
        after = [each.register_step_post_hook(self._scale_back) for each in trainer.optimizers]
        self._undo += [unwrap, *(hook.remove for hook in (*before, *after)), release]
        if getattr(module, "_compiler_ctx", None) is None:
            see = module.register_forward_hook(
                lambda _, inputs, output: self._seen.append(unwrapped(output))
            )
            self._undo.append(see.remove)

    def _scale(self, optimizer: Optimizer, *_: Any) -> None:
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.planned.current[0].lr_factor

    def _scale_back(self, optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

    def _loss(self, batch: Batch, outputs: Any) -> Any:
        """What Lightning gets in place of the module's ``outputs``; the batch is observed."""
        logits, losses = self._logits_and_losses(batch, outputs)
        if losses is None:
            losses = self._criterion(logits, batch.labels, batch)
        loss = batch.reduce(losses)
        batch.observe(logits, losses=losses.detach(), later=True)
        if isinstance(outputs, Mapping):
            return {**outputs, "logits": logits.detach(), "loss": loss}
        return loss

    def _logits_and_losses(self, batch: Batch, outputs: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (rows, classes), and the module's own losses (rows,) where it returns them."""
        rows, seen, self._seen = len(batch.ids), self._seen, []
        found = outputs if isinstance(outputs, Mapping) else {"given": outputs}
        given, losses, logits = (found.get(name) for name in ("given", "loss", "logits"))
        if isinstance(given, Tensor):
            logits, losses = (given, None) if given.ndim == 2 else (None, given)
        if losses is not None and self.objective is not None:
            raise SelectionMisuse(
                f"training_step gives losses, and {self.objective} is to make them: return "
                "the logits alone"
            )
        if losses is not None and losses.shape != (rows,):
            raise SelectionMisuse(
                f"training_step gives losses of shape {tuple(losses.shape)} for {rows} rows: "
                "return one a row (reduction='none'), or the logits"
            )
        if logits is None and losses is not None and len(seen) == 1:
            logits = seen[0]
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"training_step gives no logits (rows, classes) for {rows} rows, and forward was "
                f"called {len(seen)} times: return the logits, or {{'loss': losses, 'logits': "
                "logits}"
            )
        return logits, losses


def check_trainer(trainer: Any, module: Any) -> None:
    """Raises SelectionMisuse for trainers that a selection cannot be used with."""
    strategy, launcher = trainer.strategy, type(trainer.strategy.launcher).__name__
    kinds = {cls.__name__ for cls in type(strategy).__mro__}
    if kinds & {"DeepSpeedStrategy", "XLAStrategy"} or not kinds & {
        "SingleDeviceStrategy",
        "DDPStrategy",
    }:
        raise SelectionMisuse(
            f"{type(strategy).__name__} is not supported: use strategy='ddp', or shard with "
            "frugalkd.distill and Training(fsdp=True)"
        )
    if launcher == "_MultiProcessingLauncher":
        raise SelectionMisuse(
            "processes that Lightning spawns or forks end with the training, and the ledger with "
            "them: use strategy='ddp', or start with torchrun"
        )
    if trainer.world_size != world_here():
        raise SelectionMisuse(
            f"this trainer has {trainer.world_size} processes and torch.distributed "
            f"{world_here()}: set devices and num_nodes to those of the launch"
        )
    if not module.automatic_optimization:
        raise SelectionMisuse(
            "under manual optimisation training_step steps by itself, before its losses can be "
            "weighted: use automatic optimisation, or a Selection in your own loop"
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
            "this training has no end, and schedules follow progress: set max_epochs"
        )
    for owner in (module, trainer.datamodule):
        for name in ("on_before_batch_transfer", "on_after_batch_transfer"):
            home = next((cls for cls in type(owner).__mro__ if name in vars(cls)), object)
            if home.__module__.split(".")[0] not in ("builtins", "lightning", "pytorch_lightning"):
                raise SelectionMisuse(
                    f"{type(owner).__name__}.{name} changes batches that screening and the teacher "
                    "have received unchanged: do it in the data set, or in training_step"
                )


def set_limits(trainer: Any, epochs: int | None, steps: int) -> None:
    """Set ``max_epochs`` and ``max_steps`` of a trainer."""
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = epochs, steps
