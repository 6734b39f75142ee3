"""Definitions of benchmark cases, without torch: the command line lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frugalkd.errors import UnknownName

Settings = Mapping[str, Any]
"""Overrides of a recipe: dotted key -> value."""


@dataclass(frozen=True)
class Teacher:
    """A teacher that the arms of a case share. It is trained once, outside of all timings.

    ``name`` is the name of its folder; ``recipe`` and ``set`` define its training.
    """

    name: str
    recipe: str
    set: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One variant of the training.

    Attributes:
        name: in tables and file names.
        runner: a key of ``runners.RUNNERS``.
        set: overrides of the case's recipe.
        options: further options of the runner.
        constant: every epoch costs the same, so the seconds of some epochs can be scaled.
        part: the number of epochs to run without ``--whole``; None for all.
        recipe: replaces the case's recipe.
    """

    name: str
    runner: str
    set: Settings = field(default_factory=dict)
    options: Settings = field(default_factory=dict)
    constant: bool = False
    part: int | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Ratio:
    """The complete training time of one arm divided by that of another, per round.

    Attributes:
        over, under: names of arms.
        must, aim: bounds to reach; None if the ratio is only reported.
        at_most: the bounds are upper bounds.
        per_budget: also divide by the budget of ``over``: time over budget, ideally 1.
    """

    over: str
    under: str
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    per_budget: bool = False

    @property
    def name(self) -> str:
        return f"{self.over} / {self.under}{' / budget' if self.per_budget else ''}"


@dataclass(frozen=True)
class Case:
    """Arms that run interleaved, and the ratios of their times.

    Attributes:
        name, summary: for lists.
        takes: the approximate time of the default rounds on one core.
        recipe, set: shared by all arms.
        arms: the variants. Each run has a fresh process, or with ``together`` one process runs all
            of them: for ratios near 1, the start of a process must not matter.
        ratios: between arms.
        teacher: the teacher of all arms.
        rounds: the default number of runs per arm.
        per_rows: tables show the seconds for 1,000 rows instead of those of a training.
    """

    name: str
    summary: str
    takes: str
    recipe: str
    arms: Sequence[Arm]
    ratios: Sequence[Ratio] = ()
    set: Settings = field(default_factory=dict)
    teacher: Teacher | None = None
    rounds: int = 3
    together: bool = False
    per_rows: bool = False

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises UnknownName."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UnknownName(f"arm of case {self.name}", name, [arm.name for arm in self.arms])


@dataclass(frozen=True)
class Figure:
    """A number that is measured without a comparison.

    Attributes:
        name: its key in the measurements.
        about: its description in tables.
        must, aim: bounds to reach; None if the number is only reported.
        at_most: the bounds are upper bounds.
    """

    name: str
    about: str
    must: float | None = None
    aim: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Measurement:
    """A case without arms: one process measures all figures.

    Attributes:
        name, summary, takes: as in a case.
        samples, quick_samples: the number of samples, in full and with ``--quick``.
        figures: the measured numbers.
    """

    name: str
    summary: str
    takes: str
    samples: int
    quick_samples: int
    figures: Sequence[Figure]


def find_case(name: str, cases: Sequence[Case | Measurement]) -> Case | Measurement:
    """The case of that name. Raises UnknownName."""
    for case in cases:
        if case.name == name:
            return case
    raise UnknownName("case", name, [case.name for case in cases])
