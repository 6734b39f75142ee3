"""The one training loop: it trains a teacher and it distils a student."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.batches import call, inputs_of
from frugalkd.distributed.ranks import Agreed, is_sharded
from frugalkd.errors import ModelError, Stopped, few
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.export import save_model
from frugalkd.models.hub import MESSAGE, own_loading, push, table, write_card
from frugalkd.models.origin import origin_of
from frugalkd.objectives import Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.policies.modes import OutputName
from frugalkd.runtime.devices import autocast, resolve_device
from frugalkd.runtime.failures import blame
from frugalkd.runtime.formatting import duration, percent
from frugalkd.runtime.imports import import_object, make_object
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import shown
from frugalkd.selection import Batch, Epoch, Selection
from frugalkd.selection.finite import gradients, mark
from frugalkd.teachers import EMATeacher
from frugalkd.teachers.average import EMA
from frugalkd.training.checkpoints import (
    Checkpoints,
    check_same_training,
    random_state,
    set_random_state,
)
from frugalkd.training.fsdp import WaitingSGD, check_parts, load_state, load_whole, whole
from frugalkd.training.settings import Optimizer, RunOptions, Schedule, Training

_DETACHED = (
    "no gradient reaches a parameter of the model: its forward or the objective detaches, runs "
    "without gradients, or uses nothing that is trained"
)


@dataclass
class Run:
    """The result of a training.

    Attributes:
        model: the trained model (of the last epoch, or the average of ``training.ema``), in eval
            mode.
        ledger: the record of each sample.
        meters: the cost.
        budget: the samples that went through a backward pass, as a fraction of training on all in
            every epoch that was given.
        history: one record per epoch: loss, learning rate, rows by kind, seconds.
        evaluation: measures on ``eval_dataset``, or None.
        probabilities: float32 (samples, classes) of the model on ``eval_dataset``, or None; of
            another kind of output than one class, its outputs.
        features: of :func:`frugalkd.train_head`, the features that it trained on: ``rows``, the
            ``seconds`` that computing them took, and the file that they were ``reused_from``.
        projection: from the model's embeddings to the teacher's width, where these differ.
        output: the kind of the model's outputs, a key of :data:`frugalkd.outputs.OUTPUTS`.
    """

    model: nn.Module
    ledger: Ledger
    meters: Meters
    budget: float
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    probabilities: NDArray[np.float32] | None = None
    features: dict[str, Any] | None = None
    projection: nn.Linear | None = None
    output: OutputName = "one-class"

    def push_to_hub(
        self,
        repo_id: str,
        *,
        description: str = "",
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = MESSAGE,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Push the model's weights and a card that says what they cost to the Hugging Face hub. A
        model of transformers, or another one that has ``save_pretrained``, is saved by that. (A
        run folder: ``frugalkd push``, whose card knows the recipe, and which ``frugalkd.load``
        builds again by name.)

        Args:
            repo_id: USER/NAME, made where it is missing.
            description: Markdown at the beginning of the card, such as what the teacher was.
            license: of the model, as the hub names it: ``apache-2.0``.
            private, token, commit_message, branch, create_pr: as of huggingface_hub's
                ``ModelHubMixin.push_to_hub``.

        Returns:
            The URL of the commit.

        Raises:
            ModelError: ``repo_id`` is not a valid name, or the hub refuses.
        """

        def write(folder: Path) -> None:
            classes = origin_of(self.model).classes
            weights = save_model(folder / "student.safetensors", self.model, classes)
            sections = {
                "": description or "Trained with frugalkd.",
                "Load it": own_loading(self.model, repo_id, weights),
                "What it came to": table(["what", "value"], list(self._facts().items())),
            }
            write_card(folder, repo_id, sections, license=license)

        return push(
            write, repo_id, token=token, private=private, commit_message=commit_message,
            branch=branch, create_pr=create_pr,
        )  # fmt: skip

    def _facts(self) -> dict[str, object]:
        """What is known of the training, as its card says it."""
        meters, samples = self.meters, len(self.ledger)
        cost = meters.cost(samples)["epochs"]
        facts = {
            **(self.evaluation or {}),
            "policy": self.ledger.about.get("policy"),
            "training samples": samples,
            "epochs": len(self.history),
            "samples backpropagated, of full training": percent(self.budget),
            "cost, epochs of full training": cost and round(cost, 2),
            "rows through the student": meters.student_forwards,
            "teacher queries": meters.teacher_queries,
            "time of training": duration(meters.wall_seconds),
            "SHA-256 of the training data": self.ledger.about.get("data"),
        }
        return {
            name: f"{value:.4f}" if isinstance(value, float) else value
            for name, value in facts.items()
            if value is not None
        }


