"""Training the last linear layer alone, on features that are computed once for each sample."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd.data.batches import check_model
from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, digests_kept, randomness
from frugalkd.data.source import Collate, check_map_style
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, UnsupportedData
from frugalkd.models.flops import flops_of_data
from frugalkd.models.identity import identity
from frugalkd.models.initial import head_of
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.objectives import Objective
from frugalkd.policies import Sampling
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.selection.checks import check_listed, labels_of
from frugalkd.training.api import train_teacher
from frugalkd.training.evaluation import evaluate, in_order, predict
from frugalkd.training.settings import RunOptions, Training
from frugalkd.training.trainer import Run, accelerator_for


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


@digests_kept()
def train_head(
    model: nn.Module,
    dataset: Dataset,
    *,
    sampling: Sampling | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    eval_dataset: Dataset | None = None,
    collate_fn: Collate | None = None,
    reset_head: bool = False,
    seed: int = 0,
    device: str = "auto",
    run: RunOptions | None = None,
) -> Run:
    """Train the last linear layer of ``model`` in place, by default under self-regulation, and
    nothing else of it.

    Features are those of view 0, in eval mode. Where the data have no labels, the model's own top
    class stands in for them. The meters count the features' forward passes too.

    Args:
        model: a module whose logits are those of its last ``nn.Linear``.
        dataset: map-style.
        training: epochs, batch size, optimiser, schedule; its precision and memory format are those
            in which the features are computed.
        reset_head: draw new initial weights for the head, whatever it has learned before.
        seed: of the order of samples and, with ``reset_head``, of the head's initial weights.
        sampling, objective, eval_dataset, collate_fn, device, run: as in
            :func:`frugalkd.train_teacher`.

    Raises:
        ModelError: the model's logits are not those of a linear layer.
        UnsupportedData: the data set is random, so that it has no features to keep.
        NonFiniteLoss, RunFolderError, Stopped: as in :func:`frugalkd.train_teacher`.
    """
    check_model(model)
    check_seed(seed)
    training = Training() if training is None else training
    run = RunOptions() if run is None else run
    check_types(training=(training, Training), run=(run, RunOptions))
    started = time.perf_counter()
    accelerator = accelerator_for(training.precision, device)
    memory = torch.channels_last if training.channels_last else torch.preserve_format
    model.to(accelerator.device, memory_format=memory)  # pyright: ignore[reportCallIssue]
    head = head_of(model)[1]
    features = features_of(
        model, dataset, accelerator=accelerator, collate_fn=collate_fn, should_stop=run.should_stop
    )
    spent = time.perf_counter() - started
    learner = copy.deepcopy(head).requires_grad_(True)
    if reset_head:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner.reset_parameters()
    plain = replace(
        training, precision="fp32", channels_last=False, compile=False, recalibrate_bn=0,
        num_workers=0, length_bucket_batches=0,
    )  # fmt: skip
    done = train_teacher(
        learner, features, sampling=sampling, objective=objective, training=plain, seed=seed,
        device=device, run=run,
    )  # fmt: skip
    head.load_state_dict(learner.state_dict())
    done.model = model.eval()
    note_origin(model, **trained_on(dataset))
    done.ledger.about["data"] = data_digest(dataset)
    row = flops_of_data(model, dataset, accelerator.device, collate_fn, backward=False)
    meters, ranks = done.meters, Ranks.here()  # each rank computed all features
    meters.flops["student_forward"] += row["forward"] * len(features) * ranks.world
    meters.student_forwards += len(features) * ranks.world
    meters.wall_seconds += spent
    meters.phases["features"] += spent
    if eval_dataset is not None:
        evaluate(
            done, None, eval_dataset, training, accelerator,
            collate_fn=collate_fn, should_stop=run.should_stop, ranks=ranks,
        )  # fmt: skip
    return done


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
