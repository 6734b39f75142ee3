"""Checks before a training: of data, labels and models; and the cause of one that diverged."""

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

from frugalkd.data.batches import (
    ADD_HEAD,
    UNSUPPORTED,
    check_model,
    inputs_of,
    labels_by,
    run_model,
    split,
)
from frugalkd.data.class_names import attribute_of, class_names, class_order
from frugalkd.data.images import Pictures
from frugalkd.data.probe import streams_restored
from frugalkd.data.source import Collate, open_source, refuse_mixed
from frugalkd.errors import (
    DataError,
    FrugalKDWarning,
    ModelError,
    NonFiniteLoss,
    TargetsError,
    UnsupportedData,
    few,
)
from frugalkd.models.identity import inference_mode
from frugalkd.models.origin import label_names, origin_of
from frugalkd.outputs import ONE_CLASS, Output
from frugalkd.policies.policy import Ids, Policy
from frugalkd.teachers import Targets

Forward = Callable[[Any], Tensor]

_FIRST = 2
"""Samples that are evaluated before a training."""


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
    read_labels: Callable[[Any], Tensor | None] | None = None,
    known_labels: NDArray | None = None,
    output: Output = ONE_CLASS,
) -> int:
    """Evaluate the first samples of ``pool`` as a training would; returns how many outputs (or
    classes) the model has. Nothing of the model, the data or a random stream changes, and nothing
    is metered. ``known_labels``: of all samples, where they are known.

    Raises UnsupportedData, DataError, ModelError or TargetsError where model, data and soft targets
    do not fit each other.
    """
    batch = read_first(data, pool, device, collate_fn)
    labels, logits = _evaluate_first(model, batch, pool, forward, read_labels, output)
    classes = logits.shape[1]
    if not output.labelled:
        return classes
    if output.by_top_class:
        _refuse_embeddings(model, logits, data, known_labels)
    if not label_free:
        if output.by_top_class:
            _warn_of_embeddings(classes, data, known_labels)
        if labels is not None:
            output.check(labels.cpu(), pool, classes)
        check_labels(data, pool, classes, output)
    known = None if targets is None else targets.classes(batch)
    if known is not None and known != classes:
        raise TargetsError(
            f"the teacher has {known} {output.plural} and the student {classes}: build both for "
            f"the same {output.plural}"
        )
    return classes


def check_held_out_batch(
    model: nn.Module,
    data: Dataset,
    *,
    forward: Forward,
    device: torch.device,
    collate_fn: Collate | None = None,
    output: Output = ONE_CLASS,
) -> None:
    """As :func:`check_first_batch`, for held-out data, which need labels where the kind of output
    has some; errors name them."""
    with of_held_out():
        pool = np.arange(len(data))  # pyright: ignore[reportArgumentType]
        if not len(pool):
            raise UnsupportedData("the data set is empty: there is nothing to evaluate")
        batch = read_first(data, pool, device, collate_fn)
        labels, logits = _evaluate_first(model, batch, pool, forward, output=output)
        classes = logits.shape[1]
        if not output.labelled:
            return
        if labels is None:
            raise ModelError("data without labels cannot be evaluated: give labels, or predict")
        output.check(labels.cpu(), pool, classes)
        if (listed := labels_of(data, output)) is not None:
            output.check(torch.from_numpy(listed), pool, classes)


def _evaluate_first(
    model: nn.Module,
    batch: Any,
    pool: Ids,
    forward: Forward,
    read_labels: Callable[[Any], Tensor | None] | None = None,
    output: Output = ONE_CLASS,
) -> tuple[Tensor | None, Tensor]:
    """The labels of a batch that :func:`read_first` returned, and the model's outputs."""
    ids = pool[:_FIRST]
    if read_labels is None:
        inputs, labels = split(batch, output)
    else:
        inputs, labels = batch, labels_by(read_labels, batch, output)
    with inference_mode(model):
        logits = run_model(forward, batch, ids)
    bad = output.not_finite(logits).cpu().numpy()
    named = bad & _non_finite(inputs, len(ids))
    if named.any():
        raise DataError(
            f"the inputs of samples {few(ids[named].tolist())} are not finite: clean them"
        )
    if bad.any():
        raise ModelError(
            f"the model's outputs for samples {few(ids[bad].tolist())} are not finite, and the "
            "inputs are: check its weights"
        )
    return labels, logits