def fixed_parts(model: nn.Module) -> list[nn.Module]:
    """The parts of a model in train mode that its user put into eval mode and does not train: no
    training changes the statistics of BatchNorm in them."""

    def is_fixed(part: nn.Module) -> bool:
        frozen = [not parameter.requires_grad for parameter in part.parameters()]
        return not part.training and bool(frozen) and all(frozen)

    return [part for part in model.modules() if is_fixed(part)] if model.training else []


def accelerator_for(precision: str, device: str) -> Accelerator:
    """An Accelerator with this precision and device. Under torchrun or ``accelerate launch`` it
    makes this process one of several ranks."""
    # Accelerate keeps both for the process, and would refuse those of another run.
    AcceleratorState._reset_state(reset_partial_state=True)
    wanted = resolve_device(device).type
    accelerator = Accelerator(
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision], cpu=wanted == "cpu"
    )
    if accelerator.device.type != wanted:
        raise ModelError(f"device {wanted} is not available: set device: auto, or cpu")
    return accelerator


class ForwardFn(nn.Module):
    """The model's forward on a batch of data, for training and for screening: in the memory format
    of the settings and the accelerator's precision, and compiled with ``training.compile``."""

    def __init__(self, model: nn.Module, training: Training, accelerator: Accelerator):
        super().__init__()
        self.model = model
        self.channels_last = training.channels_last
        # Not the accelerator's autocast, whose type is that of the process's newest accelerator.
        self.precision = partial(autocast, model, training.precision)
        self.eager = self.run = partial(call, model)
        if training.compile:
            # On a CPU torch.compile makes C++; without a compiler it fails with pages of text.
            default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
            name = os.environ.get("CXX") or default
            if accelerator.device.type == "cpu" and shutil.which(name) is None:
                raise ModelError(
                    f"training.compile needs a C++ compiler, and there is no {name}: install it, "
                    "name another one in CXX, or set training.compile to false"
                )
            torch.compiler.reset()  # graphs of earlier models count towards one limit
            self.run = torch.compile(self.run)

    def forward(self, data: Any) -> Tensor:
        return self._call(self.run, data)

    def eagerly(self, data: Any) -> Tensor:
        """The same, not compiled: for batches of other sizes than the training's."""
        return self._call(self.eager, data)

    def _call(self, run: Any, data: Any) -> Tensor:
        inputs = inputs_of(data, channels_last=self.channels_last)
        with self.precision():
            return run(inputs)


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The fused optimiser: one call a step, and it respects ``found_inf`` without waiting for the
    device; or that of ``settings.path``. Parameters of one dimension (biases, normalisation) have
    no weight decay. Raises ModelError where none can be made for these parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.path is not None:
        options = {"params": groups, "lr": settings.lr, **settings.options}
        made = make_object(settings.path, options)
        if not isinstance(made, torch.optim.Optimizer):
            raise ModelError(f"{settings.path} made a {type(made).__name__}: name an optimiser")
        return made
    try:
        if settings.name == "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
        cut, momentum = is_sharded(model), settings.momentum
        kind = WaitingSGD if cut else torch.optim.SGD
        return kind(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=not cut)
    except Exception as error:
        blame(error, ModelError, f"no {settings.name} can be made for this model's parameters")


@cache
def _curve(path: str) -> Any:
    return import_object(path)


