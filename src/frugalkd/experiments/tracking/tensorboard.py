"""TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.runtime.settings import STRICT


@final
@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the run folder: ``tensorboard --logdir runs`` shows all runs below it. A run
    that goes on adds a file."""

    __pydantic_config__: ClassVar = STRICT

    keeps: ClassVar[str] = "tensorboard"

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {"run_name": self.keeps, "logging_dir": run.folder}

    def identity(self, tracker: Any) -> str:
        return tracker.run_name

    def finish(self, tracker: Any) -> None:
        tracker.finish()