@contextmanager
def of_held_out() -> Iterator[None]:
    """Errors inside say that they are about the held-out data."""
    try:
        yield
    except (DataError, ModelError) as error:
        raise type(error)(f"held-out data: {error}") from error


def read_first(
    data: Dataset,
    ids: Ids,
    device: torch.device,
    collate_fn: Collate | None = None,
    rows: int = _FIRST,
) -> Any:
    """The batch of the first ``rows`` samples of ``ids``, in view 0, on ``device``."""
    ids = ids[:rows]
    with streams_restored(), open_source(data, collate_fn=collate_fn) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    return send_to_device(batch, device)


def why_not_label_free(
    policy: Policy, *, uses_teacher: bool, targets_read_labels: bool
) -> str | None:
    """Why a training that reads no label is impossible, in one line; None where it is possible."""
    name = type(policy).__name__
    if not uses_teacher:
        return "label-free training learns from a teacher alone: choose an objective that reads one"
    if targets_read_labels:
        return "label-free training cannot weigh teachers by confidence in a label: combine by mean"
    if policy.scoring is not None:
        return f"{name} is scored by trainings on labels, which label-free training does without"
    if getattr(policy, "label_noise", "off") != "off":
        return (
            f"{name} doubts labels, which label-free training does not read: leave label_noise out"
        )
    if policy.needs_labels and not policy.labels_optional:
        return (
            f"{name} plans by class, and label-free training has none: choose another budget_rule"
        )
    return None


def labels_of(data: Dataset, output: Output = ONE_CLASS) -> NDArray[Any] | None:
    """``data.labels`` int64 (samples,), or in the form that the kind of ``output`` has, where the
    data set has them and the kind has labels; texts of another number are most likely the names of
    the classes, and no labels. Raises UnsupportedData."""
    given = attribute_of(data, "labels") if output.labelled else None
    if given is None or callable(given):
        return None
    samples = len(data)  # pyright: ignore[reportArgumentType]
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu()
            given = given.float() if given.dtype == torch.bfloat16 else given
        labels = np.asarray(given)
    except ValueError:  # rows of different lengths
        labels = np.asarray(given, dtype=object)
    if labels.dtype.kind in "US" and labels.shape != (samples,):
        return None
    made = None
    if labels.dtype.kind in "biuf" and labels.shape[:1] == (samples,):
        # A copy: a tensor that is sent to workers leaves its memory.
        copied = labels.astype(np.int64 if labels.dtype.kind == "u" else labels.dtype)
        made = output.as_labels(torch.from_numpy(copied))
    if made is None:
        raise UnsupportedData(
            f"data.labels are of type {labels.dtype} and shape {labels.shape} for {samples} "
            f"samples: {output.label_form}"
        )
    return made.numpy()


def check_labels(data: Dataset, pool: Ids, classes: int, output: Output = ONE_CLASS) -> None:
    """Check the ``labels`` of a data set that has them, of the samples ``pool``: they have to be
    possible for the model. A class of ``data.classes`` that none of them has is a FrugalKDWarning:
    it cannot be learned."""
    labels = labels_of(data, output)
    if labels is None or not len(pool):
        return
    labels = labels[pool]
    output.check(torch.from_numpy(labels), pool, classes)
    if output.name == "regression":
        return
    names = class_names(data)
    known = labels if output.by_top_class else np.flatnonzero(labels.any(axis=0))
    missing = [str(names[index]) for index in np.setdiff1d(np.arange(len(names)), known)]
    if missing:
        warnings.warn(
            f"no sample that is used is of {len(missing)} of the {len(names)} classes ("
            f"{', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}): the model cannot "
            "learn them",
            FrugalKDWarning,
            stacklevel=2,
        )


