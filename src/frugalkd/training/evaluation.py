"""Predictions for a data set, and measures of a model on held-out data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, refuse_not_finite, run_model, split
from frugalkd.data.images import Pictures, rows_at_once
from frugalkd.data.source import (
    Collate,
    by_length,
    check_map_style,
    lengths_of,
    open_source,
    refuse_mixed,
)
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, Stopped, UnsupportedData
from frugalkd.models.identity import inference_mode
from frugalkd.outputs import ONE_CLASS, OUTPUTS, Output
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import autocast, device_of
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.settings import check_integer
from frugalkd.selection.checks import of_held_out

if TYPE_CHECKING:
    from frugalkd.training.run import Run

Predictions = Callable[[nn.Module, Dataset], tuple[NDArray[np.float32], NDArray[np.int64] | None]]
"""The probabilities and the labels of a data set, as :func:`predict` gives them."""


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    precision: str = "fp32",
    batch_size: int | None = None,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    should_stop: Callable[[], bool] | None = None,
    ids: Ids | None = None,
    ranks: Ranks | None = None,
    output: Output = ONE_CLASS,
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Class probabilities float32 (samples, classes), or the outputs of another kind of ``output``,
    and, where known, labels int64 (samples,), or (samples, targets), of the samples ``ids``, or of
    all: on the model's device, by default in full precision, in batches of 1,000 rows, and fewer of
    large pictures
    (:func:`rows_at_once`). Each of the ``ranks`` runs its share, and all return everything. Raises
    Stopped where ``should_stop``, called after each batch, returned True; UnsupportedData,
    ModelError, OutOfMemory."""
    check_map_style(dataset)
    refuse_mixed(dataset)
    if not len(dataset):  # pyright: ignore[reportArgumentType]
        raise UnsupportedData("the data set is empty: there is nothing to evaluate")
    check_model(model)
    if batch_size is None:
        batch_size = rows_at_once(dataset.shape) if isinstance(dataset, Pictures) else 1000
    check_integer("batch_size", batch_size, 1)
    if ids is None:
        ids = np.arange(len(dataset))  # pyright: ignore[reportArgumentType]
    turn, ranks, device = in_order(dataset, ids), ranks or Ranks(), device_of(model)
    own = ranks.share(ids[turn])
    blocks = np.split(own, np.arange(batch_size, len(own), batch_size))
    probabilities, labels = [], []
    with (
        open_source(dataset, collate_fn=collate_fn, num_workers=num_workers) as source,
        inference_mode(model),
        memory_for(f"batches of {batch_size}", "give a smaller batch_size, or device: cpu"),
    ):
        batches = source.batches([(block, np.zeros_like(block)) for block in blocks])
        for block, batch in zip(blocks, batches, strict=True):
            inputs, known = split(send_to_device(batch, device), output)
            with autocast(model, precision):
                logits = run_model(partial(call, model), inputs, block)
            refuse_not_finite(logits, block, output=output)
            probabilities.append(output.predictions(logits).cpu())
            labels.append(known)
            if should_stop is not None and should_stop():
                raise Stopped("stopped in an evaluation")
    back = np.argsort(turn)
    together = ranks.gathered(torch.cat(probabilities).numpy())[0][back]
    if any(part is None for part in labels):
        return together, None
    return together, ranks.gathered(torch.cat(labels).cpu().numpy())[0][back]


def in_order(dataset: Dataset, ids: Ids) -> Ids:
    """Where in ``ids`` the samples are in the order in which they are read: by length, if the data
    set has lengths."""
    turn, lengths = np.arange(len(ids)), lengths_of(dataset)
    return turn if lengths is None else by_length(turn, lengths[ids])


def evaluate(
    run: Run, teacher: nn.Module | None, eval_dataset: Dataset, predictions: Predictions
) -> None:
    """Measure the run's model on held-out data, on its clock, by its ``predictions``: a function as
    :func:`predict`."""
    started = time.perf_counter()
    output = OUTPUTS[run.output]
    with of_held_out():
        run.probabilities, labels = predictions(run.model, eval_dataset)
        if labels is None and output.labelled:
            raise ModelError("data without labels cannot be evaluated: give labels, or predict")
        of_teacher = None if teacher is None else predictions(teacher, eval_dataset)[0]
        if labels is None:
            run.evaluation = measure_embeddings(run.probabilities, of_teacher, run.projection)
        else:
            run.evaluation = measured(output, run.probabilities, labels, of_teacher)
    run.meters.eval_seconds += time.perf_counter() - started


