"""MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.runtime.settings import STRICT


@final
@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow; ``MLFLOW_TRACKING_URI`` says where its store is.

    ``experiment``: default the recipe's name. A run is called as its folder.
    """

    __pydantic_config__: ClassVar = STRICT

    experiment: str | None = None

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {
            "experiment_name": self.experiment or run.project,
            "run_name": run.name,
            "run_id": known,
        }

    def identity(self, tracker: Any) -> str:
        return tracker.tracker.info.run_id

    def finish(self, tracker: Any) -> None:
        tracker.finish()
