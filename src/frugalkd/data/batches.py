"""Inputs, labels and logits of a batch, whatever the user's data set and model return."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import pad_sequence

from frugalkd.errors import DataError, FrugalKDError, ModelError, UnsupportedData, few
from frugalkd.outputs import ONE_CLASS, Output
from frugalkd.runtime.failures import blame

UNSUPPORTED = (
    "is not supported yet: give a classifier, one class a sample (of transformers "
    "AutoModelForSequenceClassification or AutoModelForImageClassification)"
)
ADD_HEAD = (
    "add a linear layer with one output a class (of transformers use "
    "AutoModelForSequenceClassification or AutoModelForImageClassification)"
)
_EMBEDDINGS = r"hidden_state|pooler_output|embed"


def split(data: Any, output: Output = ONE_CLASS) -> tuple[Any, Tensor | None]:
    """Inputs and labels of a batch. A pair is (inputs, labels); a mapping may hold ``label`` or
    ``labels`` (its inputs are the rest); anything else is inputs without labels. Labels are not
    read where a kind of output has none."""
    inputs, labels = _parts(data)
    if labels is None or not output.labelled:
        return inputs, None
    return inputs, checked_labels(labels, output)


def inputs_of(data: Any, *, channels_last: bool = False) -> Any:
    """The inputs of a batch; ``channels_last``: the memory format of those of 4 dimensions."""
    inputs = _parts(data)[0]
    if channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def _parts(data: Any) -> tuple[Any, Any]:
    """Inputs and labels, whatever these are."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        if len(data) == 1:
            return data[0], None
        if len(data) == 2 and isinstance(data[1], Tensor):
            return data[0], data[1]
        raise UnsupportedData(
            f"a batch of the form {form(data)} is not (inputs, class indices): return a pair or a "
            "dict with 'labels', or pass labels= and forward= to the selection"
        )
    if isinstance(data, Mapping):
        for key in ("labels", "label"):
            if key in data:
                return {name: data[name] for name in data if name != key}, data[key]
    return data, None


def labels_by(read: Callable[[Any], Any], data: Any, output: Output = ONE_CLASS) -> Tensor | None:
    """The labels of a batch by the user's function ``read``. Raises DataError where it fails,
    UnsupportedData where these are none."""
    try:
        labels = read(data)
    except Exception as error:
        blame(error, DataError, "the function given as labels fails on a batch")
    return None if labels is None else checked_labels(labels, output)


def checked_labels(labels: Any, output: Output = ONE_CLASS) -> Tensor:
    """``labels`` in the form that the kind of ``output`` has, by default int64 (rows,). Raises
    UnsupportedData where they are none."""
    made = output.as_labels(labels) if isinstance(labels, Tensor) else None
    if made is None:
        raise UnsupportedData(f"labels are {form(labels)}: {output.label_form}")
    return made


def form(value: Any) -> str:
    """What ``value`` is made of: ``(float32 (3, 32, 32), int)``."""
    if isinstance(value, Tensor | np.ndarray):
        kind = type_name(value)
        if isinstance(value, Tensor) and value.layout != torch.strided:
            kind += f" {value.layout}".replace("torch.", "")
        if isinstance(value, Tensor) and value.is_meta:
            kind += " without data"
        return f"{kind} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {form(value[key])}" for key in list(value)[:8]) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(form, value[:8])) + (", ...)" if len(value) > 8 else ")")
    return "None" if value is None else type_name(value)


def type_name(value: Any) -> str:
    """``float32`` of a tensor, an array or a number of numpy's, else the name of the type."""
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else str(dtype).removeprefix("torch.")


def call(model: Any, inputs: Any) -> Any:
    """What a model returns for inputs, as :func:`unwrapped`; a mapping goes by keyword."""
    return unwrapped(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))


def unwrapped(output: Any) -> Any:
    """The ``logits`` of an object or a dictionary that has them, else ``output`` itself."""
    found = output.get("logits") if isinstance(output, Mapping) else None
    return getattr(output, "logits", output) if found is None else found