def measure(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    teacher: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Accuracy, worst-class accuracy, expected calibration error, and agreement with the teacher,
    from ``probabilities`` (samples, classes), ``labels`` (samples,) and the probabilities of the
    ``teacher``. Raises UnsupportedData for a label that is not among the classes."""
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise UnsupportedData(
            f"labels reach from {labels.min()} to {labels.max()}, but the model has {classes} "
            "classes"
        )
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    rows = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[correct], minlength=classes)
    agreement = None if teacher is None else float((teacher.argmax(axis=1) == predicted).mean())
    return {
        "samples": len(labels),
        "accuracy": float(correct.mean()),
        "worst_class_accuracy": float((right[rows > 0] / rows[rows > 0]).min()),
        "expected_calibration_error": calibration_error(probabilities, labels),
        "teacher_agreement": agreement,
    }


def measure_values(
    values: NDArray[np.float32],
    labels: NDArray[np.float32],
    teacher: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """R2, the mean absolute error and the root of the mean squared error of ``values`` (samples,
    targets), and that to the ``teacher``'s values where these are known: means over the targets,
    the errors in their own units. R2 is None where a target does not vary."""
    wanted = labels.astype(np.float64)
    errors = values - wanted
    spread = ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=0)
    r2 = 1 - (errors**2).sum(axis=0) / np.where(spread > 0, spread, np.nan)
    return {
        "samples": len(labels),
        "r2": None if np.isnan(r2).any() else float(r2.mean()),
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean(axis=0)).mean()),
        "teacher_rmse": None if teacher is None else teacher_rmse(values, teacher),
    }


def teacher_rmse(values: NDArray[np.float32], teacher: NDArray[np.float32]) -> float:
    """The root of the mean squared difference of two models' values, the mean over the targets."""
    squares = (values.astype(np.float64) - teacher) ** 2
    return float(np.sqrt(squares.mean(axis=0)).mean())


def measure_labels(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.float32],
    teacher: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Micro and macro F1 at a probability of 1/2, and the mean average precision over the labels
    that some sample has, of ``probabilities`` (samples, labels); and the fraction of answers that
    are those of the ``teacher``'s probabilities. F1 of a label without a hit is 0."""
    given, right = probabilities >= 0.5, labels >= 0.5
    hits, of_both = (given & right).sum(axis=0), given.sum(axis=0) + right.sum(axis=0)
    some = np.flatnonzero(right.any(axis=0))
    precisions = [average_precision(probabilities[:, k], right[:, k]) for k in some]
    return {
        "samples": len(labels),
        "micro_f1": float(2 * hits.sum() / max(1, of_both.sum())),
        "macro_f1": float((2 * hits / np.maximum(1, of_both)).mean()),
        "mean_average_precision": float(np.mean(precisions)) if precisions else None,
        "teacher_agreement": None if teacher is None else label_agreement(probabilities, teacher),
    }


def average_precision(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """The mean precision at each of the samples that are ``right``, (samples,), equal scores
    together. As scikit-learn's ``average_precision_score``."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(right[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / found[-1])


def label_agreement(probabilities: NDArray[np.float32], teacher: NDArray[np.float32]) -> float:
    """How many answers of two models, each label of each sample being one, are the same."""
    return float(((probabilities >= 0.5) == (teacher >= 0.5)).mean())


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "one-class": measure,
    "several-labels": measure_labels,
    "regression": measure_values,
}
"""By the kind of output: what held-out data say of a model's predictions, from their labels."""


def measured(
    output: Output,
    predictions: NDArray[np.float32],
    labels: NDArray[Any],
    teacher: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """What ``MEASURES`` has for this kind of ``output``. Raises DataError where labels of a sample
    are not possible, which the measures would count as another one."""
    output.check(torch.from_numpy(labels), np.arange(len(labels)), predictions.shape[1])
    return MEASURES[output.name](predictions, labels, teacher)


def measure_embeddings(
    embeddings: NDArray[np.float32],
    teacher: NDArray[np.float32] | None,
    projection: nn.Linear | None = None,
) -> dict[str, Any]:
    """How near ``embeddings`` (samples, width) are to the ``teacher``'s (samples, its width), where
    these are known: the mean of 1 - cosine, after the ``projection`` where widths differ; and the
    Spearman correlation of the cosines of all pairs of samples, of the embeddings as they are (of
    2,048 samples evenly spaced where there are more)."""
    measured: dict[str, Any] = {"samples": len(embeddings)}
    if teacher is None:
        return measured
    projected = embeddings
    if projection is not None:
        weight, bias = (each.detach().cpu() for each in (projection.weight, projection.bias))
        projected = F.linear(torch.from_numpy(embeddings), weight, bias).numpy()
    cosines = (_unit(projected) * _unit(teacher)).sum(axis=1)
    some = np.unique(np.linspace(0, len(teacher) - 1, _PAIRED).astype(np.int64))
    return {
        **measured,
        "mean_cosine_distance": float(np.mean(1 - cosines, dtype=np.float64)),
        "pairwise_spearman": _rank_correlation(_pairs(embeddings[some]), _pairs(teacher[some])),
    }


_PAIRED = 2048
"""Samples, at most, whose pairs are compared."""


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    precise = rows.astype(np.float64)
    return precise / np.maximum(np.linalg.norm(precise, axis=1, keepdims=True), 1e-12)


def _pairs(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each pair of two rows, rounded to what float32 says of it."""
    unit = _unit(rows)
    return np.round((unit @ unit.T)[np.triu_indices(len(rows), 1)], 6)


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's, equal values having the mean of their ranks; None where it is not defined."""
    ranks = []
    for values in (one, other):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    spread = [rank - rank.mean() for rank in ranks if len(rank)]
    norms = [float(np.linalg.norm(each)) for each in spread]
    return float(spread[0] @ spread[1] / math.prod(norms)) if norms and all(norms) else None


def calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Expected calibration error over 15 equal bins of confidence (Naeini et al., 2015)."""
    bins, confidence = 15, probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
