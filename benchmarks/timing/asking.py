"""How a case is to be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frugalkd.files.opening import named

Listener = Callable[[str], None]


@dataclass(frozen=True)
class Ask:
    """How a case is to be run.

    Attributes:
        out: the folder of all that is written.
        rounds: of each arm; None for the case's own number.
        arms: names of those to run; None for all. What others have in ``out`` still counts.
        whole: run whole trainings where an arm would run a part.
        part: epochs to run of arms with constant cost, in place of the case's own part.
        quick: a look at whether it works: few rows, two epochs; its figures are no results.
        teachers: folders of teachers that are there already, by the teacher's name.
    """

    out: Path
    rounds: int | None = None
    arms: tuple[str, ...] | None = None
    whole: bool = False
    part: int | None = None
    quick: bool = False
    teachers: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", named(self.out))
        teachers = {name: named(folder) for name, folder in self.teachers.items()}
        object.__setattr__(self, "teachers", teachers)

    def label(self, name: str) -> str:
        """``name`` in the names of files: a quick look's lie apart from results."""
        return f"quick-{name}" if self.quick else name
