"""Objectives that read what is inside teacher and student."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from frugalkd.errors import SettingError
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective, Objective, Step
from frugalkd.objectives.seen import Seen, Shapes

Paths = str | tuple[str, ...]
"""One module path or several, globs among them."""


class FeatureObjective(BatchObjective):
    """One that reads features: what modules of student and teacher return, named by their paths.

    Its loss is ``soft * transfer + hard * cross-entropy``. It needs a live teacher, or stored
    targets with features; the teacher's logits it need not read.

    Attributes (settings, of each such dataclass):
        student: module paths or globs, of the student.
        teacher: the same, of the teacher.
        soft: the weight of :meth:`transfer`.
        hard: the weight of the cross-entropy with the label.
    """

    needs_targets = True
    mixes_rows = False

    paired: ClassVar[bool] = True
    """Whether each of the student's features belongs to one of the teacher's."""

    student: Paths
    teacher: Paths
    soft: float
    hard: float

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            given = getattr(self, name)
            if not given or not all((given,) if isinstance(given, str) else given):
                raise SettingError(f"{name} must name modules: paths such as layer3.2, or globs")
        numerics.check_not_negative(soft=self.soft, hard=self.hard)
        self.check()

    def check(self) -> None:
        """Raises SettingError for impossible settings beside the paths and weights."""

    def build(self, shapes: Shapes) -> nn.Module:
        """What it trains and remembers, for features of ``shapes``: adapters, a memory. New weights
        come from torch's random stream.

        Raises:
            SettingError, ModelError: it cannot be computed on such features.
        """
        if self.paired and len(shapes.student) != len(shapes.teacher):
            raise SettingError(
                f"student names {len(shapes.student)} modules and teacher {len(shapes.teacher)}: "
                "name as many, in the order in which they belong together"
            )
        return self.parts(shapes)

    def parts(self, shapes: Shapes) -> nn.Module:
        """As :meth:`build`, of features that are known to be paired."""
        return nn.Module()

    @abstractmethod
    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        """What is learned from the features, one value per sample, as of a
        :class:`BatchObjective`.

        Args:
            seen: its features in the dtype that the loss is to have.
            weights: (rows,), in the same dtype.
        """

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor | None,
        labels: Tensor,
        weights: Tensor | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        """As of every :class:`BatchObjective`; ``seen`` are the features.

        Raises:
            SettingError: there are no features.
        """
        if seen is None:
            raise SettingError(
                f"{type(self).__name__} reads features: let frugalkd.objectives.criterion.bind "
                "hand them out"
            )
        logits = numerics.full(logits)
        student, teacher = (
            tuple(feature.to(logits.dtype) for feature in features)
            for features in (seen.student, seen.teacher)
        )
        seen = seen._replace(student=student, teacher=teacher)
        with numerics.whole(logits):
            losses = self.soft * self.transfer(seen, numerics.weights_or_ones(weights, logits))
        if self.hard:
            losses = losses + self.hard * numerics.cross_entropy(logits, labels)
        return losses

    def losses(self, step: Step) -> Tensor:
        return self(step.logits, step.targets, step.labels, step.weights, step.seen[0])


def paths_of(given: Paths) -> tuple[str, ...]:
    """As several."""
    return (given,) if isinstance(given, str) else given


def features_read(objective: Objective) -> tuple[str, ...]:
    """The paths and globs of the teacher's features that ``objective`` reads, all terms of a sum
    together; none where it reads none."""
    terms = (term for term in objective.terms if isinstance(term, FeatureObjective))
    return tuple(dict.fromkeys(path for term in terms for path in paths_of(term.teacher)))
