"""Scoring runs: trainings before the training that give each sample a score, at a metered cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.images import Augmentation, Pictures
from frugalkd.data.probe import streams_restored
from frugalkd.data.source import Collate, check_map_style
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import UnknownName, UnsupportedData
from frugalkd.ledger.dynamics import NEVER
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import All, Sampling, Scoring
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.meters import Meters
from frugalkd.training.api import distill
from frugalkd.training.evaluation import predict
from frugalkd.training.run import Run
from frugalkd.training.settings import Listener, RunOptions, Stop, Training

MakeModel = Callable[[int], nn.Module]
"""A fresh model, its weights drawn from a seed."""


def score(
    scoring: Scoring,
    make_model: MakeModel,
    data: Dataset,
    *,
    training: Training | None = None,
    seed: int = 0,
    device: str = "auto",
    collate_fn: Collate | None = None,
    on_epoch_end: Listener | None = None,
    should_stop: Stop | None = None,
) -> tuple[NDArray[np.float32], Meters]:
    """The scores of ``data``, float32 (samples,), and their cost: for ``scores`` of
    :class:`frugalkd.Sampling`.

    ```python
    policy = EL2N(budget=0.3)
    scores, cost = score(policy.scoring, lambda seed: my_student(seed), data, training=training)
    sampling = Sampling(policy=policy, scores=scores)
    distill(student, data, teacher=teacher, sampling=sampling, training=training)
    ```

    The model learns the labels of all samples by cross-entropy. Random streams are restored: a
    student is the same whether its scores were computed or loaded.

    Args:
        scoring: kind, epochs and seeds.
        make_model: a fresh model, its weights drawn from a seed; the student's own architecture.
        data: a map-style data set of (inputs, class index).
        training: the student's settings; its epochs are the scoring's.
        seed: of all seeds here.
        device, collate_fn: as in :func:`frugalkd.train_teacher`.
        on_epoch_end, should_stop: of each training, as in :class:`frugalkd.RunOptions`.

    Raises:
        UnknownName: no such scoring.
        UnsupportedData, NonFiniteLoss, Stopped: as in :func:`frugalkd.train_teacher`.
    """
    if scoring.kind not in SCORINGS:
        raise UnknownName("scoring", scoring.kind, SCORINGS)
    check_map_style(data)
    training = replace(training or Training(), epochs=scoring.epochs)
    options = RunOptions(on_epoch_end=on_epoch_end, should_stop=should_stop)
    run = ScoringRun(make_model, data, training, device, collate_fn, options)
    total = np.zeros(run.samples)
    with streams_restored():
        for index in range(scoring.seeds):
            # Different from the seeds that students count up.
            own = draws.hash64(seed, draws.stream("scoring"), index)[0] >> np.uint64(32)
            total += SCORINGS[scoring.kind](run, int(own))
    return (total / scoring.seeds).astype(np.float32), run.meters


@dataclass
class ScoringRun:
    """The trainings of a scoring, with the arguments of :func:`score`; ``meters`` are the cost of
    all of it so far."""

    make_model: MakeModel
    data: Dataset
    training: Training
    device: str = "auto"
    collate_fn: Collate | None = None
    options: RunOptions = RunOptions()  # noqa: RUF009
    meters: Meters = field(default_factory=Meters)

    @property
    def samples(self) -> int:
        return len(self.data)  # pyright: ignore[reportArgumentType]

    def train(self, seed: int, weights: NDArray[np.float32] | None = None) -> Run:
        """A fresh model, trained on the labels; by default on all samples."""
        run = distill(
            self.make_model(seed),
            self.data,
            teacher=None,
            sampling=Sampling(policy=All(), weights=weights, dynamics=True),
            objective=CrossEntropy(),
            training=replace(self.training, fsdp=False),
            seed=seed,
            device=self.device,
            collate_fn=self.collate_fn,
            run=self.options,
        )
        self.meters.add(run.meters)
        return run

    def predict(
        self, run: Run, ids: Ids | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The trained model's probabilities float32 (rows, classes) for ``ids`` (default: all), and
        their labels int64 (rows,): of view 0, and of images without augmentation."""
        data, started = self.data, time.perf_counter()
        if isinstance(data, Pictures):
            data = data.with_augmentation(Augmentation())
        probabilities, labels = predict(
            run.model,
            data,
            precision=self.training.precision,
            batch_size=self.training.screen_batch,
            num_workers=self.training.num_workers,
            collate_fn=self.collate_fn,
            should_stop=self.options.should_stop,
            ids=ids,
            ranks=Ranks.here(),
        )
        if labels is None:
            raise UnsupportedData("these data have no labels: a scoring run learns from labels")
        spent = Meters(student_forwards=len(labels))
        per_row = run.meters.flops["student_forward"] / max(1, run.meters.student_forwards)
        spent.flops = {"student_forward": per_row * len(labels)}
        spent.wall_seconds = spent.phases["screen"] = time.perf_counter() - started
        self.meters.add(spent)
        return probabilities, labels


def el2n(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """The norm of softmax - onehot after a short training (Paul, Ganguli and Dziugaite, NeurIPS
    2021): in [0, sqrt(2)]."""
    probabilities, labels = run.predict(run.train(seed))
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return np.linalg.norm(errors, axis=1)


def forgetting(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """Flips from correct to wrong between one visit and the next (Toneva et al., ICLR 2019). A
    sample that was never correct counts as many as there were epochs, more than any other can."""
    ledger = run.train(seed).ledger
    never = math.ceil(run.training.epochs)
    learned = ledger["first_learned"] != NEVER
    return np.where(learned, ledger["forgotten"], never).astype(np.float64)


def holdout_loss(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """Irreducible loss: the cross-entropy of a sample under a model that never trained on it (the
    variant of Mindermann et al., ICML 2022, that needs no holdout set). Two models, each trained on
    a random half of the samples, score each other's."""
    if run.samples < 2:
        raise UnsupportedData("a holdout loss needs two samples: each half trains on the other")
    ids = np.arange(run.samples)
    inside = np.zeros(run.samples, dtype=bool)
    inside[draws.subset(ids, run.samples // 2, seed, draws.stream("holdout"))] = True
    losses = np.empty(run.samples)
    for half in (inside, ~inside):
        others = ids[~half]
        trained = run.train(seed, weights=half.astype(np.float32))
        probabilities, labels = run.predict(trained, others)
        truth = probabilities[np.arange(len(others)), labels]
        losses[others] = -np.log(np.maximum(truth, np.finfo(np.float32).tiny), dtype=np.float64)
    return losses


def trainings(scoring: Scoring) -> int:
    """How many there are in all."""
    return scoring.seeds * (2 if scoring.kind == "holdout-loss" else 1)


SCORINGS: dict[str, Callable[[ScoringRun, int], NDArray[np.floating]]] = {
    "el2n": el2n,
    "forgetting": forgetting,
    "holdout-loss": holdout_loss,
}
"""Each gives, for a run and the seed of its training, a score (samples,)."""
