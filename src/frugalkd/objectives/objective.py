"""What an objective is: a loss with one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from frugalkd.errors import SettingError
from frugalkd.models.features import Shape
from frugalkd.objectives import _numerics as numerics
from frugalkd.outputs import OUTPUTS
from frugalkd.policies.modes import OutputName
from frugalkd.runtime.settings import Settings
from frugalkd.teachers.encodings import Fidelity

Paths = str | tuple[str, ...]
"""One module path or several, globs among them."""


class StepFeatures(NamedTuple):
    """The features of one step, for one objective.

    ``student`` and ``teacher``: (rows, ...) each, of the modules that the objective names, in their
    order. ``parts``: what its ``parts`` returned. ``ids``: int64 (rows,), on the same device.
    """

    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    parts: nn.Module
    ids: Tensor

    @property
    def pairs(self) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """The student's and the teacher's features one by one, and their part."""
        return zip(self.student, self.teacher, self.parts.children(), strict=True)


class Shapes(NamedTuple):
    """What is known of features before a training.

    ``student`` and ``teacher``: their shapes without the rows. ``samples``: of the data set.
    ``labels``: int64 (samples,), or None where they are not known beforehand.
    """

    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    samples: int
    labels: Tensor | None

    @property
    def pairs(self) -> Iterator[tuple[Shape, Shape]]:
        """The student's and the teacher's, one by one. Raises SettingError where one has more."""
        if len(self.student) != len(self.teacher):
            raise SettingError(
                f"student names {len(self.student)} modules and teacher {len(self.teacher)}: "
                "name as many, in the order in which they belong together"
            )
        return zip(self.student, self.teacher, strict=True)


class Step(NamedTuple):
    """The inputs of an objective in a training step: those of :class:`BatchObjective`, the
    ``progress`` of the training in [0, 1), and for each term of a sum (or the one objective) the
    features that it reads, or None."""

    logits: Tensor
    targets: Tensor | None
    labels: Tensor
    weights: Tensor | None = None
    progress: float = 0.0
    seen: tuple[StepFeatures | None, ...] = (None,)


class Objective(Settings, ABC):
    """A distillation loss that is not reduced, so that every sample can be weighted.

    Settings that several objectives have are described here.

    Attributes:
        temperature: T > 0, of both softmaxes in the soft part.
        alpha: the soft part's share, in [0, 1].
        soft: the weight of the part that is learned from the teacher.
        hard: the weight of the cross-entropy with the label.
    """

    needs_targets: bool = True
    """Whether it reads the teacher's outputs; if not, no teacher is queried."""

    reads: Fidelity = Fidelity.DRAWS
    """How much of the teacher's logits it reads; soft targets that keep less are refused. Below
    ``DIFFERENCES`` it reads their softmax at its attribute ``temperature`` only."""

    mixes_rows: bool = False
    """Whether the loss of a sample depends on the other samples of its batch."""

    output: OutputName | None = "one-class"
    """The kind of output that it learns; None: any."""

    project: bool = False
    """Whether a linear layer, trained beside the student, takes the student's outputs to the
    teacher's width where that is another one."""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        """One loss per sample.

        Args:
            logits: the student's (rows, classes), any floating dtype.
            targets: the teacher's logits (rows, classes), or None where none are needed.
            labels: int64 (rows,).

        Returns:
            float32 (rows,); float64 where ``logits`` are.
        """

    def losses(self, step: Step) -> Tensor:
        """The losses of a training step."""
        return self(step.logits, step.targets, step.labels)

    @property
    def learns(self) -> OutputName:
        """The kind of output that a model has after it."""
        return self.output or "one-class"

    @property
    def terms(self) -> tuple[Objective, ...]:
        """The objectives that it sums: itself, unless it is a sum."""
        return (self,)

    def at(self, progress: float) -> Objective:
        """The objective at ``progress`` of the training, in [0, 1], which settings may follow."""
        return self


