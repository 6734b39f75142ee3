"""Settings of an objective that change in the course of the training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from frugalkd.errors import SettingError, nearest
from frugalkd.objectives.objective import BatchObjective, Objective, Step
from frugalkd.runtime.settings import STRICT, Settings
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class Ramp(Settings):
    """A number that goes from ``start`` to ``end`` over the progress of the training, in a line or
    along half a cosine.

    Raises SettingError for ends that are no finite numbers.
    """

    __pydantic_config__: ClassVar = STRICT

    start: float
    end: float
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, progress: float) -> float:
        """Its value at ``progress`` in [0, 1]."""
        linear = self.shape == "linear"
        share = progress if linear else (1 - math.cos(math.pi * progress)) / 2
        return (1 - share) * self.start + share * self.end


def value_at(setting: float | Ramp, progress: float) -> float:
    """A number's own value, or a ramp's."""
    return setting.at(progress) if isinstance(setting, Ramp) else setting


@dataclass(frozen=True)
class Scheduled(BatchObjective):
    """An objective some of whose settings are ramps: its temperature, the weights of its parts.

    :func:`scheduled` makes one. A training tells it its progress; in your own loop,
    ``frugalkd.objectives.criterion`` does, or you ask :meth:`at`.

    A temperature that changes asks for soft targets that are good at every temperature.

    Attributes:
        objective: as it is at first.
        ramps: (setting, ramp) of each that does.

    Raises:
        SettingError: the objective has no such setting, or it is impossible at an end of its ramp.
    """

    objective: Objective
    ramps: tuple[tuple[str, Ramp], ...]

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.objective):
            raise SettingError(
                f"{type(self.objective).__name__} is no dataclass, and has no settings to schedule"
            )
        fields = dataclasses.fields(self.objective)
        known = [field.name for field in fields if field.type in (float, "float")]
        for name, _ in self.ramps:
            if name not in known:
                raise SettingError(f"there is no {name} to schedule: {nearest(name, known)}")
        start, _ = self.at(0.0), self.at(1.0)
        changes = any(name == "temperature" for name, _ in self.ramps)
        said = {
            "objective": start,
            "needs_targets": start.needs_targets,
            "mixes_rows": start.mixes_rows,
            "reads": max(Fidelity.DIFFERENCES, start.reads) if changes else start.reads,
            "temperature": None if changes else getattr(start, "temperature", None),
        }
        for name, value in said.items():
            object.__setattr__(self, name, value)

    @property
    def terms(self) -> tuple[Objective, ...]:
        return self.objective.terms

    def at(self, progress: float) -> Objective:
        """The objective as it is at ``progress`` in [0, 1]."""
        settings = {name: ramp.at(progress) for name, ramp in self.ramps}
        return dataclasses.replace(self.objective, **settings)  # pyright: ignore

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Refused, since nobody says the progress.

        Raises:
            SettingError: always.
        """
        raise SettingError("a schedule asks for the progress: call objective.at(batch.progress)")

    def losses(self, step: Step) -> Tensor:
        return self.at(step.progress).losses(step)


def scheduled(objective: Objective, **ramps: Ramp) -> Scheduled:
    """``objective`` with ramps for some of its settings:
    ``scheduled(KD(), temperature=Ramp(8.0, 1.0))``. Raises SettingError."""
    return Scheduled(objective, tuple(ramps.items()))
