"""Inputs, labels and logits of a batch, whatever the user's data set and model return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from frugalkd.errors import DataError, FrugalKDError, ModelError, UnsupportedData, few
from frugalkd.files.parsing import one_line
from frugalkd.runtime.failures import blame


def split(data: Any) -> tuple[Any, Tensor | None]:
    """Inputs and labels of a batch. A pair is (inputs, labels); a mapping may hold ``label`` or
    ``labels`` (its inputs are the rest); anything else is inputs without labels."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        if len(data) == 1:
            return data[0], None
        if len(data) == 2 and isinstance(data[1], Tensor):
            return data[0], checked_labels(data[1])
        if len(data) == 2 and _is_text(data[1]):
            checked_labels(data[1])
        second = f" whose second is a {type(data[1]).__name__}" if len(data) == 2 else ""
        raise UnsupportedData(
            f"a batch of {len(data)} parts{second} is not (inputs, labels): return a pair or a "
            "dict with 'labels', or pass labels= and forward= to the selection"
        )
    if isinstance(data, Mapping):
        for key in ("labels", "label"):
            if key in data:
                return {name: data[name] for name in data if name != key}, checked_labels(data[key])
    return data, None


def inputs_of(data: Any) -> Any:
    """The inputs of a batch."""
    return split(data)[0]


def labels_by(read: Callable[[Any], Any], data: Any) -> Tensor | None:
    """The labels of a batch by the user's function ``read``. Raises DataError where it fails,
    UnsupportedData where these are none."""
    try:
        labels = read(data)
    except Exception as error:
        blame(error, DataError, "the function given as labels fails on a batch")
    return None if labels is None else checked_labels(labels)


def checked_labels(labels: Any) -> Tensor:
    """``labels`` int64 (rows,). Raises UnsupportedData unless they are class indices."""
    if not isinstance(labels, Tensor):
        text = _is_text(labels)
        what = f"text ({one_line(labels[0], 40)!r}, ...)" if text else f"a {type(labels).__name__}"
        raise UnsupportedData(f"labels are {what}: class indices (int64) are needed")
    if labels.ndim != 1:
        raise UnsupportedData(
            f"labels of shape {tuple(labels.shape)}: one class index a sample is needed; "
            "multi-label and mixed targets have no gate"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise UnsupportedData(
            f"labels of type {labels.dtype}: class indices (int64) are needed; regression has no "
            "gate"
        )
    return labels.long()


def _is_text(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and isinstance(value[0], str)


def call(model: Any, inputs: Any, whose: str = "the model") -> Tensor:
    """Logits of a model for inputs: a mapping goes by keyword, and ``.logits`` is unwrapped.
    Raises ModelError."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{whose} returns a {type(output).__name__}: return logits (rows, classes), or an "
            "object that has them as .logits"
        )
    return logits


def check_model(model: object, whose: str = "the model") -> None:
    """Raises ModelError unless ``model`` is a module with initialised weights."""
    if not isinstance(model, nn.Module):
        said = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"{whose} is no torch module ({said}): give an instance of nn.Module")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"{name} of {whose} is not initialised (a lazy module): call the model once on a "
                "batch, then give it"
            )
        if tensor.is_meta:
            raise ModelError(
                f"{name} of {whose} has no data (device meta): load its weights, then give it"
            )


def run_model(
    forward: Callable[[Any], Tensor],
    data: Any,
    ids: NDArray[np.int64] | None,
    whose: str = "the model",
) -> Tensor:
    """The output of ``forward`` for the batch ``data`` of the samples ``ids`` int64 (rows,), None
    where they are not known: every forward pass for a batch. Raises ModelError."""
    try:
        logits = forward(data)
    except Exception as error:
        which = "a batch" if ids is None else f"samples {few(ids.tolist())}"
        blame(error, ModelError, f"{whose} fails on {which}")
    return checked_logits(logits, None if ids is None else len(ids), whose)


def checked_logits(
    logits: Any,
    rows: int | None,
    whose: str = "the model",
    kind: type[FrugalKDError] = ModelError,
) -> Tensor:
    """``logits`` themselves. Raises ``kind`` unless they are dense floating-point numbers (rows,
    classes), of any number of rows where that is not known."""
    if not isinstance(logits, Tensor):
        raise kind(
            f"the forward of {whose} gives a {type(logits).__name__}: logits (rows, classes) are "
            "needed"
        )
    if logits.ndim != 2 or rows not in (None, len(logits)) or not logits.shape[1]:
        raise kind(
            f"{whose} gives outputs of shape {tuple(logits.shape)} for {rows or 'some'} rows: "
            "logits (rows, classes) are needed"
        )
    if not logits.dtype.is_floating_point or logits.is_meta or logits.layout != torch.strided:
        raise kind(
            f"{whose} gives outputs of type {logits.dtype} ({logits.layout}, on {logits.device}): "
            "dense floating-point logits are needed"
        )
    return logits


def not_finite(logits: Tensor) -> NDArray[np.bool_]:
    """Which rows have no probabilities. A class may have none alone, by a logit of -inf."""
    return ~torch.isfinite(torch.softmax(logits.float(), dim=1)).all(dim=1).cpu().numpy()


def refuse_not_finite(logits: Tensor, ids: NDArray[np.int64], whose: str = "the model") -> None:
    """Raises ModelError where a row of ``logits``, those of ``ids``, has no probabilities."""
    bad = not_finite(logits)
    if bad.any():
        raise ModelError(
            f"the outputs of {whose} for samples {few(ids[bad].tolist())} are not finite: check "
            "these samples and its weights"
        )


def rows_of(data: Any, index: Any) -> Any:
    """The rows ``index`` of every tensor in ``data``."""
    if type(data) is tuple and all(type(part) is Tensor for part in data):
        return tuple([part[index] for part in data])  # what most data are, and without a detour
    return recursively_apply(lambda tensor: tensor[index], data, error_on_other_type=True)
