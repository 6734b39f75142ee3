"""Regression: one or more values a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import DataError, ModelError, TargetsError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import ScoredOutput

HEAVY = 1.5
"""A target has heavy tails where its standard deviation is over so many times IQR / 1.349, which
estimates it for a normal distribution: a Laplace distribution has 1.4, Student's t of 3 degrees of
freedom 1.5."""


@final
class Regression(ScoredOutput):
    """Values (rows, targets); labels of a floating dtype (rows, targets), or (rows,) of one target.

    The distance of a row is the mean over the targets of ``((output - right) / sigma)^2``, sigma
    being the spread over the pool of what is right: of the labels or, where the teacher decides, of
    its outputs. That is the standard deviation, or IQR / 1.349 where tails are heavy. d0 is the
    mean distance of the mean of what is right: of one target the score is ``1 - error^2 /
    variance``, whose mean over samples is R2.
    """

    name = "regression"
    plural = "regression targets"
    label_form = "floating-point values are needed, (samples,) or (samples, targets)"

    def as_labels(self, labels: Tensor) -> Tensor | None:
        if not labels.dtype.is_floating_point or labels.ndim not in (1, 2):
            return None
        return labels.float() if labels.ndim == 2 else labels.float()[:, None]

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Targets in main memory have to be finite; on a device, what comes of them is found."""
        if right.shape[1] != width:
            raise ModelError(
                f"the model gives {width} numbers a sample, and there are {right.shape[1]} "
                "targets: end the model with a linear layer of one output a target"
            )
        if right.device.type != "cpu":
            return
        bad = ~right.isfinite().all(dim=1)
        if bad.any():
            first = int(bad.nonzero()[0, 0])
            raise DataError(
                f"the target of sample {ids[first]} is {right[first].tolist()}, which is not "
                "finite: leave the sample out, or enter its value"
            )

    def from_teacher(self, targets: Tensor) -> Tensor:
        return targets.float()

    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        apart = (outputs - right) / reference["sigma"]
        relative = apart.square().mean(dim=1) / reference["d0"]
        score = 1 - relative
        return Outcome(score, score > 0, score, distance=relative)

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        return (outputs.float() - right).square().mean(dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.float()

    def reference(self, right: Tensor, *, by_teacher: bool) -> dict[str, Any]:
        values = right.double().numpy()
        spread = values.std(axis=0)
        flat = np.flatnonzero(spread <= 1e-6 * np.abs(values).max(axis=0))
        if len(flat):
            whose, advice = "the data", "leave it out, or subtract its mean"
            if by_teacher:
                whose, advice = "the teacher", "check its weights and inputs"
            raise TargetsError(
                f"{whose} has nearly the same value of target {flat[0]} for {len(values)} "
                f"samples: there is nothing to learn, {advice}"
            )
        low, high = np.quantile(values, (0.25, 0.75), axis=0)
        robust = (high - low) / 1.349
        sigma = np.where((robust > 0) & (spread > HEAVY * robust), robust, spread)
        d0 = np.mean(((values - values.mean(axis=0)) / sigma) ** 2)
        return {"sigma": sigma.astype(np.float32), "d0": np.array([d0], dtype=np.float32)}
