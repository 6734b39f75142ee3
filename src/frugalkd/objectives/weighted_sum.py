"""A weighted sum of objectives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from frugalkd.errors import SettingError
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective, Objective, Step
from frugalkd.objectives.scheduled import Ramp, value_at
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class WeightedSum(BatchObjective):
    """``weight * losses`` of several objectives, summed: ``WeightedSum((KD(), FitNets("2", "2",
    hard=0.0)), (1.0, Ramp(2.0, 0.0)))``.

    Each term's own cross-entropy is in it: set ``hard`` to 0 in all but one.

    Attributes:
        objectives: two or more.
        weights: of each, 0 or more, a number or a ramp over the training; none: 1 each.

    Raises:
        SettingError: less than two objectives, or impossible weights.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float | Ramp, ...] = ()

    def __post_init__(self) -> None:
        if len(self.objectives) < 2:
            raise SettingError(f"a sum has two terms or more, not {len(self.objectives)}")
        if not self.weights:
            object.__setattr__(self, "weights", (1.0,) * len(self.objectives))
        if len(self.weights) != len(self.objectives):
            raise SettingError(f"{len(self.weights)} weights for {len(self.objectives)} objectives")
        for weight in self.weights:
            for end in (0.0, 1.0):
                numerics.check_not_negative(weights=value_at(weight, end))
        needy = [each for each in self.objectives if each.needs_targets]
        narrow = {_temperature(each) for each in needy if each.reads < Fidelity.DIFFERENCES} - {
            None
        }
        reads = max((each.reads for each in needy), default=Fidelity.DRAWS)
        said = {
            "needs_targets": bool(needy),
            "mixes_rows": any(each.mixes_rows for each in self.objectives),
            # Softmaxes at two temperatures are in no targets that were stored for one.
            "reads": max(reads, Fidelity.DIFFERENCES) if len(narrow) > 1 else reads,
            "temperature": narrow.pop() if len(narrow) == 1 else None,
        }
        for name, value in said.items():
            object.__setattr__(self, name, value)

    @property
    def terms(self) -> tuple[Objective, ...]:
        return tuple(term for each in self.objectives for term in each.terms)

    def at(self, progress: float) -> WeightedSum:
        objectives = tuple(each.at(progress) for each in self.objectives)
        return WeightedSum(objectives, tuple(value_at(each, progress) for each in self.weights))

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """As of every :class:`BatchObjective`.

        Raises:
            SettingError: a weight or a setting is a ramp: call ``objective.at(batch.progress)``.
        """
        if any(isinstance(weight, Ramp) for weight in self.weights):
            raise SettingError(
                "a schedule asks for the progress: call objective.at(batch.progress)"
            )
        whole = None
        for factor, each in zip(self.weights, self.objectives, strict=True):
            told = (weights,) if isinstance(each, BatchObjective) else ()
            losses = value_at(factor, 0.0) * each(logits, targets, labels, *told)
            whole = losses if whole is None else whole + losses
        assert whole is not None
        return whole

    def losses(self, step: Step) -> Tensor:
        whole, seen = None, step.seen
        for factor, each in zip(self.weights, self.objectives, strict=True):
            own, seen = seen[: len(each.terms)], seen[len(each.terms) :]
            losses = value_at(factor, step.progress) * each.losses(step._replace(seen=own))
            whole = losses if whole is None else whole + losses
        assert whole is not None
        return whole


def _temperature(objective: Objective) -> float | None:
    return getattr(objective, "temperature", None)