def factor(schedule: Schedule, progress: float, after: float) -> float:
    """The factor of the peak learning rate of a step from ``progress`` in [0, 1] to ``after``.
    Raises ModelError where a function of the user's fails, or gives no number from 0 on."""
    warm = min(1.0, after / schedule.warmup) if schedule.warmup else 1.0
    if schedule.path is not None:
        try:
            own: Any = _curve(schedule.path)(progress)
        except Exception as error:
            blame(error, ModelError, f"{schedule.path} fails at progress {progress:.3g}")
        if not (isinstance(own, Real) and 0 <= float(own) < math.inf):
            raise ModelError(
                f"{schedule.path} gives {shown(own)} at progress {progress:.3g}: a number from 0 on"
            )
        return warm * float(own)
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
    }[schedule.shape]
    return warm * (schedule.final + (1 - schedule.final) * left)


class Trainer:
    """The training of ``model``, in place, on the accelerator's device. ``about`` is what decides
    the result (:func:`describe_training`); a checkpoint of anything else is refused."""

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        objective: Objective | Criterion,
        training: Training,
        accelerator: Accelerator,
        run: RunOptions | None = None,
        about: dict[str, str] | None = None,
    ):
        self.model, self.selection, self.training = model, selection, training
        self.accelerator, self.about = accelerator, about or {}
        self.run = RunOptions() if run is None else run
        self.ranks, self.meters = selection.ranks, selection.meters
        self.checkpoints = None
        if self.run.folder is not None:
            self.checkpoints = Checkpoints(self.run.folder, self.run.checkpointing, self.ranks)
        self.should_stop = Agreed(self.ranks, self.run.should_stop or (lambda: False))
        self.shared = self.ranks.share_model(model)
        self.call = ForwardFn(self.shared, training, accelerator)
        self.criterion = objective if isinstance(objective, Criterion) else Criterion(objective)
        parts = self.criterion.parts
        check_parts(model, parts, self.ranks)
        trained = nn.ModuleList([model, parts])
        self.parameters = list(trained.parameters())
        self.optimizer = make_optimizer(trained, training.optimizer)
        selection.attach(
            modules={"": model, "objective": parts},
            optimizer=self.optimizer,
            features=self.criterion.features,
            project=self.criterion.project,
            should_stop=self.should_stop,
        )
        self.averaged: list[tuple[EMA, nn.Module]] = []
        """The averages that the training ends with, and what each is of."""
        if training.ema is not None:
            of = filter(None, (model, self.criterion.projection))
            self.averaged = [(EMA(part, training.ema), part) for part in of]
        teachers = {} if selection.targets is None else selection.targets.live_teachers
        own = [live for live in teachers.values() if isinstance(live, EMATeacher)]
        if any(live.student is not model for live in own):
            raise ModelError(
                "the teacher is the average of another model than the one that is trained: make it "
                "of this one, EMATeacher(student)"
            )
        self.averages = [*self.averaged, *((live.ema, model) for live in own)]
        self.step = 0
        self.loss: Tensor | None = None  # of the current step
        self.losses: list[Tensor] = []  # of the current epoch
        self.bad = torch.zeros((), device=accelerator.device)  # 1 from the first bad step on
        self.history: list[dict[str, Any]] = []

    def fit(self) -> list[dict[str, Any]]:
        """Train to the end; returns the history. After NonFiniteLoss the weights are those before
        the bad step; when Stopped is raised, a checkpoint was saved, where there is a folder."""
        self._started = time.perf_counter() - self.meters.wall_seconds
        fixed = fixed_parts(self.model)
        for epoch in self.selection:
            self.model.train()
            for module in fixed:
                module.eval()
            try:
                for batch in epoch:
                    self.train_step(batch, epoch)
                    if not batch.ends_step:
                        continue
                    if self.should_stop():
                        raise Stopped(f"stopped at epoch {epoch.index}, step {self.step}")
                    if self.checkpoints is not None and self.checkpoints.due(self.step):
                        self._save(epoch.index)
            except Stopped:
                self._save(epoch.index)
                raise
            self._finish_epoch(epoch)
        for average, part in self.averaged:
            part.load_state_dict(average.model.state_dict())
        self._recalibrate()
        self._read_clock()
        self.model.eval()
        return self.history

    def _read_clock(self) -> None:
        self.meters.wall_seconds = time.perf_counter() - self._started

    def train_step(self, batch: Batch, epoch: Epoch) -> None:
        """Forward and backward of one batch, and the optimiser's step after the last batch of a
        step. It never waits for the device, unless the optimiser is the user's."""
        phase = self.meters.phase
        if batch.begins_step:
            rate = self.training.optimizer.lr * epoch.lr_factor
            rate *= factor(self.training.schedule, batch.progress, batch.progress_after)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        self.ranks.share_gradients(self.shared, batch.ends_step)
        labels = batch.labels
        with phase("forward"):
            loss, outputs, losses = self.criterion.learn(self.call, batch.data, labels, batch)
        with phase("backward"):
            # Neither precision scales it, so accelerate has nothing to add.
            self._backward(loss, batch)
            self.loss = loss.detach() if self.loss is None else self.loss + loss.detach()
        with phase("ledger"):
            batch.observe(outputs, labels, losses, later=True)
        if batch.ends_step:
            with phase("optimizer"):
                self._update(batch)
            if self.averages:
                with phase("average"):
                    for average, part in self.averages:
                        average.update(part)
            self.losses.append(self.loss)
            self.loss = None
            self.step += 1

    def _backward(self, loss: Tensor, batch: Batch) -> None:
        if not loss.requires_grad:
            raise ModelError(_DETACHED)
        try:
            loss.backward()
        except Exception as error:
            samples = few(batch.ids.tolist())
            blame(error, ModelError, f"the backward pass of samples {samples} fails")

    def _update(self, batch: Batch) -> None:
        """The optimiser's step, with the gradients of all batches and ranks."""
        if self.step == 0 and all(parameter.grad is None for parameter in self.parameters):
            raise ModelError(_DETACHED)
        self.ranks.average_gradients(self.criterion.parts)
        assert self.loss is not None, "there was a batch"
        checked = [self.loss]
        if self.training.max_grad_norm is not None:
            checked.append(nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm))
        # Fused optimisers leave everything as it is where this flag is 1; the selection reads its
        # value of each step.
        self.bad = self.bad.clone()
        mark(self.bad, [*checked, *gradients(self.parameters)])
        self.ranks.worst(self.bad)
        batch.stepped(self.bad)
        fused = self.training.optimizer.path is None
        if fused:
            self.optimizer.found_inf = self.bad  # pyright: ignore[reportAttributeAccessIssue]
        try:
            if fused or not self.bad.any():  # another one does not know the flag
                self.optimizer.step()
        except Exception as error:
            blame(error, ModelError, "the optimiser's step fails on this model's gradients")
        for parameter in self.parameters:  # zero_grad, without its book-keeping
            parameter.grad = None

    def _share_buffers(self) -> None:
        for model in (self.model, *(average.model for average, _ in self.averages)):
            self.ranks.share_buffers(model)

    def _finish_epoch(self, epoch: Epoch) -> None:
        self._share_buffers()
        self._read_clock()
        losses, self.losses = self.losses, []
        mean = float(torch.stack(losses).mean()) if losses else None
        record = {
            "epoch": epoch.index,
            "samples": len(self.selection.ledger),
            "loss": mean if mean is None else self.ranks.mean(mean),
            "lr": self.optimizer.param_groups[0]["lr"],
            **epoch.summary,
            "progress": epoch.progress_at(1.0),
            "samples_backpropagated": self.meters.samples_backpropagated,
            "student_forwards": self.meters.student_forwards,
            "wall_seconds": self.meters.wall_seconds,
        }
        self.history.append(record)
        if self.ranks.first and self.run.on_plan is not None:
            with self.meters.phase("track"):
                self.run.on_plan(epoch.index, epoch.trained)
        self._save(epoch.index + 1)
        if self.ranks.first and self.run.on_epoch_end is not None:
            with self.meters.phase("track"):
                self.run.on_epoch_end(record)

    def _recalibrate(self) -> None:
        """Refresh BatchNorm statistics over a random part of the pool."""
        selection, ranks = self.selection, self.ranks
        wanted, pool = self.training.recalibrate_bn, selection.pool
        if wanted == 0 or len(pool) < 2:
            return
        least = 2 * ranks.world  # one row on a rank has no variance
        stream = torch.Generator().manual_seed(selection.seed)
        ids = pool[torch.randperm(len(pool), generator=stream)[: max(wanted, least)].numpy()]
        ids, stopped = ranks.share(np.resize(ids, max(len(ids), least))), False
        size = max(2, self.training.batch_size)

        def batches() -> Iterator[tuple[Any]]:
            # Counted as they are read: update_bn reads nothing where there is no BatchNorm.
            nonlocal stopped
            for rows in selection.reader.read(ids, size, join_last=True):
                self.meters.student_forwards += len(rows.ids)
                yield (rows.data,)
                stopped = self.should_stop()
                if stopped:  # update_bn itself ends, and restores what it changed
                    return

        with self.meters.phase("recalibrate"):
            try:
                torch.optim.swa_utils.update_bn(batches(), self.call)
            except Exception as error:
                blame(error, ModelError, "the model fails as BatchNorm's statistics are refreshed")
            ranks.share_buffers(self.model)
            selection.count_together()
        if stopped:
            raise Stopped("stopped while BatchNorm's statistics were refreshed")
        last = self.history[-1] if self.history else {"epoch": 0, "steps": 1}
        selection.check_finite(last["epoch"], max(0, last["steps"] - 1), ids)

    def _save(self, epochs: int) -> None:
        """Save a checkpoint, if there is a folder: ``epochs`` epochs are done. Raises NonFiniteLoss
        where something of the epoch so far is not finite."""
        if self.checkpoints is None:
            return
        with self.meters.phase("checkpoint"):
            state = self.selection.state_dict()
            if self.selection.targets is not None:
                self.selection.targets.sync()
            self._share_buffers()
            self._read_clock()
            keep = self.ranks.first
            tree = {
                "about": self.about,
                "selection": state,
                "model": whole(self.model.state_dict(), keep=keep),
                "parts": dict(self.criterion.parts.state_dict()),
                "optimizer": whole(self.optimizer.state_dict(), keep=keep),
                "averages": [average.state_dict() for average, _ in self.averages],
                "step": self.step,
                "losses": self.ranks.means(self.losses),
                "history": self.history,
                "meters": self.meters.state(),
                "random": random_state(self.accelerator.device),
                "streams": self.ranks.streams(),
            }
            self.checkpoints.save(epochs, self.step, tree)

    def resume(self) -> None:
        """Resume from the newest readable checkpoint, where there is one. Raises RunFolderError and
        SelectionMisuse for another training, RankError where ranks find different ones."""
        tree = None if self.checkpoints is None else self.checkpoints.newest()
        found = np.array([-1 if tree is None else tree["step"]])
        self.ranks.check_same("the checkpoint that they find", found)
        if tree is None:
            return
        check_same_training(tree["about"], self.about)
        load_whole(self.model, tree["model"])
        self.criterion.parts.load_state_dict(tree["parts"])
        load_state(self.optimizer, tree["optimizer"])
        for (average, _), kept in zip(self.averages, tree["averages"], strict=True):
            average.load_state_dict(kept)
        self.step, self.history = tree["step"], tree["history"]
        self.losses = [] if tree["losses"] is None else list(tree["losses"].to(self.bad.device))
        self.selection.load_state_dict(tree["selection"])
        self.meters.restore(tree["meters"])
        set_random_state(tree["random"], self.accelerator.device)
        self.ranks.set_stream(tree["streams"], self.selection.seed)
