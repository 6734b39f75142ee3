"""frugalkd inside transformers' Trainer: the samples that still matter, a teacher, nothing else.

Needs the extra ``transformers``. :class:`FrugalTrainer` stands in the place of ``Trainer``, and
:class:`FrugalMixin` before a Trainer subclass of your own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

try:
    import transformers
except ImportError as error:
    raise ImportError(
        "this integration needs transformers: pip install 'frugalkd[transformers]'"
    ) from error

from frugalkd.data.batches import call, inputs_of, run_model
from frugalkd.data.source import check_map_style
from frugalkd.errors import ModelError, SelectionMisuse
from frugalkd.files import StrPath
from frugalkd.integrations._hugging_face import (
    check_model,
    logits_of,
    teacher_from,
)
from frugalkd.integrations._keeping import LEDGER, Keeper, read_state
from frugalkd.integrations._planned import Inputs, PlannedEpochs, Step, follow
from frugalkd.integrations._selecting import make_selection
from frugalkd.integrations._setting import Setting
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import CrossEntropy, Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.policies import Policy, SelfRegulation
from frugalkd.policies.modes import ModeName
from frugalkd.runtime.meters import Meters
from frugalkd.selection import Batch, Selection
from frugalkd.selection.rows import batches_of
from frugalkd.teachers import FirstVisitTargets, Targets
from frugalkd.training.resuming import check_same_training

if TYPE_CHECKING:
    _Trainer = transformers.Trainer
else:
    _Trainer = object


class FrugalMixin(_Trainer):
    """Put before a Trainer: ``class Mine(FrugalMixin, MyTrainer)``. Training then goes through the
    epochs of a :class:`~frugalkd.Selection`; evaluation, saving and the hub stay the trainer's.

    Without an ``objective`` and a ``teacher`` the trainer's own ``compute_loss`` is asked, as ever;
    where it returns one loss a row, rows can be weighed too. With one of them, the loss is the
    objective of the model's logits. The learning rate follows progress where its schedule is a
    function of the step: with fewer steps it decays just as fully; warm-up is in steps.

    Each checkpoint holds what ``resume_from_checkpoint`` goes on from; at the end the ledger is in
    ``output_dir/ledger.safetensors``, and ``train()`` adds the meters to its metrics.

    Args:
        teacher: a model, a folder or hub name of a classifier, or targets; None: no distillation.
        store: a folder in which the teacher's answers are kept as they are first asked for; None:
            the teacher is asked each time.
        mode, ledger, regulation, gamma, policy, weights, scores, objective: as for
            :func:`frugalkd.distill`.

    Everything else goes to the trainer. ``args.seed`` (or ``data_seed``) is the seed of the order,
    the evaluation's batch size that of screenings, ``max_steps`` what full training would take.

    Attributes:
        selection: of the last ``train()``; ``ledger`` and ``meters`` are its own.

    Raises:
        UnsupportedData: iterable data, regression or several labels, no labels and no teacher.
        SelectionMisuse: a policy with ``when: now``, several processes or devices, or a sampler of
            the trainer's own.
        LedgerError, TargetsError, ModelError, UnknownName: as :func:`frugalkd.distill`.
        RunFolderError: a checkpoint to go on from that is of another training, or of a plain one.
    """

    gates_now = False
    """Whether policies with ``when: now`` may be used."""

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | Targets | StrPath | None = None,
        store: StrPath | None = None,
        mode: ModeName | None = None,
        ledger: Ledger | None = None,
        regulation: SelfRegulation | None = None,
        gamma: float = 1.0,
        policy: Policy | None = None,
        weights: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ):
        self.setting = setting = Setting(
            store=store, mode=mode, ledger=ledger, regulation=regulation, gamma=gamma,
            policy=policy, weights=weights, scores=scores, objective=objective,
        )  # fmt: skip
        if setting.policy.when == "now" and not self.gates_now:
            raise SelectionMisuse(
                "when: now decides between reading a batch and training on it, within a step that "
                "your own Trainer may have changed: use when: last-visit, or FrugalTrainer"
            )
        if kwargs.get("train_dataset") is not None:
            check_map_style(kwargs["train_dataset"])
        super().__init__(*args, **kwargs)
        self._check_setting()
        model: Any = self.model
        check_model(model)
        if isinstance(teacher, str | PathLike):
            teacher = teacher_from(teacher, model)
        if isinstance(teacher, nn.Module):
            teacher.to(self.args.device)
        setting.teacher = teacher
        own = self._own_objective() if teacher is None and objective is None else None
        setting.settle(model, own)
        self.objective = setting.objective
        self.criterion = None if self.objective is None else Criterion(self.objective)
        self.selection: Selection | None = None
        self._batch: Batch | None = None
        self._state: dict[str, Any] | None = None  # to go on from
        self._rows = self._batches = 0  # of the optimiser step under way
        self.add_callback(Keeper(self))

    def _own_objective(self) -> Objective | None:
        """The objective where none is given and there is no teacher; None: the trainer's loss."""
        return None

    @property
    def ledger(self) -> Ledger:
        """Of the last ``train()``."""
        return self._made().ledger

    @property
    def meters(self) -> Meters:
        """Of the last ``train()``."""
        return self._made().meters

    def _made(self) -> Selection:
        if self.selection is None:
            raise SelectionMisuse("nothing was trained yet: call train() first")
        return self.selection

    def _check_setting(self) -> None:
        args = self.args
        if args.world_size > 1 or args.n_gpu > 1:
            raise SelectionMisuse(
                f"{args.world_size} processes with {args.n_gpu} devices each: one process with one "
                "device is what there is a plan for (set CUDA_VISIBLE_DEVICES)"
            )
        sampling = getattr(args, "train_sampling_strategy", "random")
        if getattr(args, "group_by_length", False):  # as transformers 5.0 says it
            sampling = "group_by_length"
        own = type(self)._get_train_sampler is not transformers.Trainer._get_train_sampler
        if sampling != "random" or own:
            what = "_get_train_sampler" if own else f"train_sampling_strategy={sampling!r}"
            raise SelectionMisuse(f"the selection decides the order of samples: remove {what}")
        if self.setting.policy.when == "now" and args.gradient_accumulation_steps > 1:
            raise SelectionMisuse(
                "under when: now batches are gathered from the rows that fail: set "
                "gradient_accumulation_steps to 1, per_device_train_batch_size to a step's rows"
            )

    # The epochs.

    def get_train_dataloader(self) -> Any:
        """The selection's epochs, made anew."""
        if self.train_dataset is None:
            return super().get_train_dataloader()  # which says so
        self.selection = make_selection(self)
        if self._state is not None:
            check_same_training(self._state["about"], self.setting.about(self.train_dataset))
            self.selection.load_state_dict(self._state["selection"])
            self.selection.meters.restore(self._state["meters"])
        accumulation = self.args.gradient_accumulation_steps
        self.planned = PlannedEpochs(self.selection, self.train_dataset, accumulation)
        return self.planned

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[Any, Tensor | None]:
        """The batches of one optimiser step, each read once the one before was trained on, and
        their rows."""
        first = next(epoch_iterator, None)
        if first is None:
            return [], None
        planned, args = self.planned, self.args
        self._rows = planned.rows_of_step(first)
        self._batches = batches_of(self._rows, planned.selection.batch_size)
        at = planned.position(first, self.state.max_steps)
        if self.state.global_step < args.get_warmup_steps(self.state.max_steps):
            at = self.state.global_step
        assert planned.epoch is not None, "there is a batch"
        follow(self.lr_scheduler, at, planned.epoch.lr_factor)
        rows = torch.tensor(float(self._rows), device=device)
        return Step(first, epoch_iterator, num_batches), rows

    # The step.

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """The trainer's own, of a batch that it can be told of; nothing where an epoch ends before
        a step has all its batches."""
        if not isinstance(inputs, Inputs):
            return super().training_step(model, inputs, num_items_in_batch)
        if inputs.batch is None:
            return torch.zeros((), device=self.args.device)
        self._batch = inputs.batch
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._batch = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """In training the objective, or the trainer's own loss, of the batch, which is observed
        here; else the trainer's own."""
        batch = self._batch
        if batch is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        labels, losses = batch.labels, None
        if self.criterion is None:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            logits = logits_of(outputs)
            losses = loss if loss.ndim else None
        else:
            logits = run_model(lambda data: call(model, inputs_of(data)), inputs, batch.ids)
            losses = self.criterion(logits, labels, batch)
            loss, outputs = losses, {"logits": logits}
        # What the trainer divides a loss by that does not know the step's other batches.
        self.current_gradient_accumulation_steps = self._batches if losses is None else 1
        if losses is not None:
            loss = batch.reduce(losses, rows=self._rows)
        elif batch.weighted:
            raise SelectionMisuse(
                "compute_loss returns one number, and rows are to be weighed: return one loss a "
                "row, or pass objective="
            )
        batch.observe(logits, labels, None if losses is None else losses.detach(), later=True)
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """The trainer's own; none of no batch."""
        return super().floating_point_ops(inputs) if len(inputs) else 0

    # The run.

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, with the meters among the metrics of its answer.

        Raises:
            RunFolderError: the checkpoint is of another training, or holds no selection.
            NonFiniteLoss: logits, losses, gradients or weights stopped being finite; no checkpoint
                is written of them.
        """
        folder = resume_from_checkpoint
        if folder is True:
            folder = transformers.trainer_utils.get_last_checkpoint(self.args.output_dir)
        self._state = read_state(Path(folder)) if folder else None
        skipping, self.args.ignore_data_skip = self.args.ignore_data_skip, True  # ours to skip
        self._started = time.perf_counter()
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
            return self._finish(output)
        finally:
            self.args.ignore_data_skip = skipping
            self._state = None
            if self.selection is not None:
                self.selection.source.close()
                if isinstance(self.selection.targets, FirstVisitTargets):
                    self.selection.targets.close()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, on a clock of its own."""
        started = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            if self.selection is not None and self.is_in_train:
                spent = time.perf_counter() - started
                self.selection.meters.eval_seconds += spent
                self._started += spent

    def _read_clock(self) -> None:
        now = time.perf_counter()
        self.meters.wall_seconds += now - self._started
        self._started = now

    def _finish(self, output: Any) -> Any:
        selection = self._made()
        selection.state_dict()  # what a training that was stopped has left on the device
        self._read_clock()
        if self.args.should_save:
            selection.ledger.save(Path(self.args.output_dir or ".") / LEDGER)
        counted = selection.meters
        output.metrics.update(
            samples_backpropagated=counted.samples_backpropagated,
            student_forwards=counted.student_forwards,
            teacher_queries=counted.teacher_queries,
            budget=selection.budget,
        )
        return output

    def _kept(self, state: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds of ``state``, the selection's."""
        selection = self._made()
        if selection.targets is not None:
            selection.targets.sync()
        self._read_clock()
        about = self.setting.about(self.train_dataset)
        return {"about": about, "selection": state, "meters": selection.meters.state()}


class FrugalTrainer(FrugalMixin, transformers.Trainer):
    """transformers' Trainer, distilling with a fraction of the samples.

    ```python
    trainer = FrugalTrainer(
        model, args, train_dataset=train, eval_dataset=test, processing_class=tokenizer,
        teacher="a/hub-name", mode="regulated",
    )
    print(trainer.train().metrics["budget"])
    ```

    The objective is ``KD()`` with a teacher and cross-entropy without one, with the arguments'
    ``label_smoothing_factor``. Everything else is as in :class:`FrugalMixin`.
    """

    gates_now = True

    def _own_objective(self) -> Objective:
        if self.compute_loss_func is not None:
            raise ModelError(
                "compute_loss_func reduces its losses, and FrugalTrainer weighs each: pass "
                "objective=, or put FrugalMixin before Trainer to keep it"
            )
        return CrossEntropy(self.args.label_smoothing_factor)
