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
    """

    name: str
    runner: str
    set: Settings = field(default_factory=dict)
    options: Settings = field(default_factory=dict)
    constant: bool = False
    part: int | None = None


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

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises UnknownName."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UnknownName(f"arm of case {self.name}", name, [arm.name for arm in self.arms])


def find_case(name: str, cases: Sequence[Case]) -> Case:
    """The case of that name. Raises UnknownName."""
    for case in cases:
        if case.name == name:
            return case
    raise UnknownName("case", name, [case.name for case in cases])
