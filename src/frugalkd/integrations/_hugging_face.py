"""What Hugging Face's models, collators and checkpoints need, and what frugalkd needs of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from frugalkd.data.batches import call, inputs_of
from frugalkd.errors import ModelError, RunFolderError, UnsupportedData
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line
from frugalkd.files.tensors import load_tree

STATE = "frugalkd.safetensors"
"""In a checkpoint's folder: the selection's state, no pickle."""
LEDGER = "ledger.safetensors"
"""Beside it: the ledger so far."""


def read_state(folder: Path) -> dict[str, Any]:
    """The selection's state in the folder of a checkpoint. Raises RunFolderError."""
    if not (folder / STATE).is_file():
        raise RunFolderError(
            f"{folder} has no {STATE}: a plain Trainer wrote it, or it was cut off: name another "
            "checkpoint"
        )
    return load_tree(folder / STATE)


class AsDict:
    """A data collator whose batches are plain dictionaries; picklable where the collator is."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]):
        self._collate = collate_fn

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        batch = self._collate(samples)
        if not isinstance(batch, Mapping):
            raise UnsupportedData(
                f"the data collator returns a {type(batch).__name__}: return a dictionary with the "
                "model's arguments and 'labels'"
            )
        return dict(batch)


class Padding:
    """Joins padded batches: shorter ones are padded in their second dimension, on the side and with
    the token of the tokenizer ``processing``, else with zeros on the right."""

    def __init__(self, processing: Any):
        self._side = getattr(processing, "padding_side", "right")
        self._token = getattr(processing, "pad_token_id", None) or 0

    def __call__(self, batches: list[dict[str, Any]]) -> dict[str, Any]:
        return {key: self._joined(key, [batch[key] for batch in batches]) for key in batches[0]}

    def _joined(self, key: str, parts: list[Tensor]) -> Tensor:
        if len({part.shape[1:] for part in parts}) == 1:
            return torch.cat(parts)
        rows = [row for part in parts for row in part]
        value = self._token if key == "input_ids" else 0
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=self._side)


def check_model(model: nn.Module) -> None:
    """Raises UnsupportedData where a model's configuration is one of regression or many labels."""
    config = getattr(model, "config", None)
    kind = getattr(config, "problem_type", None)
    if kind is None and getattr(config, "num_labels", None) == 1:
        kind = "regression"
    if kind in ("regression", "multi_label_classification"):
        raise UnsupportedData(
            f"the model is for {kind.replace('_', ' ')} (config.problem_type, config.num_labels), "
            "which has no gate: one class a sample is needed"
        )


def check_labelled(sample: Any) -> None:
    """Raises UnsupportedData unless a sample names its label as data collators expect it."""
    if isinstance(sample, Mapping) and not {"label", "labels", "label_ids"} & set(sample):
        columns = ", ".join(map(str, sample))
        raise UnsupportedData(
            f"the samples have no 'label' (they have {columns}), and there is no teacher to stand "
            "in: rename the column that holds it"
        )


def logits_of(outputs: Any) -> Tensor:
    """The logits (rows, classes) among what ``compute_loss`` returns beside the loss.

    Raises:
        ModelError: there are none.
    """
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if found is None and isinstance(outputs, tuple | list) and len(outputs) > 1:
        found = outputs[1]
    if not isinstance(found, Tensor):
        raise ModelError(
            f"compute_loss returns a {type(outputs).__name__} without logits: with "
            "return_outputs=True return (loss, outputs), and logits among the outputs"
        )
    return found


def labels_of(data: Any) -> NDArray[np.int64] | None:
    """A Hugging Face data set's column of class indices, None where it is no such thing."""
    features = getattr(data, "features", None) or {}
    for name in ("label", "labels"):
        if str(getattr(features.get(name), "dtype", "")).startswith("int"):
            return np.asarray(data.with_format("numpy")[name][:], dtype=np.int64)
    return None


def teacher_from(name: StrPath, student: nn.Module) -> nn.Module:
    """The classifier in a folder or on the hub, for the same kind of inputs as the student's.

    Raises:
        ModelError: it cannot be loaded.
    """
    pictures = getattr(student, "main_input_name", "input_ids") == "pixel_values"
    kind = (
        transformers.AutoModelForImageClassification
        if pictures
        else transformers.AutoModelForSequenceClassification
    )
    try:
        return kind.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"no teacher at {str(name)!r}: {one_line(error)[:200]}") from error


def forward_of(model: nn.Module) -> Callable[[Any], Tensor]:
    """A model's logits for a batch, of those inputs that its forward names."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def forward(data: Any) -> Tensor:
        inputs = inputs_of(data)
        return call(model, {k: v for k, v in inputs.items() if not names or k in names})

    return forward