def check_model(model: object, whose: str = "the model") -> None:
    """Raises ModelError unless ``model`` is a module with initialised weights."""
    if not isinstance(model, nn.Module):
        said = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"{whose} is not a torch module ({said}): give an instance of nn.Module")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(
                f"{name} of {whose} is not initialised (a lazy module, or device meta): call the "
                "model once on a batch, or load its weights, then give it"
            )


def run_model(
    forward: Callable[[Any], Tensor],
    data: Any,
    ids: NDArray[np.int64] | None,
    whose: str = "the model",
) -> Tensor:
    """The output of ``forward`` for the batch ``data`` of the samples ``ids`` int64 (rows,), None
    where they are not known. Raises ModelError."""
    try:
        logits = unwrapped(forward(data))
    except Exception as error:
        which = "a batch" if ids is None else f"samples {few(ids.tolist())}"
        blame(error, ModelError, f"{whose} fails on {which}{_about_texts(data, error)}")
    return checked_logits(logits, None if ids is None else len(ids), whose)


def _about_texts(data: Any, error: Exception) -> str:
    """What a model was given that texts are often given as, for an error."""
    inputs = data[0] if isinstance(data, tuple | list) and data else data
    if isinstance(inputs, tuple | list) and inputs and isinstance(inputs[0], str):
        return ", whose inputs are texts: give token ids, as the data set 'hugging-face' does"
    ids = data.get("input_ids") if isinstance(data, Mapping) else None
    if isinstance(error, IndexError) and isinstance(ids, Tensor) and ids.numel():
        return f", whose token ids reach {int(ids.max())}"
    return ""


def checked_logits(
    logits: Any, rows: int | None, whose: str = "the model", kind: type[FrugalKDError] = ModelError
) -> Tensor:
    """``logits`` themselves. Raises ``kind`` unless they are dense floating-point numbers (rows,
    classes), of any number of rows where that is not known."""
    dense = isinstance(logits, Tensor) and logits.layout == torch.strided and not logits.is_meta
    fits = dense and logits.dtype.is_floating_point and logits.ndim == 2 and logits.shape[1] > 0
    if not fits or rows not in (None, len(logits)):
        given = form(logits) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if isinstance(logits, Mapping):
            given += f" of {few(list(logits))}"
        raise kind(f"{whose} gives {given} for {rows or 'some'} rows: {_needed(logits)}")
    return logits


def _needed(output: Any) -> str:
    """What a model has to give in place of ``output``."""
    if isinstance(output, Mapping) and "start_logits" in output:
        return f"question answering {UNSUPPORTED}"
    if isinstance(output, Mapping) and any(re.search(_EMBEDDINGS, str(key)) for key in output):
        return (
            f"these are embeddings and no logits of classes: {ADD_HEAD}; to learn embeddings "
            "(EmbedDistill), return them alone"
        )
    if isinstance(output, Tensor) and output.ndim == 3:
        return (
            "one row of logits a sample is needed, not one a token: a language model learns a "
            f"Corpus (frugalkd.language), token classification {UNSUPPORTED}; of hidden states, "
            f"{ADD_HEAD}"
        )
    return (
        "a dense floating-point tensor (rows, classes), or an object or dict that has it as "
        "logits, is needed"
    )


def refuse_not_finite(
    outputs: Tensor,
    ids: NDArray[np.int64],
    whose: str = "the model",
    output: Output = ONE_CLASS,
) -> None:
    """Raises ModelError where a row of ``outputs``, those of ``ids``, says nothing."""
    bad = output.not_finite(outputs).cpu().numpy()
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


def join_padded(
    batches: Sequence[Mapping[str, Any]], padding: int = 0, side: str = "right"
) -> dict[str, Any]:
    """Several batches as one, in their order: rows that are shorter are padded in their second
    dimension on this ``side``, token ids with ``padding`` and all else with zeros."""
    joined = {}
    for key in batches[0]:
        parts = [batch[key] for batch in batches]
        if not isinstance(parts[0], Tensor):  # one for all rows, such as the kind of inputs
            joined[key] = parts[0]
        elif len({part.shape[1:] for part in parts}) == 1:
            joined[key] = torch.cat(parts)
        else:
            rows = [row for part in parts for row in part]
            value = padding if key.endswith("input_ids") else 0
            joined[key] = pad_sequence(rows, True, value, side)
    return joined
