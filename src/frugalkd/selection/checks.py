"""What can be known to be wrong before a training begins, and what was once it has failed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import check_model, not_finite, run_model, split
from frugalkd.data.class_names import attribute_of, class_names
from frugalkd.data.images import Pictures
from frugalkd.data.probe import data_digest, streams_restored
from frugalkd.data.source import Collate, open_source
from frugalkd.errors import (
    DataError,
    FrugalKDWarning,
    LedgerError,
    ModelError,
    NonFiniteLoss,
    TargetsError,
    UnsupportedData,
    few,
)
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.inference import inference_mode
from frugalkd.policies.policy import Ids, Policy
from frugalkd.teachers import Targets

Forward = Callable[[Any], Tensor]

_FIRST = 2
"""Samples of the first look."""


def check_first_batch(
    model: nn.Module,
    data: Dataset,
    targets: Targets | None,
    *,
    pool: Ids,
    forward: Forward,
    device: torch.device,
    collate_fn: Collate | None = None,
    label_free: bool = False,
) -> int:
    """Look at the first samples as a training would; returns how many classes the model has.

    Nothing of the model, the data or a random stream changes, and nothing is metered.

    Args:
        model: to be trained, on ``device``.
        data: map-style, not empty.
        targets: the soft targets that it will learn from, or None.
        pool: int64, the samples that may take part, one or more; no others are looked at.
        forward: the model's logits for a batch of data, as the training asks for them.
        device, collate: as in the training.
        label_free: look at no label.

    Raises:
        UnsupportedData: batches that are not (inputs, class indices).
        DataError: inputs that are not finite, where the model minds; labels that the model has no
            class for.
        ModelError: the model does not give logits (rows, classes), or none that are finite.
        TargetsError: the teacher has another number of classes.
    """
    ids = pool[:_FIRST]
    batch = read_first(data, pool, device, collate_fn)
    inputs, labels = split(batch)
    with inference_mode(model):
        logits = run_model(forward, batch, ids)
    classes = logits.shape[1]
    _refuse_non_finite(inputs, logits, ids)
    if not label_free:
        if labels is not None:
            check_batch(labels.cpu(), ids, classes)
        check_labels(data, pool, classes)
    known = None if targets is None else targets.classes(batch)
    if known is not None and known != classes:
        raise TargetsError(
            f"the teacher has {known} classes and the student {classes}: build both for the same "
            "classes"
        )
    return classes


def look_at_held_out(
    model: nn.Module,
    data: Dataset,
    *,
    forward: Forward,
    device: torch.device,
    collate_fn: Collate | None = None,
) -> None:
    """Look at the first of the held-out samples as the evaluation after the training would.

    Raises:
        UnsupportedData, DataError, ModelError: as :func:`check_first_batch`, or there are no
            samples, or no labels; the message says that these are the held-out data.
    """
    with of_held_out():
        if not len(data):  # pyright: ignore[reportArgumentType]
            raise UnsupportedData("the data set is empty: there is nothing to measure")
        pool = np.arange(len(data))  # pyright: ignore[reportArgumentType]
        batch = read_first(data, pool, device, collate_fn)
        labels = split(batch)[1]
        if labels is None:
            raise ModelError("data without labels measure nothing: give labels, or predict")
        with inference_mode(model):
            classes = run_model(forward, batch, pool[:_FIRST]).shape[1]
        check_batch(labels.cpu(), pool[:_FIRST], classes)
        if (known := labels_of(data)) is not None:
            _refuse_outside(known, pool, classes)


@contextmanager
def of_held_out() -> Iterator[None]:
    """Errors inside say that it is the held-out data that they are about."""
    try:
        yield
    except (DataError, ModelError) as error:
        raise type(error)(f"held-out data: {error}") from error


def read_first(
    data: Dataset, pool: Ids, device: torch.device, collate_fn: Collate | None = None
) -> Any:
    """The batch, on ``device``, of the samples that a first look is taken at, in view 0."""
    return _read(data, pool[:_FIRST], device, collate_fn)


def why_not_label_free(
    policy: Policy, *, asks_teacher: bool, targets_read_labels: bool
) -> str | None:
    """Why a training that is to read no label cannot be, in one line; None where it can."""
    name = type(policy).__name__
    if not asks_teacher:
        return "label-free training learns from a teacher alone: take an objective that asks one"
    if targets_read_labels:
        return "label-free training cannot weigh teachers by confidence in a label: combine by mean"
    if policy.scoring is not None:
        return f"{name} is scored by trainings on labels, which label-free training does without"
    if policy.needs_labels:
        return f"{name} plans by class, and label-free training knows none: take another quota"
    return None


def labels_of(data: Dataset) -> NDArray[np.int64] | None:
    """``data.labels`` int64 (samples,), where the data set has them. Names of another number (the
    classes', most likely) are no labels.

    Raises:
        UnsupportedData: they are not one class index a sample.
    """
    given = attribute_of(data, "labels")
    if given is None or callable(given):
        return None
    samples = len(data)  # pyright: ignore[reportArgumentType]
    try:
        labels = given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except ValueError:  # rows of different lengths
        labels = np.asarray(given, dtype=object)
    if labels.dtype.kind in "US" and labels.shape != (samples,):
        return None
    if labels.dtype.kind not in "iu":
        raise UnsupportedData(
            f"data.labels are of type {labels.dtype}: class indices (int64) are needed; regression "
            "and multi-label targets have no gate"
        )
    if labels.shape != (samples,):
        raise UnsupportedData(
            f"data.labels are of shape {labels.shape} for {samples} samples: one class index a "
            "sample is needed"
        )
    return labels.astype(np.int64)  # a copy: a tensor that is sent to workers leaves its memory


def check_labels(data: Dataset, pool: Ids, classes: int) -> None:
    """Check the labels that a data set holds as ``labels``, if it does, of the samples ``pool``. A
    class of ``data.classes`` that none of them has is a FrugalKDWarning: it cannot be learned.

    Raises:
        UnsupportedData: they are not one class index a sample.
        DataError: one that is not in 0 .. ``classes`` - 1.
    """
    labels = labels_of(data)
    if labels is None or not len(pool):
        return
    labels = labels[pool]
    _refuse_outside(labels, pool, classes)
    names = class_names(data)
    if names:
        seen = np.bincount(labels, minlength=len(names))[: len(names)]
        missing = [str(names[index]) for index in np.flatnonzero(seen == 0)]
        if missing:
            warnings.warn(
                f"no sample that may take part is of {len(missing)} of the {len(names)} classes ("
                f"{', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}): the model cannot "
                "learn them",
                FrugalKDWarning,
                stacklevel=2,
            )


def check_batch(labels: Tensor, ids: Ids, classes: int) -> None:
    """Raises DataError where ``labels`` int64 (rows,), in main memory, are of no class of the
    model. On a device a label like that would end the process, so it is looked for before."""
    if labels.device.type != "cpu" or not len(labels):
        return
    low, high = torch.aminmax(labels)
    if low < 0 or high >= classes:
        _refuse_outside(labels.numpy(), ids, classes)


def check_listed(labels: Tensor, listed: NDArray[np.int64], ids: Ids) -> None:
    """Raises DataError where the ``labels`` int64 (rows,) of items are not those that the data set
    has ``listed`` for all samples, as ``data.labels``: ledgers and plans go by these."""
    differing = np.flatnonzero(labels.cpu().numpy() != listed[ids])
    if len(differing):
        first = differing[0]
        raise DataError(
            f"sample {ids[first]} has label {labels[first]}, and data.labels says "
            f"{listed[ids[first]]}: correct one of them, or leave data.labels out"
        )


def check_same_data(data: Dataset, ledger: Ledger, targets: Targets | None) -> None:
    """Refuse what was made on other data, or on these before they changed.

    Raises:
        LedgerError: the ledger that a training goes on from.
        TargetsError: the stored soft targets.
    """
    known = ledger.about.get("data")
    if ledger.epochs > 0 and known is not None and known != data_digest(data):
        raise LedgerError(
            "the ledger to go on from was made on other data, or these have changed: start with a "
            "new one"
        )
    if targets is not None:
        targets.check(None, data)


def check_held_out(data: Dataset, eval_dataset: Dataset) -> None:
    """Refuse held-out data whose labels or pictures do not mean what those of ``data`` mean, as far
    as both say it.

    Raises:
        DataError: their classes have other names or another order, or their pictures are normalised
            otherwise.
    """
    ours, theirs = class_names(data), class_names(eval_dataset)
    if ours and theirs and ours != theirs:
        place = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)  # noqa: B905
        said = f"{len(ours)} and {len(theirs)}"
        if place is not None:
            said = f"class {place} is {ours[place][:40]!r} and {theirs[place][:40]!r}"
        raise DataError(
            f"training and held-out data have other classes, or another order of them ({said}): "
            "their labels must count the same classes"
        )
    if isinstance(data, Pictures) and isinstance(eval_dataset, Pictures):
        ours, theirs = (data.mean, data.std), (eval_dataset.mean, eval_dataset.std)
        if ours != theirs:
            raise DataError(
                f"training pictures are normalised by mean and std {ours}, held-out ones by "
                f"{theirs}: give both the same"
            )


def check_trainable(model: object) -> None:
    """Raises ModelError unless ``model`` is a module that has something to train."""
    check_model(model)
    assert isinstance(model, nn.Module)
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        if not parameters:
            raise ModelError("the model has no parameters: there is nothing to train")
        raise ModelError(
            f"all {len(parameters)} parameters of the model are frozen: set requires_grad of those "
            "that are to learn"
        )
    check_real(model)


def check_real(model: nn.Module) -> None:
    """Raises ModelError where a parameter is complex: its gradients could not be checked."""
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise ModelError(
                f"parameter {name} is complex ({parameter.dtype}): keep its real and imaginary "
                "parts as a real parameter, see torch.view_as_complex"
            )


def check_pair(student: nn.Module, teacher: object) -> None:
    """Raises ModelError where training the student would change its teacher."""
    if not isinstance(teacher, nn.Module):
        return
    if teacher is student:
        raise ModelError("teacher and student are the same object: give a copy as the teacher")
    trained = {id(parameter) for parameter in student.parameters() if parameter.requires_grad}
    for name, parameter in teacher.named_parameters():
        if id(parameter) in trained:
            raise ModelError(
                f"teacher and student share the parameter {name}, which training would change: "
                "give a copy as the teacher, or freeze it"
            )


def explained(
    error: NonFiniteLoss,
    model: nn.Module,
    data: Dataset,
    targets: Targets | None,
    *,
    forward: Forward,
    device: torch.device,
    collate_fn: Collate | None = None,
) -> NonFiniteLoss:
    """The same error, naming the inputs or the teacher where one of these is to blame: the bad
    samples are looked at again (in view 0)."""
    ids = np.asarray(error.ids, dtype=np.int64)
    where = {"epoch": error.epoch, "step": error.step}
    batch = _read(data, ids, device, collate_fn)
    bad = _non_finite(split(batch)[0], len(ids))
    if bad.any():  # a model may ignore what is not finite
        with inference_mode(model):
            bad &= not_finite(run_model(forward, batch, ids))
    if bad.any():
        what, advice = "the data set's input", "clean or leave out these samples"
        return NonFiniteLoss(**where, ids=ids[bad].tolist(), what=what, advice=advice)
    for name, live in ({} if targets is None else targets.live_teachers).items():
        bad = _non_finite(live.run(batch), len(ids))
        if bad.any():
            whose = "the teacher" if name == "teacher" else name
            what, advice = f"{whose}'s output", "look at the teacher, or ask it in fp32"
            return NonFiniteLoss(**where, ids=ids[bad].tolist(), what=what, advice=advice)
    return error


def _refuse_outside(labels: NDArray[np.int64], ids: Ids, classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if not len(outside):
        return
    hint = f"labels 0 .. {classes - 1} are possible"
    if labels.min() == 1 and labels.max() == classes:
        hint += "; these seem to count from 1"
    first = outside[0]
    raise DataError(
        f"sample {ids[first]} has label {labels[first]}, and the model {classes} classes: {hint}"
    )


def _refuse_non_finite(inputs: Any, logits: Tensor, ids: Ids) -> None:
    """Raises DataError, or ModelError where inputs are not to blame, for logits of no use."""
    bad = not_finite(logits)
    if not bad.any():
        return
    named = bad & _non_finite(inputs, len(ids))
    if named.any():
        raise DataError(
            f"the inputs of samples {few(ids[named].tolist())} are not finite: clean them"
        )
    raise ModelError(
        f"the model's outputs for samples {few(ids[bad].tolist())} are not finite, and the inputs "
        "are: look at its weights"
    )


def _read(data: Dataset, ids: Ids, device: torch.device, collate_fn: Collate | None) -> Any:
    """The batch of ``ids`` in view 0 on the device."""
    with streams_restored(), open_source(data, collate_fn=collate_fn) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    return send_to_device(batch, device)


def _non_finite(value: Any, rows: int) -> NDArray[np.bool_]:
    """Which of ``rows`` rows hold a number that is not finite, in any tensor of ``value``."""
    bad = np.zeros(rows, dtype=bool)
    if isinstance(value, Tensor):
        if value.dtype.is_floating_point and value.ndim and len(value) == rows:
            bad = ~torch.isfinite(value.reshape(rows, -1)).all(dim=1).cpu().numpy()
    elif isinstance(value, Mapping):
        for part in value.values():
            bad |= _non_finite(part, rows)
    elif isinstance(value, tuple | list):
        for part in value:
            bad |= _non_finite(part, rows)
    return bad
