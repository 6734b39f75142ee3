"""What a recipe may say to a tracker, and how Accelerate's tracker is made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from frugalkd.runtime.settings import Settings


@dataclass(frozen=True)
class Tracked:
    """A run, as trackers know it: ``project`` is the recipe's name, ``name`` the run folder's,
    ``kind`` teach or distill."""

    project: str
    name: str
    kind: str
    folder: Path


class Tracker(Settings, ABC):
    """One of Accelerate's trackers; its settings are the fields of a frozen dataclass.

    Where it sends what is logged is decided by the tracker's own environment variables, never by
    a recipe.
    """

    forgets: ClassVar[bool] = False
    """Whether a run that goes on has to be told its settings again."""

    keeps: ClassVar[str | None] = None
    """The folder within the run's that the tracker writes to."""

    @abstractmethod
    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        """Of Accelerate's class; ``known``: what :meth:`identity` gave when the run began, for one
        that goes on."""

    @abstractmethod
    def identity(self, tracker: Any) -> str:
        """By what the tracker finds the run again; ``tracker`` is Accelerate's, started."""

    @abstractmethod
    def finish(self, tracker: Any) -> None:
        """End the run; what is still on its way is sent."""
