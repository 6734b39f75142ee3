"""What a batch of data is made of, whatever the user's data set returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor

from frugalkd.errors import ModelError, UnsupportedData


def split(data: Any) -> tuple[Any, Tensor | None]:
    """Inputs and labels of a batch.

    A pair is (inputs, labels); a mapping may hold ``label`` or ``labels`` (its inputs are the
    rest); anything else is inputs without labels.
    """
    if isinstance(data, tuple | list) or (isinstance(data, Sequence) and not isinstance(data, str)):
        if len(data) == 1:
            return data[0], None
        if len(data) == 2 and isinstance(data[1], Tensor):
            return data[0], _checked(data[1])
        raise UnsupportedData(
            f"a batch of {len(data)} parts is not (inputs, labels): return a pair or a dict with "
            "'labels', or pass labels= and forward= to the selection"
        )
    if isinstance(data, Mapping):
        for key in ("labels", "label"):
            if key in data:
                return {name: data[name] for name in data if name != key}, _checked(data[key])
    return data, None


def inputs_of(data: Any) -> Any:
    """The inputs of a batch."""
    return split(data)[0]


def _checked(labels: Tensor) -> Tensor:
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


def call(model: Any, inputs: Any) -> Tensor:
    """Logits of a model for inputs: a mapping goes by keyword, and ``.logits`` is unwrapped.

    Raises:
        ModelError: the model returns neither a tensor nor something that has logits.
    """
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model returns a {type(output).__name__}: return logits (rows, classes), or an "
            "object that has them as .logits"
        )
    return logits


def checked_logits(logits: Tensor, rows: int) -> Tensor:
    """``logits`` themselves. Raises ModelError unless they are (rows, classes)."""
    if logits.ndim != 2 or len(logits) != rows:
        raise ModelError(
            f"the model gives outputs of shape {tuple(logits.shape)} for {rows} rows: logits "
            "(rows, classes) are needed"
        )
    return logits


def rows_of(data: Any, index: Any) -> Any:
    """The rows ``index`` of every tensor in ``data``."""
    if type(data) is tuple and all(type(part) is Tensor for part in data):
        return tuple([part[index] for part in data])  # what most data are, and without a detour
    return recursively_apply(lambda tensor: tensor[index], data, error_on_other_type=True)
