"""Training the last linear layer alone, on features that are computed once for each sample."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.batches import check_model
from frugalkd.data.probe import data_digest, digests_kept
from frugalkd.data.source import Collate
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import SettingError
from frugalkd.models.flops import flops_of_data
from frugalkd.models.initial import head_of
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.objectives import Objective
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.training.api import train_teacher
from frugalkd.training.evaluation import evaluate
from frugalkd.training.frozen import features_of, predict_by_head
from frugalkd.training.run import Run
from frugalkd.training.settings import RunOptions, Training
from frugalkd.training.trainer import accelerator_for


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
    class stands in for them. Features that an earlier process kept are reused (docs/text.md,
    ``features`` of the run). The meters count their forward passes either way, so that a cost does
    not depend on what was kept; seconds are this run's.

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
        SettingError: the objective learns something else than classes.
        UnsupportedData: the data set is random, so that it has no features to keep.
        NonFiniteLoss, RunFolderError, Stopped: as in :func:`frugalkd.train_teacher`.
    """
    check_model(model)
    check_seed(seed)
    training = Training() if training is None else training
    run = RunOptions() if run is None else run
    check_types(
        training=(training, Training),
        run=(run, RunOptions),
        objective=(objective, Objective | None),
    )
    if objective is not None and not OUTPUTS[objective.learns].by_top_class:
        raise SettingError(
            f"train_head is for classes, and {type(objective).__name__} learns "
            f"{OUTPUTS[objective.learns].plural}: call train_teacher, with requires_grad of all "
            "but the head set to False"
        )
    started = time.perf_counter()
    accelerator = accelerator_for(training.precision, device)
    memory = torch.channels_last if training.channels_last else torch.preserve_format
    model.to(accelerator.device, memory_format=memory)  # pyright: ignore[reportCallIssue]
    head = head_of(model)[1]
    features = features_of(
        model,
        dataset,
        precision=training.precision,
        collate_fn=collate_fn,
        should_stop=run.should_stop,
        on_progress=_of(run, "features"),
    )
    spent = time.perf_counter() - started
    learner = copy.deepcopy(head).cpu().requires_grad_(True)  # where its draws are
    if reset_head:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
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
    done.model, done.features = model.eval(), features.note
    note_origin(model, **trained_on(dataset))
    done.ledger.about["data"] = data_digest(dataset)
    row = flops_of_data(model, dataset, accelerator.device, collate_fn, backward=False)
    meters, ranks = done.meters, Ranks.here()  # each rank computed all features
    meters.flops["student_forward"] += row["forward"] * len(features) * ranks.world
    meters.student_forwards += len(features) * ranks.world
    meters.wall_seconds += spent
    meters.phases["features"] += spent
    if eval_dataset is not None:
        predictions = partial(
            predict_by_head, precision=training.precision, collate_fn=collate_fn,
            should_stop=run.should_stop, on_progress=_of(run, "features of held-out data"),
        )  # fmt: skip
        evaluate(done, None, eval_dataset, predictions)
    return done


def _of(run: RunOptions, what: str) -> Callable[[int, int], None] | None:
    return None if run.on_progress is None else partial(run.on_progress, what)
