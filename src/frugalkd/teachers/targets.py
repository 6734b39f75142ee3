"""The interface of soft targets, the same for live and stored teachers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from frugalkd.data.batches import checked_logits
from frugalkd.data.source import Collate
from frugalkd.errors import TargetsError
from frugalkd.models.features import Features, Shape
from frugalkd.policies.policy import Ids
from frugalkd.teachers.encodings import Fidelity

if TYPE_CHECKING:
    from frugalkd.teachers.live import ModelTeacher
    from frugalkd.teachers.store import Header


class Targets(ABC):
    """Soft targets: the teacher's logits for the samples that train, and for no others."""

    temperature: float | None = None
    """The only temperature at which their softmax is the teacher's; None: any."""

    knows_top: bool = True
    """Whether the largest logit is always the teacher's top class, which can replace a label."""

    keeps: Fidelity = Fidelity.LOGITS
    """How much of the teacher's logits they keep."""

    views: int | None
    """How many views of a sample have targets; None: any."""

    queries: int
    """Rows that have gone through the teacher so far."""

    tokens: int = 0
    """Of language models, the learned tokens of these rows."""

    seconds: float = 0.0
    """Seconds of the teacher's forward passes so far, without reading and storing."""

    phase: str = "store"
    """The meters' phase that a fetch counts to, except for the teacher's forward passes."""

    row_bytes: int | None = None
    """Bytes of one row, if one fetch may serve several batches; else None."""

    reads_labels: bool = False
    """Whether the targets depend on labels."""

    no_features: ClassVar[str] = (
        "these soft targets hold no features, which the objective reads: set targets.kind to live, "
        "name the teacher's modules in targets.features, or fill a store with them (frugalkd store "
        "RECIPE --features PATH --teacher DIR --out DIR) and name it in targets.folder"
    )
    """The error where features are read and the targets have none."""

    fills_as_visited: bool = False
    """Whether the teacher runs only on those rows of a batch that it has never seen."""

    def _adopt(self, header: Header) -> None:
        """Set what the ``header`` of a store decides of targets that are read from it."""
        encoding, self.about, self.views = header.encoding, dict(header.about), header.views
        self.temperature, self.knows_top = encoding.temperature, encoding.knows_top
        self.keeps = encoding.keeps

    @property
    def knows_truth(self) -> bool:
        """Whether :meth:`truth` can be known, if only once the teacher has run."""
        return self.temperature is None

    @property
    def live_teachers(self) -> Mapping[str, ModelTeacher]:
        """The teachers that run during a training, by name."""
        return {}

    @property
    def queries_of(self) -> Mapping[str, int]:
        """``queries`` by the teacher's name, where there are several."""
        return {}

    def classes(self, data: Any) -> int | None:
        """How many classes the targets have, where it is known; ``data`` is any batch, in case a
        teacher has to run, or None. Not counted as a query."""
        return None

    def begin_step(self, epoch: int, step: int) -> None:  # noqa: B027, as sync
        """Receives the epoch and its optimiser step (or the screening before it) of the rows that
        are fetched next."""

    @abstractmethod
    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        """Logits (rows, classes) float32 for ``ids`` int64 (rows,) in ``views`` int64 (rows,).

        ``data`` is the student's batch, on the student's device; the logits are on that device too.
        """

    def check_fetched(self, found: Any, rows: int) -> None:
        """Raises TargetsError unless ``found`` is what :meth:`fetch` has to return for ``rows``."""
        checked_logits(found, rows, type(self).__name__, TargetsError)

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        """The teacher's modules that match ``patterns`` (paths or globs), and the shapes of their
        features without the rows; ``data`` is any batch, in case a teacher has to run.

        Raises:
            TargetsError: these targets have no features, or not these.
            ModelError: the teacher has no such module, or it gives no feature.
        """
        raise TargetsError(self.no_features)

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        """As :meth:`fetch`, and the teacher's features at ``paths`` of :meth:`feature_shapes`:
        (rows, ...) of any floating dtype."""
        raise TargetsError(self.no_features)

    def check(self, dataset: Dataset) -> None:  # noqa: B027, as sync
        """Refuse targets that belong to other data or another augmentation. Raises TargetsError,
        naming what differs."""

    def compare_batches(  # noqa: B027, as sync
        self, dataset: Dataset, collate_fn: Collate | None
    ) -> None:
        """A FrugalKDWarning where ``collate_fn`` makes other tensors of some samples than those
        that the stored targets are of; either may make more of them."""

    def sync(self) -> None:  # noqa: B027, most targets have nothing to do here
        """Flush what was stored so far to the disk."""

    def truth(self, labels: Tensor | None) -> NDArray[np.float32] | None:
        """The teacher's probability of each sample's label, float32 (samples,), NaN where nothing
        is stored of a sample; None where the teacher has to run first. ``labels`` int64 (samples,);
        None: the teacher's top class. Raises TargetsError: the targets do not keep the probability
        at temperature 1, or the teacher changes during the training."""
        if self.temperature is not None:
            raise TargetsError(
                f"these soft targets are the teacher's at temperature {self.temperature:g}, and a "
                "ceiling needs its probability of a label, at 1: set targets.encoding to float16 "
                "(of several teachers, average their logits)"
            )
        return None
