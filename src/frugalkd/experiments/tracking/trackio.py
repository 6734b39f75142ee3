"""trackio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.runtime.settings import STRICT


@final
@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio, a local store that ``trackio show`` displays; ``TRACKIO_DIR`` says where.

    ``project``: default the recipe's name. A run is called as its folder.
    """

    __pydantic_config__: ClassVar = STRICT
    forgets: ClassVar[bool] = True

    project: str | None = None
    group: str | None = None

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {
            "run_name": self.project or run.project,
            "name": known or run.name,
            "group": self.group,
            "resume": "never" if known is None else "allow",
        }

    def identity(self, tracker: Any) -> str:
        return tracker.tracker.name

    def finish(self, tracker: Any) -> None:
        import trackio

        trackio.finish()  # the run's own would be called again, and print, as the process ends
