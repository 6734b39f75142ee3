"""The trackers that a recipe can name, through Accelerate, and the logging of one run to them."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from frugalkd.errors import FrugalKDWarning, TrackerError
from frugalkd.files.opening import refuse_ways_out
from frugalkd.files.parsing import one_line
from frugalkd.runtime.settings import STRICT, Settings
from frugalkd.training.checkpoints import random_state, set_random_state

if TYPE_CHECKING:  # a recipe without trackers does not import accelerate
    from accelerate.tracking import GeneralTracker

Record = dict[str, Any]


@dataclass(frozen=True)
class Tracked:
    """A run, as trackers name it: ``project`` is the recipe's name, ``name`` the folder's, ``kind``
    teach or distill."""

    project: str
    name: str
    kind: str
    folder: Path


class Tracker(Settings, ABC):
    """One of Accelerate's trackers; its settings are the fields of a frozen dataclass.

    A project, or an experiment, has by default the recipe's name, and a run that of its folder. The
    tracker's own environment variables decide where it sends its data, never a recipe.
    """

    __pydantic_config__: ClassVar = STRICT

    names_run: ClassVar[str]
    """The attribute of Accelerate's tracker, with dots, that is the tracker's own name of a run."""

    forgets: ClassVar[bool] = False
    """Whether a resumed run must send its settings again."""

    keeps: ClassVar[str | None] = None
    """The folder within the run's that the tracker writes to."""

    @abstractmethod
    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        """The arguments of Accelerate's class; ``known``: its own name of a resumed run."""

    def finish(self, tracker: Any) -> None:
        """End the run; pending data are sent."""
        tracker.finish()


@final
@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow; ``MLFLOW_TRACKING_URI`` says where its store is."""

    names_run: ClassVar[str] = "tracker.info.run_id"

    experiment: str | None = None

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        name = self.experiment or run.project
        return {"experiment_name": name, "run_name": run.name, "run_id": known}


@final
@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the run folder: ``tensorboard --logdir runs`` shows all runs below it. A
    resumed run adds a file."""

    names_run: ClassVar[str] = "run_name"
    keeps: ClassVar[str] = "tensorboard"

    def arguments(self, run: Tracked, known: str | None) -> dict[str, Any]:
        return {"run_name": self.keeps, "logging_dir": run.folder}


@final
@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio, a local store that ``trackio show`` displays; ``TRACKIO_DIR`` says where."""

    names_run: ClassVar[str] = "tracker.name"
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

    def finish(self, tracker: Any) -> None:
        import trackio

        trackio.finish()  # the run's own would run, and print, again when the process ends


@final
@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in the run folder."""

    names_run: ClassVar[str] = "tracker.id"
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


TRACKERS: dict[str, type[Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
"""By Accelerate's names."""


def check_installed(trackers: Mapping[str, Tracker]) -> None:
    """Raises TrackerError, with the command that installs it, where a tracker is not installed."""
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    for name in sorted(set(trackers) - set(map(str, get_available_trackers()))):
        raise TrackerError(
            f"tracker {name} is not installed: pip install 'frugalkd[{name}]', or remove it from "
            "the recipe's trackers"
        )


@final
class Tracking(contextlib.ExitStack):
    """The trackers of one run: started, sent each epoch and the results, finished.

    A context that finishes them. None of them changes what is trained: random streams are restored
    after each call, and a tracker that fails during the training is dropped with a warning. What
    they print goes to stderr.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, GeneralTracker] = {}
        self._logged: dict[str, set[int]] = {}

    def start(
        self,
        trackers: Mapping[str, Tracker],
        run: Tracked,
        settings: Mapping[str, str | int | float],
        *,
        known: Mapping[str, str],
        before: Sequence[Record],
    ) -> dict[str, str]:
        """Start ``trackers``; returns each tracker's own name of the run.

        ``known`` is what this method returned when a resumed run began, {} for a new one. A tracker
        that is new to the run receives ``before``, the records of finished epochs.

        Raises:
            TrackerError: one of them is not installed, or does not start.
        """
        check_installed(trackers)
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # by which Accelerate's trackers find out whether this is the main process
        found = {}
        for name, options in trackers.items():
            if options.keeps is not None:
                refuse_ways_out(run.folder / options.keeps)
            try:
                with _isolated():
                    tracker = LOGGER_TYPE_TO_CLASS[name](**options.arguments(run, known.get(name)))
                    tracker.start()
                    self._running[name] = tracker
                    self.callback(self._call, name, options.finish, tracker)
                    found[name] = attrgetter(options.names_run)(tracker)
                    if name not in known or options.forgets:
                        tracker.store_init_configuration(dict(settings))
            except Exception as error:
                raise TrackerError(
                    f"tracker {name} does not start ({_reason(error)}): fix that, or remove it "
                    "from the recipe's trackers"
                ) from error
            self._logged[name] = {record["epoch"] for record in before} if name in known else set()
        for record in before:
            self.log(record)
        return found

    def log(self, record: Record) -> None:
        """An epoch's record; a tracker receives each epoch once."""
        for name, tracker in list(self._running.items()):
            if record["epoch"] not in self._logged[name]:
                self._logged[name].add(record["epoch"])
                values = numbers(record, "train")
                step = values.pop("train/epoch")
                self._call(name, tracker.log, values, step=step)

    def conclude(self, results: dict[str, Any]) -> None:
        """The content of ``results.json``: epochs that a killed process did not log; then, one step
        after the last epoch's, the evaluation and the meters."""
        for record in results["history"]:
            self.log(record)
        last = {"budget": results["budget"]}
        for part in ("evaluation", "meters"):
            last |= numbers(results[part] or {}, part)
        for name, tracker in list(self._running.items()):
            self._call(name, tracker.log, last, step=len(results["history"]))

    def _call(self, name: str, method: Callable[..., None], *given: Any, **more: Any) -> None:
        if name not in self._running:  # it failed before
            return
        try:
            with _isolated():
                method(*given, **more)
        except Exception as error:
            self._running.pop(name, None)
            warnings.warn(
                f"tracker {name} failed ({_reason(error)}): the run continues without it",
                FrugalKDWarning,
                stacklevel=3,
            )


def numbers(tree: Mapping[str, Any], under: str) -> dict[str, int | float]:
    """The numbers of a tree, by their path below ``under``: ``meters/phases/load``."""
    found = _leaves(tree, f"{under}/", "/")
    return {path: value for path, value in found if isinstance(value, int | float)}


def settings_of(recipe: Mapping[str, Any]) -> dict[str, str | int | float]:
    """A resolved recipe as dotted keys: ``student.training.epochs``. Lists, None, and a user's own
    options are JSON text, since not every tracker takes them otherwise."""
    return {
        key: value if isinstance(value, str | int | float) else json.dumps(value)
        for key, value in _leaves(recipe, "", ".")
    }


def _leaves(tree: Mapping[str, Any], under: str, joint: str) -> Iterator[tuple[str, Any]]:
    """The values of a tree by their path; a user's ``options`` are one value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and name != "options":
            yield from _leaves(value, f"{under}{name}{joint}", joint)
        else:
            yield f"{under}{name}", value


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Restores the random streams; what is printed goes to stderr."""
    cpu = torch.device("cpu")
    before = random_state(cpu)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        set_random_state(before, cpu)


def _reason(error: Exception) -> str:
    return one_line(str(error) or type(error).__name__, 200)