class BatchObjective(Objective):
    """An objective whose loss of a sample depends on the other samples of the batch, and so on
    their weights: a pair (i, j) weighs ``w_i * w_j``, and means over the batch are weighted.

    Every weight counts once: here those of the others, and in ``Batch.reduce`` the sample's own.
    """

    mixes_rows = True

    @abstractmethod
    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """As of every :class:`Objective`, such that ``sum(weights * losses) / rows`` is the batch's
        loss; where all weights are 1 that is the published one. A row's own value may be negative:
        only the sum is a distance.

        Args:
            weights: (rows,), not negative; None where all are 1.
        """

    def losses(self, step: Step) -> Tensor:
        return self(step.logits, step.targets, step.labels, step.weights)


@dataclass(frozen=True)
class FeatureObjective(BatchObjective):
    """An objective that reads features: what modules of student and teacher return. Its loss is
    ``soft * transfer + hard * cross-entropy``, both weights being settings of each subclass.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
    """

    mixes_rows = False

    student: Paths
    teacher: Paths
    if TYPE_CHECKING:  # fields of each subclass, with its own defaults
        soft: ClassVar[float]
        hard: ClassVar[float]

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            given = getattr(self, name)
            if not given or not all((given,) if isinstance(given, str) else given):
                raise SettingError(f"{name} must name modules: paths such as layer3.2, or globs")
        if not self.hard:  # without a label it fits every kind of output
            vars(self).update(output=None)  # a frozen dataclass refuses assignments

    def parts(self, shapes: Shapes) -> nn.Module:
        """What it trains and keeps, one child for each pair of features. Initial weights come from
        torch's random stream.

        Raises:
            SettingError, ModelError: it cannot be computed on such features.
        """
        return nn.ModuleList(self.part(*pair) for pair in shapes.pairs)

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        """What it trains and keeps for one pair, such as an adapter from the student's shape to the
        teacher's. Raises as :meth:`parts`."""
        return nn.Identity()

    def transfer(self, seen: StepFeatures, weights: Tensor) -> Tensor:
        """What is learned from the features, one value per sample, as of a
        :class:`BatchObjective`: the sum of :meth:`compare` over the pairs.

        Args:
            seen: its features in the dtype that the loss is to have.
            weights: (rows,), in the same dtype.
        """
        total = weights.new_zeros(len(weights))
        for student, teacher, part in seen.pairs:
            total = total + self.compare(student, teacher, part, weights)
        return total

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        """(rows,), of one pair of features (rows, ...) and their :meth:`part`; define it, or
        :meth:`transfer`."""
        raise NotImplementedError

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor | None,
        labels: Tensor,
        weights: Tensor | None = None,
        seen: StepFeatures | None = None,
    ) -> Tensor:
        """As of every :class:`BatchObjective`. Raises SettingError without features."""
        if seen is None:
            raise SettingError(
                f"{type(self).__name__} reads features: let frugalkd.objectives.criterion.bind "
                "provide them"
            )
        logits = numerics.full(logits)
        student, teacher = (
            tuple(feature.to(logits.dtype) for feature in features)
            for features in (seen.student, seen.teacher)
        )
        seen = seen._replace(student=student, teacher=teacher)
        with numerics.no_autocast(logits):
            losses = self.soft * self.transfer(seen, numerics.weights_or_ones(weights, logits))
        if self.hard:
            losses = losses + self.hard * numerics.cross_entropy(logits, labels)
        return losses

    def losses(self, step: Step) -> Tensor:
        return self(step.logits, step.targets, step.labels, step.weights, step.seen[0])


def paths_of(given: Paths) -> tuple[str, ...]:
    """``given`` as a tuple."""
    return (given,) if isinstance(given, str) else given


def why_not_by_row(objective: Objective) -> str | None:
    """Why ``objective`` cannot learn its kind of output, in one line; None where it can."""
    output = OUTPUTS[objective.learns]
    if not objective.mixes_rows or output.by_top_class:
        return None
    return (
        f"{type(objective).__name__} couples the rows of a batch, and {output.plural} are selected "
        "row by row, each by its own distance: choose a loss of one row, such as EmbedDistill"
    )


def features_read(objective: Objective) -> tuple[str, ...]:
    """The paths and globs of the teacher's features that ``objective`` reads in all its terms."""
    terms = (term for term in objective.terms if isinstance(term, FeatureObjective))
    return tuple(dict.fromkeys(path for term in terms for path in paths_of(term.teacher)))
