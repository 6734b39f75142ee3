"""The options of a benchmark run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frugalkd.files.opening import named

Listener = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How a case is run.

    Attributes:
        out: the output folder.
        rounds: runs of each arm; None for the number of the case.
        arms: names of the arms to run; None for all. Finished runs of other arms in ``out`` are
            still reported.
        whole: run complete trainings of arms that would run only some of the epochs.
        part: epochs to run of arms with constant cost, instead of the case's ``part``.
        quick: only check that the case works, with few rows and two epochs; not a result.
        teachers: folders of existing teachers, by the teacher's name.
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
        """``name`` in file names, with a prefix for quick runs."""
        return f"quick-{name}" if self.quick else name
