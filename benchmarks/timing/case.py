"""What a benchmark case is, as plain values. No torch here: the command line lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frugalkd.errors import UnknownName

Settings = Mapping[str, Any]
"""What differs from a recipe: dotted key -> value."""


@dataclass(frozen=True)
class Teacher:
    """A teacher that the arms of a case share; it is trained once, outside of all clocks.

    ``name`` is its folder's; ``recipe`` and ``set`` say how it is trained.
    """

    name: str
    recipe: str
    set: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to do the same training.

    Attributes:
        name: in tables and file names.
        runner: who does it, a key of ``runners.RUNNERS``.
        set: what differs from the case's recipe.
        options: what the runner is told beside the recipe.
        constant: every epoch costs the same, so that a part may stand for the whole.
        part: the epochs that are run unless whole runs are asked for; None for all.
        recipe: in place of the case's.
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
    """Whole training time of one arm over another's, round by round.

    Attributes:
        over, under: names of arms.
        must, aim: figures to reach; None where the ratio is only told.
        at_most: they bound the ratio from above.
        per_budget: divide by the budget of ``over`` too: time over budget, the ideal being 1.
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
    """Arms that take turns, and the ratios that they are run for.

    Attributes:
        name, summary: for lists.
        takes: about how long the default rounds take on one core.
        recipe, set: what all arms share.
        arms: a fresh process for each run, or with ``together`` one process for all of them: where
            a ratio is near 1, the start of a process must not matter.
        ratios: between them.
        teacher: whom the arms ask.
        rounds: how often each arm is run, unless asked otherwise.
        per_rows: tables tell the seconds of 1,000 rows, not those of a training.
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
    """A number that is measured by itself, against nothing.

    Attributes:
        name: its key in what is measured.
        about: in tables.
        must, aim: figures to reach; None where the number is only told.
        at_most: they bound it from above.
    """

    name: str
    about: str
    must: float | None = None
    aim: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Measurement:
    """A case without arms: figures that one process measures.

    Attributes:
        name, summary, takes: as a case's.
        samples, quick_samples: how many samples they are measured on.
        figures: what is told of them.
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
