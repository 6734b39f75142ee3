"""The trackers that a recipe can name, and how Accelerate's tracker is made from each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from frugalkd.runtime.settings import STRICT, Settings


@dataclass(frozen=True)
class Tracked:
    """A run, as trackers name it: ``project`` is the recipe's name, ``name`` the run folder's,
    ``kind`` teach or distill."""

    project: str
    name: str
    kind: str
    folder: Path


class Tracker(Settings, ABC):
    """One of Accelerate's trackers; its settings are the fields of a frozen dataclass.

    The tracker's own environment variables decide where it sends its data, never a recipe.
    """

    __pydantic_config__: ClassVar = STRICT

    forgets: ClassVar[bool] = False
    """Whether a resumed run must send its settings again."""

    keeps: ClassVar[str | None] = None
    """The folder within the run's that the tracker writes to."""

    @abstractmethod
    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        """The arguments of Accelerate's class; ``known``: the :meth:`identity` of a resumed run."""

    @abstractmethod
    def identity(self, tracker: Any) -> str:
        """The tracker's own name of the run; ``tracker`` is Accelerate's, started."""

    def finish(self, tracker: Any) -> None:
        """End the run; pending data are sent."""
        tracker.finish()


@final
@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow; ``MLFLOW_TRACKING_URI`` says where its store is.

    ``experiment``: default the recipe's name. A run has the name of its folder.
    """

    experiment: str | None = None

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        experiment = self.experiment or run.project
        return {"experiment_name": experiment, "run_name": run.name, "run_id": known}

    def identity(self, tracker: Any) -> str:
        return tracker.tracker.info.run_id


@final
@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the run folder: ``tensorboard --logdir runs`` shows all runs below it. A
    resumed run adds a file."""

    keeps: ClassVar[str] = "tensorboard"

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {"run_name": self.keeps, "logging_dir": run.folder}

    def identity(self, tracker: Any) -> str:
        return tracker.run_name


@final
@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio, a local store that ``trackio show`` displays; ``TRACKIO_DIR`` says where.

    ``project``: default the recipe's name. A run has the name of its folder.
    """

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

        trackio.finish()  # the run's own would run, and print, again when the process ends


@final
@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in the run folder, for ``wandb
    sync``.

    ``project``: default the recipe's name. A run has the name of its folder.
    """

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
            "settings": {"console": "off"},  # do not capture the terminal's output
        }

    def identity(self, tracker: Any) -> str:
        return tracker.tracker.id


TRACKERS: dict[str, type[Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
"""By Accelerate's names."""
