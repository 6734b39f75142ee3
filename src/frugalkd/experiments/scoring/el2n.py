"""EL2N: how far from the label a model is that has only begun to learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frugalkd.experiments.scoring._run import ScoringRun


def el2n(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """The norm of softmax - onehot after a short training (Paul, Ganguli and Dziugaite, NeurIPS
    2021): in [0, sqrt(2)]."""
    probabilities, labels = run.look(run.train(seed))
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return np.linalg.norm(errors, axis=1)
