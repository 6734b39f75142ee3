"""The seam behind which a live teacher and a stored one look alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.errors import TargetsError
from frugalkd.models.features import Features, Shape
from frugalkd.policies.policy import Ids
from frugalkd.teachers.fidelity import Fidelity

if TYPE_CHECKING:
    from frugalkd.teachers.live import LiveTeacher

NO_FEATURES = (
    "these soft targets hold no features, which the objective reads: set targets.kind to live, "
    "name the teacher's modules in targets.features, or fill a store with them (frugalkd store "
    "RECIPE --features PATH --teacher DIR --out DIR) and name it in targets.folder"
)


class Targets(ABC):
    """Soft targets: the teacher's logits for the samples that train, and for no others.

    An objective always gets logits. Where ``temperature`` is a number they are such that their
    softmax at this temperature is the stored distribution, and at another one it is not.
    """

    temperature: float | None = None
    """The only temperature at which the targets are the teacher's; None: any."""

    knows_top: bool = True
    """Whether the largest logit is always the teacher's top class, which can stand in for a
    label."""

    keeps: Fidelity = Fidelity.LOGITS
    """How much of the teacher's logits they say."""

    views: int | None
    """How many views of a sample there are targets for; None: any."""

    queries: int
    """Rows that have gone through the teacher so far."""

    seconds: float = 0.0
    """What the teacher's answers have taken so far; the rest of a fetch is reading and storing."""

    phase: str = "store"
    """Of the meters, where the time of a fetch goes that is not the teacher's."""

    row_bytes: int | None = None
    """Of one row, where one fetch for several batches is as good as one for each; else None."""

    reads_labels: bool = False
    """Whether labels decide what they say."""

    fills_as_visited: bool = False
    """Whether a teacher is asked for those rows of a batch alone that it was never asked for."""

    @property
    def live_teachers(self) -> Mapping[str, LiveTeacher]:
        """The live teachers that are asked as a training runs, by name."""
        return {}

    @property
    def queries_of(self) -> Mapping[str, int]:
        """``queries`` by the teacher's name, where there are several."""
        return {}

    def classes(self, data: Any) -> int | None:
        """How many classes there are soft targets of, where it is known; ``data`` is some batch, as
        in :meth:`fetch`, in case somebody has to be asked. No query."""
        return None

    def begin_step(self, epoch: int, step: int) -> None:  # noqa: B027, as sync
        """Told before rows are fetched for which of the epoch's optimiser steps they are, or that
        they are for looks which come before it."""

    @abstractmethod
    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        """Logits (rows, classes) float32 for ``ids`` int64 (rows,) seen as ``views`` int64 (rows,).

        ``data`` is the batch as the student gets it, on the student's device; so is the answer.
        """

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        """The teacher's modules that ``patterns`` (paths or globs) mean, and the shapes of their
        features without the rows; ``data`` is some batch, in case somebody has to be asked.

        Raises:
            TargetsError: these targets have no features, or not these.
            ModelError: the teacher has no such module, or it gives no feature.
        """
        raise TargetsError(NO_FEATURES)

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        """As :meth:`fetch`, and the teacher's features at ``paths``, which
        :meth:`feature_shapes` has named: (rows, ...) of any floating dtype."""
        raise TargetsError(NO_FEATURES)

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:  # noqa: B027, as sync
        """Refuse targets that belong to another teacher, other data or another augmentation.

        Without a ``teacher`` at hand, data and augmentation alone are checked.

        Raises:
            TargetsError: naming which of them differ.
        """

    def sync(self) -> None:  # noqa: B027, most targets have nothing to do here
        """Make durable what was stored so far, where something is."""

    @abstractmethod
    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        """The teacher's probability of each sample's label, float32 (samples,).

        ``labels`` int64 (samples,); None where the teacher's top class stands in for them.

        NaN where nothing is stored of a sample.

        Raises:
            TargetsError: it is not known beforehand.
        """
