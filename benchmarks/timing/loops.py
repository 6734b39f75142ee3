"""Repeated trainings in one process: frugalkd's training loop and a plain loop. The option
``device`` of a task (default: cpu) is where they train."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing.runners import Record, Task
from frugalkd import Sampling
from frugalkd.data import ImageData
from frugalkd.errors import ModelError
from frugalkd.experiments.runs.from_recipe import make_data, make_model
from frugalkd.experiments.runs.targets import encoding_of
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import KD
from frugalkd.policies.modes import MODES
from frugalkd.runtime.devices import device_of, resolve_device
from frugalkd.runtime.meters import Meters
from frugalkd.selection import DataLoading, Selection
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.training.settings import Training
from frugalkd.training.trainer import ForwardFn, Trainer, accelerator_for


def plain(task: Task) -> Callable[[], Record]:
    """The plain loop for the recipe of ``task``: vanilla, targets and data as tensors in RAM."""
    recipe = task.recipe
    training, objective = recipe.student.training, recipe.student.objective.build()
    if training.optimizer.name != "adamw" or not isinstance(objective, KD):
        raise ModelError("the plain loop supports only adamw and kd: set them in the recipe")
    data = _data(task)
    targets = _stored(task, data)
    ids = np.arange(len(data))
    inputs, labels = data.batch(ids, np.zeros_like(ids))
    logits = torch.from_numpy(targets.all_logits())

    device = _device(task)

    def run() -> Record:
        model = make_model(recipe.student.model, data, recipe.seed).train().to(device)
        torch.manual_seed(recipe.seed)
        started = time.perf_counter()
        plain_loop(model, inputs, labels, logits, training, objective)
        wait_for(device)
        return {"seconds": time.perf_counter() - started, "budget": 1.0}

    return run


def plain_loop(
    model: nn.Module, x: Tensor, y: Tensor, soft: Tensor, training: Training, kd: KD
) -> None:
    """Vanilla distillation in a minimal loop, without meters and ledger: the tensors are in main
    memory, pinned where the model is on a GPU."""
    device = device_of(model)
    if device.type == "cuda":
        x, y, soft = (each.pin_memory() for each in (x, y, soft))
    peak, t, a = training.optimizer.lr, kd.temperature, kd.alpha
    decay = training.optimizer.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=decay, fused=True)
    step, steps = 0, int(training.epochs) * math.ceil(len(x) / training.batch_size)
    for _ in range(int(training.epochs)):
        for rows in torch.randperm(len(x)).split(training.batch_size):
            here = [each[rows].to(device, non_blocking=True) for each in (x, y, soft)]
            out, teacher = model(here[0]), F.log_softmax(here[2] / t, 1)
            loss = F.kl_div(
                F.log_softmax(out / t, 1), teacher, log_target=True, reduction="batchmean"
            )
            loss = a * t**2 * loss + (1 - a) * F.cross_entropy(out, here[1])
            optimizer.param_groups[0]["lr"] = peak * (1 + math.cos(math.pi * step / steps)) / 2
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1


@final
@dataclass
class Unmetered(Meters):
    """Meters that do not read the clock within a training."""

    def phase(self, name: str) -> Any:
        return _NOTHING


_NOTHING = nullcontext()


def engine(task: Task) -> Callable[[], Record]:
    """frugalkd's training loop for the recipe of ``task``. The option ``phases: false``
    disables the meters by phase.

    Teachers are untrained: their outputs do not affect the time. A live teacher runs in the
    student's precision and memory format."""
    recipe = task.recipe
    role = recipe.student
    assert role.mode is not None
    policy = MODES[role.mode].policy(role.regulation)
    data = _data(task)
    targets = _live(task, data) if role.targets.kind == "live" else _stored(task, data)
    training, device = role.training, _device(task)
    loading = DataLoading(device=device, pin_memory=device.type == "cuda")

    def run() -> Record:
        targets.queries = 0
        model = make_model(role.model, data, recipe.seed).to(device)
        accelerator = accelerator_for(training.precision, device.type)
        metering = Meters if task.options.get("phases", True) else Unmetered
        with patch("frugalkd.selection._selection.Meters", metering):
            selection = Selection(
                data,
                epochs=training.epochs,
                batch_size=training.batch_size,
                sampling=Sampling(policy=policy),
                model=model,
                forward=ForwardFn(model, training, accelerator),
                targets=targets,
                seed=recipe.seed,
                loading=loading,
                ledger=Ledger.new(len(data), labels=data.labels.numpy(), extra=policy.columns),
            )
        trainer = Trainer(model, selection, role.objective.build(), training, accelerator)
        try:
            trainer.fit()
        finally:
            selection.source.close()
        summary = selection.meters.summary()
        budget = summary["samples_backpropagated"] / (len(data) * training.epochs)
        return {"seconds": summary["wall_seconds"], "budget": budget, "meters": summary}

    return run


def wait_for(device: torch.device) -> None:
    """Until all that was started on it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(task: Task) -> torch.device:
    return resolve_device(task.options.get("device", "cpu"))


def _data(task: Task) -> ImageData:
    """The data, with the student's augmentation; arms in one process share them."""
    recipe = task.recipe
    torch.set_num_threads(recipe.threads)
    key = recipe.model_dump_json(include={"data": True, "student": {"augment"}, "seed": True})
    if key not in _READ:
        data = make_data(recipe, recipe.student.augment, recipe.seed).train
        if not isinstance(data, ImageData):
            raise ModelError("this arm needs a built-in data set: name one in the recipe")
        _READ[key] = data
    return _READ[key]


_READ: dict[str, ImageData] = {}


def _stored(task: Task, data: ImageData) -> StoredTargets:
    """One view of each sample, from a model of the student's size, which is fast."""
    teacher = make_model(task.recipe.student.model, data, task.recipe.seed + 1).eval()
    return StoredTargets.fill(teacher, data, encoding=encoding_of(task.recipe))


def _live(task: Task, data: ImageData) -> LiveTeacher:
    recipe = task.recipe
    training = recipe.student.training
    teacher = make_model(recipe.teacher.model, data, recipe.seed + 1).eval().to(_device(task))
    return LiveTeacher(teacher, precision=training.precision, channels_last=training.channels_last)
