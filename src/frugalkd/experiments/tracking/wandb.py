"""Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.runtime.settings import STRICT


@final
@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in the run folder, for ``wandb
    sync``.

    ``project``: default the recipe's name. A run is called as its folder.
    """

    __pydantic_config__: ClassVar = STRICT

    keeps: ClassVar[str] = "wandb"

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {
            "run_name": self.project or run.project,
            "name": run.name,
            "entity": self.entity,
            "group": self.group,
            "tags": list(self.tags),
            "job_type": run.kind,
            "dir": str(run.folder),
            "id": known,
            "resume": "allow",
            "settings": {"console": "off"},  # what a terminal shows stays the terminal's
        }

    def identity(self, tracker: Any) -> str:
        return tracker.tracker.id

    def finish(self, tracker: Any) -> None:
        tracker.finish()