def check_listed(labels: Tensor, listed: NDArray[Any], ids: Ids) -> None:
    """Raises DataError where the ``labels`` (rows, ...) of items are not those that the data set
    has ``listed`` for all samples, as ``data.labels``: ledgers and plans go by these."""
    other = labels.cpu().numpy() != listed[ids]
    differing = np.flatnonzero(other.reshape(len(ids), -1).any(axis=1))
    if len(differing):
        first = differing[0]
        raise DataError(
            f"sample {ids[first]} has label {labels[first].tolist()}, and data.labels says "
            f"{listed[ids[first]].tolist()}: correct one of them, or leave data.labels out"
        )


def check_held_out(data: Dataset, eval_dataset: Dataset) -> None:
    """Raises DataError for held-out data whose classes have other names or another order than those
    of ``data``, or whose pictures are normalised otherwise; UnsupportedData for mixed views."""
    refuse_mixed(eval_dataset)
    ours, theirs = class_names(data), class_names(eval_dataset)
    if ours and theirs and ours != theirs:
        pairs = enumerate(zip(ours, theirs, strict=False))
        other = [f"class {i} is {a[:40]!r} and {b[:40]!r}" for i, (a, b) in pairs if a != b]
        said = other[0] if other else f"{len(ours)} and {len(theirs)}"
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


def check_trainable(model: nn.Module, *, classifier: bool = True) -> None:
    """Raises ModelError unless ``model`` is a ``classifier`` with parameters that are trained."""
    check_weights(model)
    if classifier:
        check_task(model)
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        if not parameters:
            raise ModelError("the model has no parameters: there is nothing to train")
        raise ModelError(
            f"all {len(parameters)} parameters of the model are frozen: set requires_grad of those "
            "that are to be trained"
        )


CAUSAL = "causal language modelling"
_TASKS = {
    "ForCausalLM": CAUSAL,
    "LMHeadModel": CAUSAL,
    "ForMaskedLM": "masked language modelling",
    "ForConditionalGeneration": "sequence-to-sequence generation",
    "ForSeq2SeqLM": "sequence-to-sequence generation",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
}


def task_of(model: nn.Module) -> str | None:
    """What a model of transformers that is not a classifier is for, by the name of its class."""
    name = type(model).__name__.removesuffix("Simple")
    return next((task for suffix, task in _TASKS.items() if name.endswith(suffix)), None)


def check_task(model: nn.Module) -> None:
    """Raises ModelError for a model of transformers that is not a classifier."""
    name, task = type(model).__name__, task_of(model)
    if task == CAUSAL:
        raise ModelError(
            f"{name} is for {task}, and the data set is not a Corpus: make one with "
            "frugalkd.language.tokenize_corpus (docs/language.md)"
        )
    if task is not None:
        raise ModelError(f"{name} is for {task}, which {UNSUPPORTED}")


def _refuse_embeddings(
    model: nn.Module, logits: Tensor, data: Dataset, labels: NDArray | None
) -> None:
    """Raises ModelError where the outputs (rows, width) are most likely embeddings: where they are
    hidden states by their width, or of length 1, or others than ``config.num_labels``; and not as
    many as there are classes."""
    width = logits.shape[1]
    known = 0 if labels is None else int(labels.max()) + 1
    if width in (len(class_names(data)), len(origin_of(model).classes), known):
        return
    config, configs = getattr(model, "config", None), {}
    for module in model.modules():
        own = getattr(module, "config", None)
        configs[id(own)] = own
    wanted = getattr(config, "num_labels", None)
    if wanted == width:
        return
    why, rows = "", logits.float()
    if any(getattr(each, "hidden_size", None) == width for each in configs.values()):
        why = "as many as its hidden states have"
    elif width > 2 and bool(((rows.norm(dim=1) - 1).abs() < 1e-3).all() and rows.min() < 0):
        why = "of length 1, as embeddings are"
    elif isinstance(wanted, int) and wanted > 2:  # 2 is the default of every configuration
        why = f"where config.num_labels is {wanted}"
    if why:
        raise ModelError(
            f"the model gives {width} numbers a sample, {why}, and no logits: {ADD_HEAD}; or, "
            "where they are logits, name the classes (frugalkd.models.name_classes)"
        )


