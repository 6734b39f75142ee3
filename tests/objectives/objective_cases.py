"""Inputs for objectives, and float64 references of what they share, in plain Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Row = Sequence[float]

TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0, 20.0]) | st.floats(0.5, 20)
few = settings(max_examples=20, deadline=None)


@dataclass(frozen=True)
class Case:
    """A batch: float64 logits of student and teacher (rows, classes), labels, weights."""

    logits: NDArray[np.float64]
    targets: NDArray[np.float64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def tensors(self):
        """As an objective gets them, the weights apart."""
        given = (self.logits, self.targets, self.labels)
        return tuple(torch.from_numpy(array) for array in given)


@st.composite
def cases(draw, largest=1000):
    """Batches of one row and more, of 2 to ``largest`` classes, of small to very large logits."""
    classes = draw(st.sampled_from([2, 3, 10, largest]) | st.integers(2, 40))
    rows = draw(st.sampled_from([1, 2, 3, 7])) if classes <= 40 else 2
    spread = draw(st.sampled_from([0.1, 3.0, 30.0, 1e3]))
    stream = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits, targets = spread * stream.uniform(-1, 1, (2, rows, classes))
    if draw(st.booleans()):  # a student that is nearly its teacher
        logits = targets + 0.1 * spread * stream.uniform(-1, 1, (rows, classes))
    weights = stream.choice([0.0, 0.3, 1.0, 2.5], rows)
    return Case(logits, targets, stream.integers(classes, size=rows), weights)


def logs(logits: Row, temperature: float = 1.0) -> list[float]:
    """The logarithm of the softmax."""
    scaled = [float(value) / temperature for value in logits]
    most = max(scaled)
    whole = math.log(math.fsum(math.exp(value - most) for value in scaled))
    return [value - most - whole for value in scaled]


def softmax(logits: Row, temperature: float = 1.0) -> list[float]:
    return [math.exp(value) for value in logs(logits, temperature)]


def kl(of: Row, against: Row) -> float:
    """KL(of || against) from logarithms."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(of, against, strict=True))


def agrees(got: torch.Tensor, expected: object, scale: float = 1.0) -> None:
    """To 1e-6 relative; what cancels to nearly nothing, to 1e-12 of ``scale``."""
    assert got.dtype == torch.float64
    given = got.detach().numpy()
    assert np.isfinite(given).all()
    assert given == pytest.approx(np.asarray(expected), rel=1e-6, abs=1e-12 * scale)


def reduced(losses: torch.Tensor, weights: NDArray[np.float64]) -> torch.Tensor:
    """As ``Batch.reduce`` does it."""
    return (torch.from_numpy(weights) * losses).sum() / len(losses)
