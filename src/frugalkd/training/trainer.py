"""The one training loop: it trains a teacher and it distils a student."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from frugalkd.data.batches import call, inputs_of
from frugalkd.distributed.ranks import Agreed
from frugalkd.errors import ModelError, Stopped, few
from frugalkd.objectives import Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.runtime.devices import autocast, resolve_device
from frugalkd.runtime.failures import blame
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
from frugalkd.training.fsdp import check_parts, load_state, load_whole, whole
from frugalkd.training.optimizers import factor, make_optimizer
from frugalkd.training.settings import RunOptions, Training

_DETACHED = (
    "no gradient reaches a parameter of the model: its forward or the objective detaches, runs "
    "without gradients, or uses nothing that is trained"
)


def fixed_parts(model: nn.Module) -> list[nn.Module]:
    """The parts, within one in train mode, that the user put into eval mode and does not train:
    they stay in it, so that epochs change no statistics of BatchNorm in them."""

    def is_fixed(part: nn.Module) -> bool:
        frozen = [not parameter.requires_grad for parameter in part.parameters()]
        return not part.training and bool(frozen) and all(frozen)

    within = (part for whole in model.modules() if whole.training for part in whole.children())
    return [part for part in within if is_fixed(part)]


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
            of = (model, self.criterion.projection)
            self.averaged = [(EMA(part, training.ema), part) for part in of if part is not None]
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
            for part in fixed:
                part.eval()
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
        self._recalibrate(fixed)
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

    def _recalibrate(self, fixed: Sequence[nn.Module]) -> None:
        """Refresh BatchNorm statistics over a random part of the pool, but those of ``fixed``
        parts."""
        selection, ranks = self.selection, self.ranks
        wanted, pool = self.training.recalibrate_bn, selection.pool
        if wanted == 0 or len(pool) < 2:
            return
        least = 2 * ranks.world  # one row on a rank has no variance
        stream = torch.Generator().manual_seed(selection.seed)
        ids = pool[torch.randperm(len(pool), generator=stream)[: max(wanted, least)].numpy()]
        ids, stopped = ranks.share(np.resize(ids, max(len(ids), least))), False
        size = max(2, self.training.batch_size)
        kept = [(buffer, buffer.clone()) for part in fixed for buffer in part.buffers()]

        def batches() -> Iterator[tuple[Any]]:
            # Counted as they are read: update_bn reads nothing where there is no BatchNorm.
            nonlocal stopped
            for buffer, value in kept:  # update_bn has just reset them
                buffer.copy_(value)
            for part in fixed:
                part.eval()
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
