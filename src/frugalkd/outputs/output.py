"""What the parts of a training have to know of a kind of output, without a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.ledger.outcome import Outcome

NOTHING: Mapping[str, Tensor] = MappingProxyType({})
_SHOWN = 4


class Output(ABC):
    """A kind of output. Outputs and the teacher's outputs are (rows, width) of any floating dtype;
    ``right`` is what counts as right, the labels or :meth:`from_teacher`.

    Of kinds other than one class an outcome is a distance d from what is right, and the score
    ``1 - d / d0`` (of tokens exp(-d)) stands for its confidence and its ``truth``; d0 is the mean d
    of the teacher's mean output, so that a model that knows nothing scores 0. Neither is clamped.
    """

    name: ClassVar[str]

    plural: ClassVar[str]
    """What a model gives, for an error: "embeddings"."""

    labelled: ClassVar[bool] = True
    """Whether data may have labels of this kind; else the teacher's output alone is right."""

    by_loss: ClassVar[bool] = False
    """Whether the outcome of a row is a loss or a distance that the training computes: screening
    calls ``forward`` with the teacher's targets and the progress, too."""

    by_loop: ClassVar[bool] = False
    """Whether a loop of one's own compares the model with what is right, ``forward`` as well:
    labels are not read for it."""

    by_top_class: ClassVar[bool] = False
    """Whether the teacher's top class, and nothing else of it, stands in for a label."""

    dynamics: ClassVar[bool] = False
    """Whether training dynamics are defined: margins of a given class."""

    label_form: ClassVar[str]
    """What labels have to be, and what is not possible, for an error."""

    @abstractmethod
    def as_labels(self, labels: Tensor) -> Tensor | None:
        """The labels of a batch in the dtype that this kind has; None where they cannot be."""

    @abstractmethod
    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Raises DataError or ModelError where ``right``, of the first of ``ids``, cannot be right
        for a model of ``width`` outputs. Without a device synchronisation."""

    @abstractmethod
    def from_teacher(self, targets: Tensor) -> Tensor:
        """What counts as right where the teacher's outputs decide."""

    @abstractmethod
    def outcome(
        self,
        outputs: Tensor,
        right: Tensor,
        reference: Mapping[str, Tensor] = NOTHING,
        *,
        entropy: bool = False,
        given: Tensor | None = None,
    ) -> Outcome:
        """The outcome of each row, in float32 and without a device synchronisation.

        Args:
            reference: what :meth:`reference` gave, on the same device.
            entropy: include that of the softmax, where the kind has one.
            given: the given labels, of which to include what training dynamics are made of, where
                the kind has :attr:`dynamics`.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        """A loss for each row (rows,), for a loop that reports none of its own."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """float32 (rows, width), what a user reads: probabilities, or the outputs."""

    def words(self, row: NDArray[Any], names: Sequence[str]) -> str:
        """A row of :meth:`predictions`, or of labels, of the outputs ``names``, for a page."""
        return ", ".join(f"{value:.4g}" for value in row[:_SHOWN])

    def not_finite(self, outputs: Tensor) -> Tensor:
        """bool (rows,), rows that say nothing."""
        return ~outputs.isfinite().all(dim=1)

    def reference(self, right: Tensor, *, by_teacher: bool) -> dict[str, Any]:
        """What the scores of a training refer to, float32 numpy arrays by name, from what is right
        for (a part of) the pool, which the teacher decides or labels do; {}: nothing. ``d0`` is
        among them. Raises TargetsError where scores are not defined."""
        return {}

    @property
    def needs_reference(self) -> bool:
        """Whether scores refer to what is right for the pool."""
        return type(self).reference is not Output.reference


class ScoredOutput(Output):
    """A kind whose outcomes have neither the entropy nor the dynamics of classes."""

    @torch.no_grad()
    def outcome(
        self,
        outputs: Tensor,
        right: Tensor,
        reference: Mapping[str, Tensor] = NOTHING,
        *,
        entropy: bool = False,
        given: Tensor | None = None,
    ) -> Outcome:
        with torch.autocast(outputs.device.type, enabled=False):
            return self.scored(outputs.float(), right.float(), reference)

    @abstractmethod
    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        """The outcome of each row, of float32 outputs, outside autocast."""
