"""torchdistill's vanilla knowledge distillation, on the same data with the same settings.

Where torchdistill leaves a choice, the fastest option is used: complete batches are read from
tensors in RAM (its own wrapper reads one sample at a time), the optimiser is fused, and nothing is
logged (its example reads the loss from the device at each step). The loop is that of its example
``image_classification.py``. The models have torch's default memory format, as in its examples, or
channels-last, which is much faster on a CPU, in arms that set it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler

from benchmarks.timing.runners import Record, Task
from frugalkd.data import ImageData
from frugalkd.errors import ModelError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.from_recipe import make_data, make_model, make_teacher
from frugalkd.objectives import KD
from frugalkd.runtime.meters import peak_memory_bytes
from frugalkd.training.evaluation import measure, predict
from frugalkd.training.optimizers import factor, make_optimizer
from frugalkd.training.settings import Training


class Batches(Dataset):
    """Complete batches for torch's DataLoader, as torchdistill expects: ``(inputs, labels, {})``.

    Without augmentation the normalised float32 tensors are kept in RAM; with augmentation each
    epoch has a new view. The loop sets ``epoch``.
    """

    def __init__(self, data: ImageData):
        self.data, self.epoch = data, 0
        ids = np.arange(len(data))
        self._whole = None
        if data.augmentation.crop == 0 and not data.augmentation.flip:
            self._whole = data.batch(ids, np.zeros_like(ids))

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, ids: list[int]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        if self._whole is not None:
            rows = torch.tensor(ids)
            return self._whole[0].index_select(0, rows), self._whole[1].index_select(0, rows), {}
        inputs, labels = self.data.batch(ids, np.full(len(ids), self.epoch))
        return inputs, labels, {}


def prepare(task: Task) -> Callable[[], Record]:
    """Prepare the models, the data and the distillation box of ``task``.

    Option ``teacher_channels_last``: the teacher's memory format; the recipe sets the student's.

    Raises:
        ModelError: torchdistill is not installed, or does not support the recipe.
    """
    recipe = task.recipe
    torch.set_num_threads(recipe.threads)
    run_data = make_data(recipe, recipe.student.augment, recipe.seed)
    if not isinstance(run_data.train, ImageData):
        raise ModelError("this arm needs a built-in data set: name one in the recipe")
    teacher = make_teacher(recipe, task.teacher, run_data.train).eval()
    student = make_model(recipe.student.model, run_data.train, recipe.seed)
    if task.options.get("teacher_channels_last"):
        teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if recipe.student.training.channels_last:
        student.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batches = Batches(run_data.train)
    box = make_box(teacher, student, batches, recipe)
    epochs = int(recipe.student.training.epochs) if task.part is None else task.part

    def run() -> Record:
        torch.manual_seed(recipe.seed)
        started = time.perf_counter()
        train(box, batches, epochs)
        seconds = time.perf_counter() - started
        accuracy = None
        if task.part is None and run_data.eval_dataset is not None:
            probabilities, labels = predict(student.eval(), run_data.eval_dataset)
            assert labels is not None
            accuracy = measure(probabilities, labels)["accuracy"]
        rows = len(batches) * epochs
        return {
            "seconds": seconds,
            "accuracy": accuracy,
            "budget": 1.0,
            "meters": {
                "samples_backpropagated": rows,
                "student_forwards": rows,
                "teacher_queries": rows,
                "wall_seconds": seconds,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        }

    return run


def train(box: Any, batches: Batches, epochs: int) -> None:
    """torchdistill's loop."""
    for epoch in range(epochs):
        batches.epoch = epoch
        box.pre_epoch_process(epoch=epoch)
        for inputs, labels, supplement in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(inputs, labels, supplement)
            box.post_forward_process(loss)
        box.post_epoch_process()


def make_box(teacher: nn.Module, student: nn.Module, batches: Batches, recipe: Recipe) -> Any:
    """A DistillationBox with the recipe's objective, optimiser and schedule.

    Raises:
        ModelError: torchdistill is not installed, or the objective is not its KD.
    """
    try:
        from torchdistill.common.constant import def_logger
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.datasets.registry import register_collate_func, register_dataset_wrapper
        from torchdistill.losses import high_level, mid_level  # noqa: F401 (imported to register)
        from torchdistill.optim.registry import register_optimizer
    except ImportError as error:
        raise ModelError(
            f"torchdistill cannot be imported ({error}): pip install 'frugalkd[bench]'"
        ) from None
    def_logger.setLevel(logging.WARNING)
    register_dataset_wrapper(_as_it_is, key="frugalkd-batches")
    register_collate_func(_as_it_is, key="frugalkd-batches")
    register_optimizer(_optimizer, key="frugalkd-optimizer")
    training = recipe.student.training
    steps = math.ceil(len(batches) / training.batch_size)
    config = {
        "num_epochs": int(training.epochs),
        "train_data_loader": {
            "dataset_id": "train",
            "dataset_wrapper": {"key": "frugalkd-batches"},
            "collate_fn": "frugalkd-batches",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": training.batch_size, "num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": criterion_config(recipe.student.objective.build()),
        "optimizer": {"key": "frugalkd-optimizer", "kwargs": {"settings": training.optimizer}},
        "scheduler": {
            "key": "LambdaLR",
            "kwargs": {"lr_lambda": _schedule(training, steps)},
            "scheduling_step": 1,
        },
    }
    return get_distillation_box(
        teacher, student, {"train": batches}, config, torch.device("cpu"), None, False, 1
    )


def criterion_config(objective: Any) -> dict[str, Any]:
    """torchdistill's configuration of the same objective; its alpha is 1 - our alpha."""
    if not isinstance(objective, KD):
        raise ModelError(
            "the torchdistill arm supports only the objective kd: set it in the recipe"
        )
    kwargs = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": objective.temperature,
        "alpha": 1 - objective.alpha,
        "reduction": "batchmean",
    }
    term = {"criterion": {"key": "KDLoss", "kwargs": kwargs}, "weight": 1.0}
    return {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": term}}}


def _as_it_is(given: Any) -> Any:
    return given


def _optimizer(parameters: list[nn.Parameter], settings: Any) -> torch.optim.Optimizer:
    return make_optimizer(nn.ParameterList(parameters), settings)


def _schedule(training: Training, steps: int) -> Callable[[int], float]:
    """The recipe's schedule as a function of the step."""
    whole = steps * training.epochs
    schedule = training.schedule
    return lambda step: factor(schedule, min(1.0, step / whole), min(1.0, (step + 1) / whole))
