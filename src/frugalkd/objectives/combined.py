"""Objectives made of others: settings that change during the training, and weighted sums."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from frugalkd.errors import SettingError, nearest
from frugalkd.objectives.objective import BatchObjective, Objective, Step
from frugalkd.runtime.settings import Settings, Share, check_bounds, types_of
from frugalkd.teachers.encodings import Fidelity


@dataclass(frozen=True)
class Ramp(Settings):
    """A number that goes from ``start`` to ``end`` over the progress of the training, in a line or
    along half a cosine. From the progress ``until``, in (0, 1], it stays at ``end``. Raises
    SettingError for ends that are not finite numbers."""

    start: float
    end: float
    shape: Literal["linear", "cosine"] = "linear"
    until: Share = 1.0

    def at(self, progress: float) -> float:
        """Its value at ``progress`` in [0, 1]."""
        linear = self.shape == "linear"
        progress = min(progress / self.until, 1.0)
        share = progress if linear else (1 - math.cos(math.pi * progress)) / 2
        return (1 - share) * self.start + share * self.end


def value_at(setting: float | Ramp, progress: float) -> float:
    """A number itself, or a ramp's value at ``progress``."""
    return setting.at(progress) if isinstance(setting, Ramp) else setting


class _Combined(BatchObjective):
    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """As of every :class:`BatchObjective`. Raises SettingError where a setting or a weight is a
        ramp, since the progress is not known."""
        if self.at(0.0) != self.at(1.0):
            raise SettingError("a schedule needs the progress: call objective.at(batch.progress)")
        return self.losses(Step(logits, targets, labels, weights, seen=(None,) * len(self.terms)))


@dataclass(frozen=True)
class Scheduled(_Combined):
    """An objective some of whose settings are ramps: its temperature, the weights of its parts.

    :func:`scheduled` makes one. In your own loop, call :meth:`at`. A temperature that changes needs
    soft targets that are valid at every temperature.

    Attributes:
        objective: as it is at the start.
        ramps: (setting, ramp) of each setting that changes.

    Raises:
        SettingError: the objective has no such setting, or it is impossible at an end of its ramp.
    """

    objective: Objective
    ramps: tuple[tuple[str, Ramp], ...]

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.objective):
            raise SettingError(
                f"{type(self.objective).__name__} has no settings to schedule: "
                "it is not a dataclass"
            )
        known = [name for name, kind in types_of(type(self.objective)).items() if kind is float]
        for name, _ in self.ramps:
            if name not in known:
                raise SettingError(f"there is no {name} to schedule: {nearest(name, known)}")
        start, _ = self.at(0.0), self.at(1.0)
        changes = any(name == "temperature" for name, _ in self.ramps)
        vars(self).update(  # a frozen dataclass refuses assignments
            objective=start,
            needs_targets=start.needs_targets,
            mixes_rows=start.mixes_rows,
            output=start.output,
            project=start.project,
            reads=max(Fidelity.DIFFERENCES, start.reads) if changes else start.reads,
            temperature=None if changes else getattr(start, "temperature", None),
        )

    @property
    def terms(self) -> tuple[Objective, ...]:
        return self.objective.terms

    def at(self, progress: float) -> Objective:
        settings = {name: ramp.at(progress) for name, ramp in self.ramps}
        return dataclasses.replace(self.objective, **settings)  # pyright: ignore

    def losses(self, step: Step) -> Tensor:
        return self.at(step.progress).losses(step)


def scheduled(objective: Objective, **ramps: Ramp) -> Scheduled:
    """``objective`` with ramps for some of its settings:
    ``scheduled(KD(), temperature=Ramp(8.0, 1.0))``. Raises SettingError."""
    return Scheduled(objective, tuple(ramps.items()))


@dataclass(frozen=True)
class WeightedSum(_Combined):
    """``weight * losses`` of several objectives, summed: ``WeightedSum((KD(), FitNets("2", "2",
    hard=0.0)), (1.0, Ramp(2.0, 0.0)))``.

    The sum includes the cross-entropy of each term: set ``hard`` to 0 in all but one.

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
            vars(self).update(weights=(1.0,) * len(self.objectives))
        if len(self.weights) != len(self.objectives):
            raise SettingError(f"{len(self.weights)} weights for {len(self.objectives)} objectives")
        for weight in self.weights:
            for end in (0.0, 1.0):
                check_bounds("0 or more", weights=value_at(weight, end))
        learned = {each.output for each in self.objectives} - {None}
        if len(learned) > 1:
            raise SettingError(
                f"the terms of a sum learn {' and '.join(sorted(map(str, learned)))}: a model has "
                "outputs of one kind"
            )
        needy = [each for each in self.objectives if each.needs_targets]
        narrow = {
            getattr(each, "temperature", None)
            for each in needy
            if each.reads < Fidelity.DIFFERENCES
        } - {None}
        reads = max((each.reads for each in needy), default=Fidelity.DRAWS)
        vars(self).update(
            needs_targets=bool(needy),
            mixes_rows=any(each.mixes_rows for each in self.objectives),
            output=next(iter(learned), None),
            project=any(each.project for each in self.objectives),
            # Targets stored for one temperature do not have the softmax at another.
            reads=max(reads, Fidelity.DIFFERENCES) if len(narrow) > 1 else reads,
            temperature=narrow.pop() if len(narrow) == 1 else None,
        )

    @property
    def terms(self) -> tuple[Objective, ...]:
        return tuple(term for each in self.objectives for term in each.terms)

    def at(self, progress: float) -> WeightedSum:
        objectives = tuple(each.at(progress) for each in self.objectives)
        return WeightedSum(objectives, tuple(value_at(each, progress) for each in self.weights))

    def losses(self, step: Step) -> Tensor:
        weighted, seen = [], step.seen
        for weight, each in zip(self.weights, self.objectives, strict=True):
            own, seen = seen[: len(each.terms)], seen[len(each.terms) :]
            losses = each.losses(step._replace(seen=own))
            weighted.append(value_at(weight, step.progress) * losses)
        return sum(weighted[1:], weighted[0])