def _warn_of_embeddings(width: int, data: Dataset, labels: NDArray | None) -> None:
    """A FrugalKDWarning where more than half of the outputs are of no class that the data name, or
    of no label of many samples: a model may have such outputs, so that this is not an error."""
    classes, known = len(class_names(data)), "name {} classes"
    if not classes and labels is not None and len(labels) >= 10 * width:
        classes, known = int(labels.max()) + 1, "have labels of {} classes"
    if 1 < classes < width / 2:
        warnings.warn(
            f"the model gives {width} numbers a sample, and the data {known.format(classes)}: if "
            f"these are embeddings and no logits, {ADD_HEAD}",
            FrugalKDWarning,
            stacklevel=2,
        )


def check_weights(model: nn.Module) -> None:
    """Raises ModelError unless ``model`` is a module of initialised weights, none of them complex:
    gradients of these could not be checked."""
    check_model(model)
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise ModelError(
                f"parameter {name} is complex ({parameter.dtype}): keep its real and imaginary "
                "parts as a real parameter, see torch.view_as_complex"
            )


def check_pair(student: nn.Module, teacher: nn.Module) -> None:
    """Raises ModelError where training the student would change its teacher; TargetsError where
    both are of transformers, and the classes that they name differ (in more than case), or the
    teacher has those of the student's config in another order."""
    if teacher is student:
        raise ModelError("teacher and student are the same object: give a copy as the teacher")
    trained = {id(parameter) for parameter in student.parameters() if parameter.requires_grad}
    for name, parameter in teacher.named_parameters():
        if id(parameter) in trained:
            raise ModelError(
                f"teacher and student share the parameter {name}, which training would change: "
                "give a copy as the teacher, or freeze it"
            )
    own, theirs = label_names(student), origin_of(teacher).classes or label_names(teacher)
    own, theirs = (tuple(map(str.casefold, names)) for names in (own, theirs))
    if label_names(teacher) or sorted(own) == sorted(theirs):
        class_order(theirs, own, "same", of="the student")


def explained(
    error: NonFiniteLoss,
    model: nn.Module,
    data: Dataset,
    targets: Targets | None,
    *,
    forward: Forward,
    device: torch.device,
    collate_fn: Collate | None = None,
    output: Output = ONE_CLASS,
) -> NonFiniteLoss:
    """The same error, naming the inputs or the teacher where one of these is the cause: the bad
    samples are evaluated again (in view 0)."""
    ids = np.asarray(error.ids, dtype=np.int64)
    batch = read_first(data, ids, device, collate_fn, len(ids))
    where: dict[str, int] = {"epoch": error.epoch, "step": error.step}
    bad = _non_finite(inputs_of(batch), len(ids))
    if bad.any():  # a model may ignore what is not finite
        with inference_mode(model):
            bad &= output.not_finite(run_model(forward, batch, ids)).cpu().numpy()
    if bad.any():
        what, advice = "the data set's input", "clean or leave out these samples"
        return NonFiniteLoss(**where, ids=ids[bad].tolist(), what=what, advice=advice)
    for name, live in ({} if targets is None else targets.live_teachers).items():
        bad = live.bad_rows(batch, len(ids))
        if bad.any():
            whose = "the teacher" if name == "teacher" else name
            what, advice = f"{whose}'s output", "check the teacher, or run it in fp32"
            return NonFiniteLoss(**where, ids=ids[bad].tolist(), what=what, advice=advice)
    return error


def _non_finite(value: Any, rows: int) -> NDArray[np.bool_]:
    """Which of ``rows`` rows hold a number that is not finite, in any tensor of ``value``."""
    bad = np.zeros(rows, dtype=bool)
    if isinstance(value, Tensor):
        if value.dtype.is_floating_point and value.ndim and len(value) == rows:
            bad = ~torch.isfinite(value.reshape(rows, -1)).all(dim=1).cpu().numpy()
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            bad |= _non_finite(part, rows)
    return bad
