"""Features for the objectives that read them, and what they make of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.objectives import FeatureObjective, Shapes, SimKD, StepFeatures

SAMPLES = 12
LABELS = torch.arange(SAMPLES) % 3
STUDENT, TEACHER = ((3, 4, 4), (4, 2, 2)), ((5, 4, 4), (6, 2, 2))


class Features(NamedTuple):
    """A batch: one feature of each model, and the rows' weights, float64."""

    student: NDArray[np.float64]
    teacher: NDArray[np.float64]
    weights: NDArray[np.float64]


@st.composite
def features(draw, student=(3,), teacher=(5,), largest=6):
    """Batches of one row and more, of small to very large features of these shapes."""
    rows = draw(st.integers(1, largest))
    spread = draw(st.sampled_from([0.1, 1.0, 30.0, 1e3]))
    stream = np.random.default_rng(draw(st.integers(0, 2**32)))
    given, wanted = (spread * stream.normal(size=(rows, *shape)) for shape in (student, teacher))
    return Features(given, wanted, stream.choice([0.0, 0.3, 1.0, 2.5], rows))


def student_shapes(objective: FeatureObjective) -> Any:
    """Other ones than the teacher's, where the objective takes them."""
    return TEACHER if isinstance(objective, SimKD) else STUDENT


def parts_of(objective: FeatureObjective, student=STUDENT, teacher=TEACHER, labels=LABELS) -> Any:
    """What it trains, in float64, always the same; a memory stays as it is in ``eval``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        shapes = Shapes(tuple(student), tuple(teacher), SAMPLES, labels)
        return objective.parts(shapes).double()


def seen_of(objective: FeatureObjective, case: Features) -> Any:
    """What it sees of a pair of features, each sample once."""
    student, teacher = torch.from_numpy(case.student), torch.from_numpy(case.teacher)
    parts = parts_of(objective, [student.shape[1:]], [teacher.shape[1:]])
    return StepFeatures((student,), (teacher,), parts, torch.arange(len(student)))


def transfer(
    objective: FeatureObjective, seen: StepFeatures, weights: NDArray[np.float64]
) -> Tensor:
    """Its part of the losses alone, of any logits."""
    logits = torch.zeros(len(weights), 2, dtype=torch.float64)
    labels = torch.zeros(len(weights), dtype=torch.int64)
    losses = objective(logits, None, labels, torch.from_numpy(weights), seen)
    return losses - objective.hard * np.log(2)
