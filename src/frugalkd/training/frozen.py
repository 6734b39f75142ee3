"""Features of a model that does not change: the inputs of its last linear layer, computed once for
each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, randomness
from frugalkd.data.source import Collate, check_map_style
from frugalkd.errors import ModelError, UnsupportedData
from frugalkd.models.identity import identity
from frugalkd.models.initial import head_of
from frugalkd.selection.checks import check_listed, labels_of
from frugalkd.training.evaluation import in_order, predict


@final
class Features(TensorDataset):
    """``features`` float32 (N, width) and ``labels`` int64 (N,), in memory; ``made_of`` names the
    data and the model that they are of."""

    def __init__(self, features: Tensor, labels: Tensor, classes: tuple[str, ...], made_of: str):
        super().__init__(features, labels)
        self.features, self.labels, self.classes = features, labels, classes
        self._made_of = made_of

    @property
    def row_bytes(self) -> int:
        return 4 * self.features.shape[1] + 8

    def digest(self) -> str:
        """Of ``made_of``: the last digits of features may differ between ranks."""
        return hashlib.sha256(self._made_of.encode()).hexdigest()

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.array(ids, dtype=np.int64))
        return self.features.index_select(0, rows), self.labels.index_select(0, rows)


def features_of(
    model: nn.Module,
    dataset: Dataset,
    *,
    accelerator: Accelerator | None = None,
    collate_fn: Collate | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Features:
    """The input of the model's last linear layer for each sample, in eval mode, by
    :func:`predict`'s arguments. Raises ModelError where the logits are not what that layer computes
    from it, UnsupportedData for random data, Stopped."""
    check_map_style(dataset)
    samples = len(dataset)  # pyright: ignore[reportArgumentType]
    if not samples:
        raise UnsupportedData("the data set is empty: there is nothing to train on")
    if randomness(dataset):
        raise UnsupportedData(
            "this data set gives other inputs at each access, and so has no features to keep: give "
            "it a method view(id, view), or train the whole model"
        )
    turn, done = in_order(dataset, np.arange(samples)), 0
    features, outputs = torch.empty(0), torch.empty(0)

    def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal features, outputs, done
        if not len(features):
            features = torch.empty(samples, inputs[0].shape[-1])
            outputs = torch.empty(samples, output.shape[-1])
        rows = torch.from_numpy(turn[done : done + len(output)])
        if inputs[0].ndim == 2 and len(rows) == len(output):  # else this is not the last layer
            features[rows] = inputs[0].float().cpu()
            outputs[rows] = torch.softmax(output.float(), dim=1).cpu()
        done += len(output)

    hook = head_of(model)[1].register_forward_hook(keep)
    try:
        probabilities, labels = predict(
            model, dataset, accelerator=accelerator, batch_size=256, collate_fn=collate_fn,
            should_stop=should_stop,
        )  # fmt: skip
    finally:
        hook.remove()
    found = torch.from_numpy(probabilities)
    if done != samples or outputs.shape != found.shape or not torch.allclose(outputs, found):
        raise ModelError(
            "the model's logits are not what its last linear layer gives: a head to train has to "
            "be the last thing that the model does"
        )
    if labels is None:
        labels = probabilities.argmax(axis=1)
    elif (listed := labels_of(dataset)) is not None:
        check_listed(torch.from_numpy(labels), listed, np.arange(samples))
    bf16 = accelerator is not None and accelerator.mixed_precision == "bf16"
    made_of = f"{data_digest(dataset)} {identity(model)} {'bf16' if bf16 else 'fp32'}"
    return Features(features, torch.from_numpy(labels), class_names(dataset), made_of)
