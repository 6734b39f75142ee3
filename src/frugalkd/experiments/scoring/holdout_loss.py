"""Irreducible loss: what a sample costs a model that never trained on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import UnsupportedData
from frugalkd.experiments.scoring._run import ScoringRun
from frugalkd.runtime import draws


def holdout_loss(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """Cross-entropy under a model that trained on the other half (the variant of Mindermann et al.,
    ICML 2022, that needs no holdout set).

    Two models, each trained on a random half of the samples, score each other's.
    """
    if run.samples < 2:
        raise UnsupportedData("a holdout loss needs two samples: each half trains on the other")
    ids = np.arange(run.samples)
    inside = np.zeros(run.samples, dtype=bool)
    inside[draws.subset(ids, run.samples // 2, seed, draws.stream("holdout"))] = True
    losses = np.empty(run.samples)
    for half in (inside, ~inside):
        others = ids[~half]
        trained = run.train(seed, weights=half.astype(np.float32))
        probabilities, labels = run.look(trained, others)
        truth = probabilities[np.arange(len(others)), labels]
        losses[others] = -np.log(np.maximum(truth, np.finfo(np.float32).tiny), dtype=np.float64)
    return losses
