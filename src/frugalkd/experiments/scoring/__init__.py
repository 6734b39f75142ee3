"""Scoring runs: trainings before the training that give each sample a score, at a metered cost.

One file a scoring, one line in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frugalkd.data.probe import streams_restored
from frugalkd.data.source import Collate, check_map_style
from frugalkd.errors import UnknownName
from frugalkd.experiments.scoring._run import MakeModel, ScoringRun
from frugalkd.experiments.scoring.el2n import el2n
from frugalkd.experiments.scoring.forgetting import forgetting
from frugalkd.experiments.scoring.holdout_loss import holdout_loss
from frugalkd.policies import Scoring
from frugalkd.runtime.meters import Meters
from frugalkd.training.settings import Listener, Stop, Training

SCORINGS: dict[str, Callable[[ScoringRun, int], NDArray[np.floating]]] = {
    "el2n": el2n,
    "forgetting": forgetting,
    "holdout-loss": holdout_loss,
}
"""Each gives, for a run and the seed of its training, a score (samples,)."""


def score(
    scoring: Scoring,
    make_model: MakeModel,
    data: Dataset,
    *,
    training: Training | None = None,
    seed: int = 0,
    device: str = "auto",
    collate_fn: Collate | None = None,
    listener: Listener | None = None,
    stop: Stop | None = None,
) -> tuple[NDArray[np.float32], Meters]:
    """The scores of ``data``, float32 (samples,), and what they cost: for ``scores`` of
    :class:`frugalkd.Sampling`.

    ```python
    policy = EL2N(budget=0.3)
    scores, cost = score(policy.scoring, lambda seed: my_student(seed), data, training=training)
    sampling = Sampling(policy=policy, scores=scores)
    distill(student, data, teacher=teacher, sampling=sampling, training=training)
    ```

    The model learns the labels by cross-entropy, and everything takes part. Random streams are put
    back: a student is the same whether its scores were made or kept.

    Args:
        scoring: kind, epochs and seeds.
        make_model: a fresh model, its weights drawn from a seed; the student's own architecture.
        data: a map-style data set of (inputs, class index).
        training: the student's settings; its epochs are the scoring's.
        seed: of all seeds here.
        device, collate, listener, stop: as in :func:`frugalkd.train_teacher`; ``listener`` receives
            the epochs of each training.

    Raises:
        UnknownName: no such scoring.
        UnsupportedData, NonFiniteLoss, Stopped: as in :func:`frugalkd.train_teacher`.
    """
    if scoring.kind not in SCORINGS:
        raise UnknownName("scoring", scoring.kind, SCORINGS)
    check_map_style(data)
    training = replace(training or Training(), epochs=scoring.epochs)
    run = ScoringRun(make_model, data, training, device, collate_fn, listener, stop)
    total = np.zeros(run.samples)
    with streams_restored():
        for index in range(scoring.seeds):
            total += SCORINGS[scoring.kind](run, run.seed_of(seed, index))
    return (total / scoring.seeds).astype(np.float32), run.meters


__all__ = ["SCORINGS", "ScoringRun", "score"]
