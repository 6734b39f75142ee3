"""Training the last linear layer alone, on what the layers before it give once for each sample.

A frozen model gives the same features in every epoch, so they are asked for once; a training of the
head then takes seconds. It is self-regulated as any other, and leaves a ledger.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, refuse_not_finite, run_model, split
from frugalkd.data.bucketing import by_length, lengths_of
from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, digests_kept, randomness
from frugalkd.data.source import Collate, check_map_style, open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, Stopped, UnsupportedData
from frugalkd.files import StrPath
from frugalkd.models.flops import flops_of_data
from frugalkd.models.identity import identity
from frugalkd.models.inference import inference_mode
from frugalkd.models.initial import head_of_name
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.objectives import Objective
from frugalkd.policies import Policy
from frugalkd.runtime.devices import autocast
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.selection.checks import check_listed, labels_of
from frugalkd.training.api import Stop, evaluate, train_teacher
from frugalkd.training.settings import Checkpointing, Training
from frugalkd.training.trainer import Listener, Run, accelerator_for

_BATCH = 256


@final
class Features(Dataset):
    """``features`` float32 (N, width) and ``labels`` int64 (N,), in RAM; ``made_of`` says of which
    data and model."""

    def __init__(
        self, features: Tensor, labels: Tensor, classes: tuple[str, ...], made_of: str
    ) -> None:
        self.features, self.labels, self._made_of = features, labels, made_of
        if classes:
            self.classes = classes

    @property
    def row_bytes(self) -> int:
        return 4 * self.features.shape[1] + 8

    def digest(self) -> str:
        """Of what it is made of: its own last digits may differ from rank to rank."""
        return hashlib.sha256(self._made_of.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, id: int) -> tuple[Tensor, int]:
        return self.features[id], int(self.labels[id])

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.array(ids, dtype=np.int64))
        return self.features.index_select(0, rows), self.labels.index_select(0, rows)


@digests_kept()
def train_head(
    model: nn.Module,
    data: Dataset,
    *,
    policy: Policy | None = None,
    scores: NDArray[np.float32] | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    seed: int = 0,
    anew: bool = False,
    eval_dataset: Dataset | None = None,
    device: str = "auto",
    collate_fn: Collate | None = None,
    checkpoints: StrPath | None = None,
    checkpointing: Checkpointing | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    stop: Stop | None = None,
) -> Run:
    """Train the last linear layer of ``model`` in place, by default under self-regulation, and
    nothing else of it.

    Features are those of view 0, in eval mode. Where the data have no labels, the model's own top
    class stands in for them. The meters count the features' forward passes too.

    Args:
        model: a module whose logits are those of its last ``nn.Linear``.
        data: map-style.
        policy, scores, objective, eval_dataset, device, collate, checkpoints, checkpointing,
        resume,
            listener, stop: as in :func:`frugalkd.train_teacher`.
        training: epochs, batch size, optimiser, schedule; its precision and memory format are
            those in which the features are asked for.
        seed: of the order of samples and, where ``anew``, of the head's first weights.
        anew: draw the head's weights anew, whatever it has learned before.

    Raises:
        ModelError: the model's logits are not those of a linear layer.
        UnsupportedData: the data set draws by itself, so that it has no features to keep.
        NonFiniteLoss, RunFolderError, Stopped: as in :func:`frugalkd.train_teacher`.
    """
    check_model(model)
    check_seed(seed)
    training = Training() if training is None else training
    check_types(training=(training, Training))
    started = time.perf_counter()
    accelerator = accelerator_for(training.precision, device)
    memory = torch.channels_last if training.channels_last else torch.preserve_format
    model.to(accelerator.device, memory_format=memory)  # pyright: ignore[reportCallIssue]
    head = head_of(model)
    features = features_of(
        model, data, head, precision=training.precision, device=accelerator.device,
        collate_fn=collate_fn, stop=stop,
    )  # fmt: skip
    spent = time.perf_counter() - started
    learner = copy.deepcopy(head).requires_grad_(True)
    if anew:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner.reset_parameters()
    plain = replace(
        training, precision="fp32", channels_last=False, compile=False, recalibrate_bn=0,
        num_workers=0, length_bucket_batches=0,
    )  # fmt: skip
    run = train_teacher(
        learner, features, policy=policy, scores=scores, objective=objective, training=plain,
        seed=seed, device=device,
        checkpoints=checkpoints, checkpointing=checkpointing, resume=resume, listener=listener,
        stop=stop,
    )  # fmt: skip
    with torch.no_grad():
        for own, learned in zip(head.parameters(), learner.parameters(), strict=True):
            own.copy_(learned)
    run.model = model.eval()
    note_origin(model, **trained_on(data))
    run.ledger.about["data"] = data_digest(data)
    row = flops_of_data(model, data, accelerator.device, collate_fn, backward=False)
    meters, ranks = run.meters, Ranks.here()  # each of them asked for all features
    meters.flops["student_forward"] += row["forward"] * len(features) * ranks.world
    meters.student_forwards += len(features) * ranks.world
    meters.wall_seconds += spent
    meters.phases["features"] += spent
    if eval_dataset is not None:
        evaluate(run, None, eval_dataset, training, accelerator, collate_fn, stop, ranks)
    return run


def head_of(model: nn.Module) -> nn.Linear:
    """The last ``nn.Linear`` of ``model``. Raises ModelError where there is none."""
    name = head_of_name(model)
    if name is None:
        raise ModelError("the model has no linear layer: a head to train has to be an nn.Linear")
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    return head


def features_of(
    model: nn.Module,
    data: Dataset,
    head: nn.Linear,
    *,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    collate_fn: Collate | None = None,
    stop: Stop | None = None,
) -> Features:
    """What ``head`` gets of each sample, in eval mode.

    Raises:
        ModelError: the model's logits are not what ``head`` makes of that.
        UnsupportedData: the data set draws by itself.
        Stopped: ``stop``, asked after each batch, said so.
    """
    check_map_style(data)
    if not len(data):  # pyright: ignore[reportArgumentType]
        raise UnsupportedData("the data set is empty: there is nothing to train on")
    if randomness(data):
        raise UnsupportedData(
            "this data set gives other inputs each time it is asked, and so has no features to "
            "keep: give it a method view(id, view), or train the whole model"
        )
    ids = np.arange(len(data))  # pyright: ignore[reportArgumentType]
    if (lengths := lengths_of(data)) is not None:
        ids = by_length(ids, lengths)
    blocks = np.split(ids, np.arange(_BATCH, len(ids), _BATCH))
    listed = labels_of(data)
    given: list[Tensor] = []
    kept, labels = torch.empty(0), torch.empty(len(ids), dtype=torch.int64)

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.append(inputs[0].detach())

    hook = head.register_forward_pre_hook(keep)
    try:
        with (
            inference_mode(model),
            open_source(data, collate_fn=collate_fn) as source,
            memory_for(f"features of batches of {_BATCH}", "take another device (device: cpu)"),
        ):
            requests = [(block, np.zeros_like(block)) for block in blocks]
            for block, batch in zip(blocks, source.batches(requests), strict=True):
                inputs, known = split(send_to_device(batch, device))
                given.clear()
                with autocast(model, precision):
                    logits = run_model(partial(call, model), inputs, block)
                refuse_not_finite(logits, block)
                found = _features(given, logits, head, partial(autocast, model, precision))
                if not len(kept):
                    kept = torch.empty(len(ids), found.shape[1])
                rows = torch.from_numpy(block)
                kept[rows] = found.cpu()
                if known is not None and listed is not None:
                    check_listed(known, listed, block)
                labels[rows] = (logits.argmax(1) if known is None else known).cpu()
                if stop is not None and stop():
                    raise Stopped("stopped while features were asked for")
    finally:
        hook.remove()
    made_of = f"{data_digest(data)} {identity(model)} {precision}"
    return Features(kept, labels, class_names(data), made_of)


def _features(
    given: list[Tensor], logits: Tensor, head: nn.Linear, precision: Callable[[], Any]
) -> Tensor:
    """float32 (rows, width): what the head was given, if that is what the logits are made of."""
    if len(given) == 1 and given[0].ndim == 2 and len(given[0]) == len(logits):
        with precision():
            again = nn.functional.linear(given[0], head.weight, head.bias)
        if again.shape == logits.shape and torch.allclose(
            again.float(), logits.float(), rtol=1e-2, atol=1e-3
        ):
            return given[0].float()
    raise ModelError(
        "the model's logits are not what its last linear layer gives: a head to train has to be "
        "the last thing that the model does"
    )
