"""frugalkd inside Lightning: a callback that chooses the samples and a loader that hands them out.

Needs the extra ``lightning``; both ``lightning.pytorch`` and ``pytorch_lightning`` will do.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.batches import call, inputs_of
from frugalkd.errors import ModelError, RunFolderError, SelectionMisuse
from frugalkd.files import StrPath
from frugalkd.integrations._loader import FrugalLoader
from frugalkd.integrations._loops import Schedules, check_trainer, tell_length
from frugalkd.integrations._planned import PlannedEpochs
from frugalkd.integrations._setting import Setting
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import CrossEntropy, Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.policies import Policy, SelfRegulation
from frugalkd.policies.modes import ModeName
from frugalkd.runtime.meters import Meters
from frugalkd.selection import Batch, Selection
from frugalkd.selection.checks import labels_of
from frugalkd.selection.finite import bad_gradients
from frugalkd.teachers import FirstVisitTargets, Targets
from frugalkd.training.resuming import check_same_training

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

__all__ = ["FrugalCallback", "FrugalLoader"]


class FrugalCallback(Callback):
    """Put among a Lightning trainer's callbacks, with a :class:`FrugalLoader` as its training data:
    training then goes through the epochs of a :class:`~frugalkd.Selection`. Validation, logging and
    checkpoints stay Lightning's.

    ```python
    frugal = FrugalCallback(teacher=big, mode="regulated")
    trainer = Trainer(max_epochs=10, callbacks=[frugal])
    trainer.fit(module, FrugalLoader(train, batch_size=64), val)
    ```

    ``training_step`` returns the logits (rows, classes) of its batch, or ``{"logits": ...}``; the
    loss is then the objective's. With neither teacher nor objective it may return its own losses,
    one a row, and ``forward`` was asked once for the logits; or ``{"loss": ..., "logits": ...}``.
    Gradients are accumulated as Lightning does it.

    A schedule that Lightning steps with the optimiser is stepped as often as a training on
    everything would have by then, and so decays just as fully; one by epochs is left alone.
    ``max_steps`` are those of training on everything.

    Args:
        teacher: a model or targets; None: no distillation. It moves to the trainer's device.
        store: a folder in which a model's answers are kept as they are first asked for; None: it is
            asked each time.
        mode, ledger, regulation, gamma, policy, weights, scores, objective: as for
            :func:`frugalkd.distill`. The objective is by default ``KD()`` with a teacher and
            ``CrossEntropy()`` without.
        forward: the model's logits (rows, classes) for a batch, for looks; by default the module
            called on the batch's inputs.

    Attributes:
        selection: of the last fit; ``ledger`` and ``meters`` are its own.

    Raises:
        SelectionMisuse: a policy with ``when: now``, and what :func:`check_trainer` refuses.
        RunFolderError: a checkpoint to go on from that is of another training, or without the
            callback's state.
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
        mode: ModeName | None = None,
        ledger: Ledger | None = None,
        regulation: SelfRegulation | None = None,
        gamma: float = 1.0,
        policy: Policy | None = None,
        weights: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        objective: Objective | None = None,
        forward: Callable[[Any], Tensor] | None = None,
    ):
        self.setting = Setting(
            teacher=teacher, store=store, mode=mode, ledger=ledger, regulation=regulation,
            gamma=gamma, policy=policy, weights=weights, scores=scores, objective=objective,
        )  # fmt: skip
        if self.setting.policy.when == "now":
            raise SelectionMisuse(
                "when: now knows only after a step whether it was the epoch's last, and Lightning "
                "asks before (for validation, schedules, accumulation): use when: last-visit"
            )
        self.selection: Selection | None = None
        self._forward = forward
        self._state: dict[str, Any] | None = None  # to go on from
        self._undo: list[Callable[[], None]] = []
        self._seen: list[Tensor] = []  # what forward returned within a training step

    @property
    def ledger(self) -> Ledger:
        """Of the last fit."""
        return self._made().ledger

    @property
    def meters(self) -> Meters:
        """Of the last fit."""
        return self._made().meters

    @property
    def budget(self) -> float:
        """Samples backpropagated in the last fit, as a part of training on all of them."""
        return self._made().budget

    def _made(self) -> Selection:
        if self.selection is None:
            raise SelectionMisuse("nothing was trained yet: call the trainer's fit first")
        return self.selection

    # The run.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before a checkpoint is read."""
        self._state = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of Lightning's holds of the selection; tensors and plain values."""
        if self.selection is None:
            return {}
        state = self.selection.state_dict()
        if self.selection.targets is not None:
            self.selection.targets.sync()
        self._read_clock()
        return {
            "about": self.setting.about(self._loader.dataset),
            "selection": state,
            "meters": self.meters.state(),
            "steps": self._schedules.steps,
            "batches": self._length,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training begins."""
        self._state = state_dict

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The selection is made, and told of a checkpoint."""
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
                f"the training goes on at step {trainer.global_step}, and there is no state of the "
                "selection: give a checkpoint that was written with this callback"
            )
        self._loader, self._started = loader, time.perf_counter()
        self._length = 0  # batches of Lightning's epoch under way, or of its last one
        self._steps, self._over = trainer.global_step, False
        total = trainer.estimated_stepping_batches
        self._schedules = Schedules(trainer, pl_module, total)
        self.selection = self._select(trainer, pl_module)
        if state is not None:
            check_same_training(state["about"], self.setting.about(loader.dataset))
            self.selection.load_state_dict(state["selection"])
            self.meters.restore(state["meters"])
            self._schedules.steps = state["steps"]
        self._planned = PlannedEpochs(
            self.selection, loader.dataset, trainer.accumulate_grad_batches, loader.full
        )
        loader.planned, loader.begin = self._planned, functools.partial(self._begin, trainer)
        self._wrap(trainer, pl_module)
        if state is not None and state["batches"]:
            if state["selection"]["under_way"] is not None:
                self._planned.advance()
            self._tell(trainer, state["batches"])

    def _select(self, trainer: Any, module: Any) -> Selection:
        setting, loader, device = self.setting, self._loader, trainer.strategy.root_device
        setting.settle(module, None)
        self._criterion = Criterion(setting.objective or CrossEntropy())
        if isinstance(setting.teacher, nn.Module):
            setting.teacher.to(device)
        steps = -(-self._loader.full // trainer.accumulate_grad_batches)
        epochs = [] if trainer.max_epochs in (None, -1) else [float(trainer.max_epochs)]
        epochs += [] if trainer.max_steps == -1 else [trainer.max_steps / max(1, steps)]
        precision = trainer.precision_plugin

        def ask(batch: Any) -> Tensor:
            batch = precision.convert_input(batch)
            with precision.forward_context():
                if self._forward is not None:
                    return self._forward(batch)
                return call(module, inputs_of(batch))

        try:
            return setting.select(
                loader.dataset, epochs=lambda samples: min(epochs),
                targets=setting.targets(loader.dataset, None),
                forward=ask, model=module, batch_size=loader.batch_size, seed=loader.seed,
                loading=dataclasses.replace(loader.loading, device=device),
                known_labels=labels_of(loader.dataset),
            )  # fmt: skip
        except ModelError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise  # that is what a module without forward raises
            raise ModelError(
                f"{type(module).__name__} has no forward: define it to give logits for a batch's "
                "inputs, or pass forward= to the callback"
            ) from error

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The epoch is planned."""
        self._begin(trainer)

    def _begin(self, trainer: Any) -> None:
        """Plan the next epoch, unless one is under way. Lightning goes on from some checkpoints
        without a word before it asks for a batch."""
        epoch = self._planned.epoch
        if epoch is not None and not epoch.finished:
            return
        if self._planned.advance():
            assert self._planned.epoch is not None, "it was planned"
            self._tell(trainer, len(self._planned.epoch))
        else:  # an empty epoch comes last
            self._over = trainer.should_stop = True
            self._tell(trainer, 0)

    def _tell(self, trainer: Any, batches: int) -> None:
        self._length = batches
        tell_length(trainer, batches)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Schedules catch up with what was left out."""
        assert self._planned.batch is not None, "this one"
        self._schedules.catch_up(self._planned.position(self._planned.batch, self._schedules.total))
        assert self._planned.epoch is not None, "of this batch"
        self._schedules.factor = self._planned.epoch.lr_factor

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """A scaler of losses skips steps whose gradients are not finite, which is no fault."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            assert self._planned.batch is not None, "this one"
            self._planned.batch.stepped(bad_gradients(optimizer))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The plan's epoch ends with its last batch, before a checkpoint is written."""
        if trainer.global_step > self._steps:  # not in the middle of an accumulation
            self._steps = trainer.global_step
            self._schedules.steps += 1
        self._planned.finish()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's epoch is over too."""
        if self._length == 0 and not self._over:
            self._schedules.epoch_without_steps()
            trainer.fit_loop.max_batches = self._loader.full  # 0 would end the training
        trainer.should_stop |= self._planned.done

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A clock of its own."""
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Its time is no training's."""
        if self.selection is not None and not trainer.sanity_checking and self._undo:
            spent = time.perf_counter() - self._validation
            self.meters.eval_seconds += spent
            self._started += spent

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """What a training that was stopped has left on the device is read."""
        self._made().state_dict()
        self._read_clock()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The module, the optimisers and the loader are again as they were."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Likewise."""
        self._close()

    def _close(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _read_clock(self) -> None:
        now = time.perf_counter()
        self.meters.wall_seconds += now - self._started
        self._started = now

    # The step.

    def _wrap(self, trainer: Any, module: Any) -> None:
        """Put the loss between the module's ``training_step`` and Lightning."""
        own, was_own = module.training_step, "training_step" in vars(module)

        @functools.wraps(own)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._seen = []
            outputs = own(*args, **kwargs)
            assert self._planned.batch is not None, "this one"
            return self._loss(self._planned.batch, outputs)

        module.training_step = training_step

        def unwrap() -> None:
            del module.training_step
            if was_own:
                module.training_step = own

        self._undo += [unwrap, *self._schedules.hooks(trainer.optimizers), self._let_go]
        if getattr(module, "_compiler_ctx", None) is None:
            self._undo.append(module.register_forward_hook(self._see).remove)

    def _let_go(self) -> None:
        selection = self._made()
        selection.source.close()
        if isinstance(selection.targets, FirstVisitTargets):
            selection.targets.close()
        self._loader.planned, self._loader.begin = None, lambda: None

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._seen.append(getattr(output, "logits", output))

    def _loss(self, batch: Batch, outputs: Any) -> Any:
        """What Lightning gets of what ``training_step`` returned; the batch is observed."""
        logits, losses = self._parts(batch, outputs)
        if losses is None:
            losses = self._criterion(logits, batch.labels, batch)
        loss = batch.reduce(losses)
        batch.observe(logits, losses=losses.detach(), later=True)
        if isinstance(outputs, Mapping):
            return {**outputs, "logits": logits.detach(), "loss": loss}
        return loss

    def _parts(self, batch: Batch, outputs: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (rows, classes), and the module's own losses (rows,) where it gives them."""
        rows, seen, self._seen = len(batch.ids), self._seen, []
        found = outputs if isinstance(outputs, Mapping) else {"given": outputs}
        given, losses, logits = (found.get(name) for name in ("given", "loss", "logits"))
        if isinstance(given, Tensor):
            logits, losses = (given, None) if given.ndim == 2 else (None, given)
        if losses is not None and self.setting.objective is not None:
            raise SelectionMisuse(
                f"training_step gives losses, and {self.setting.objective} is to make them: return "
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
                f"asked {len(seen)} times: return the logits, or {{'loss': losses, 'logits': "
                "logits}"
            )
        return logits, losses
