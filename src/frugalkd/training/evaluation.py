"""What a model is worth on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, refuse_not_finite, run_model, split
from frugalkd.data.bucketing import by_length, lengths_of
from frugalkd.data.samples import Pictures, rows_at_once
from frugalkd.data.source import Collate, check_map_style, open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import Stopped, UnsupportedData
from frugalkd.models.inference import inference_mode
from frugalkd.runtime.devices import device_of
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.settings import check_integer


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    accelerator: Accelerator | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    stop: Callable[[], bool] | None = None,
    ids: NDArray[np.int64] | None = None,
    ranks: Ranks | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Class probabilities float32 (samples, classes) and labels int64 (samples,) where known, of
    the samples ``ids`` or of all.

    ``batch_size``: 1,000 by default, fewer of large pictures (:func:`rows_at_once`). ``stop`` is
    asked after each batch. Of several ``ranks`` each looks at its share, and gets all.

    Raises:
        Stopped: ``stop`` said so.
        UnsupportedData: data that are not map-style, empty, or whose labels are no class indices.
        ModelError: the model does not give logits (rows, classes), or none that are finite.
        OutOfMemory: ``batch_size`` rows are too many.
    """
    check_map_style(dataset)
    if not len(dataset):  # pyright: ignore[reportArgumentType]
        raise UnsupportedData("the data set is empty: there is nothing to measure")
    check_model(model)
    if batch_size is None:
        batch_size = rows_at_once(dataset.shape) if isinstance(dataset, Pictures) else 1000
    check_integer("batch_size", batch_size, 1)
    accelerator = accelerator or Accelerator(cpu=device_of(model).type == "cpu")
    if ids is None:
        ids = np.arange(len(dataset))  # pyright: ignore[reportArgumentType]
    turn, ranks = np.arange(len(ids)), ranks or Ranks()
    if (lengths := lengths_of(dataset)) is not None:
        turn = by_length(turn, lengths[ids])
    ids = ranks.share(ids[turn])
    blocks = np.split(ids, np.arange(batch_size, len(ids), batch_size))
    requests = [(block, np.zeros_like(block)) for block in blocks]
    probabilities, labels = [], []
    with (
        open_source(dataset, collate_fn=collate_fn, num_workers=num_workers) as source,
        inference_mode(model),
        memory_for(f"looking at batches of {batch_size}", "give a smaller batch_size, or a CPU"),
    ):
        for block, data in zip(blocks, source.batches(requests), strict=True):
            inputs, known = split(send_to_device(data, accelerator.device))
            with accelerator.autocast():
                logits = run_model(partial(call, model), inputs, block)
            refuse_not_finite(logits, block)
            probabilities.append(torch.softmax(logits.float(), dim=1).cpu())
            labels.append(known)
            if stop is not None and stop():
                raise Stopped("stopped in an evaluation")
    back = np.argsort(turn)
    together = ranks.gathered(torch.cat(probabilities).numpy())[0][back]
    if any(part is None for part in labels):
        return together, None
    return together, ranks.gathered(torch.cat(labels).cpu().numpy())[0][back]


def measure(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    teacher: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Accuracy, worst-class accuracy, expected calibration error, agreement with the teacher.

    Args:
        probabilities: float32 (samples, classes).
        labels: int64 (samples,).
        teacher: the teacher's probabilities, or None.

    Raises:
        UnsupportedData: a label is not among the classes.
    """
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise UnsupportedData(
            f"labels reach from {labels.min()} to {labels.max()}, but the model has {classes} "
            "classes"
        )
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    of_class = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[correct], minlength=classes)
    by_class = right[of_class > 0] / of_class[of_class > 0]
    return {
        "samples": len(labels),
        "accuracy": float(correct.mean()),
        "worst_class_accuracy": float(np.min(by_class)),
        "expected_calibration_error": calibration_error(probabilities, labels),
        "teacher_agreement": None
        if teacher is None
        else float((teacher.argmax(axis=1) == predicted).mean()),
    }


def calibration_error(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15
) -> float:
    """Expected calibration error over ``bins`` equal bins of confidence (Naeini et al., 2015)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
