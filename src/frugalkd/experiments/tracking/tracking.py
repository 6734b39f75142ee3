"""Logging one run to its trackers."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, final

import torch

from frugalkd.errors import FrugalKDWarning, TrackerError
from frugalkd.experiments.tracking.trackers import Tracked, Tracker
from frugalkd.files.opening import refuse_ways_out
from frugalkd.files.parsing import one_line
from frugalkd.training.checkpoints import random_state, set_random_state

if TYPE_CHECKING:  # a recipe without trackers does not import accelerate
    from accelerate.tracking import GeneralTracker

Record = dict[str, Any]


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
class Tracking:
    """The trackers of one run: started, sent each epoch and the results, finished.

    A context that finishes them. None of them changes what is trained: random streams are restored
    after each call, and a tracker that fails during the training is dropped with a warning. What
    they print goes to stderr.
    """

    def __init__(self) -> None:
        self._running: dict[str, GeneralTracker] = {}
        self._chosen: dict[str, Tracker] = {}
        self._logged: dict[str, set[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, tracker in list(self._running.items()):
            self._call(name, self._chosen[name].finish, tracker)
        self._running.clear()

    def start(
        self,
        trackers: Mapping[str, Tracker],
        run: Tracked,
        settings: Mapping[str, str | int | float | bool],
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
        if not trackers:
            return {}
        check_installed(trackers)
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # by which Accelerate's trackers find out whether this is the main process
        self._chosen.update(trackers)
        found = {}
        for name, options in trackers.items():
            if options.keeps is not None:
                refuse_ways_out(run.folder / options.keeps)
            try:
                with _isolated():
                    tracker = LOGGER_TYPE_TO_CLASS[name](**options.arguments(run, known.get(name)))
                    tracker.start()
                    self._running[name] = tracker
                    found[name] = options.identity(tracker)
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
                values = numbers(record, "train", leave_out=("epoch",))
                self._call(name, tracker.log, values, step=record["epoch"])

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


def numbers(values: Mapping[str, Any], under: str, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of a tree, by their path below ``under``: ``meters/phases/load``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{under}/{name}"
        if isinstance(value, Mapping):
            found |= numbers(value, path)
        elif isinstance(value, int | float) and name not in leave_out:
            found[path] = value
    return found


def settings_of(recipe: Mapping[str, Any], under: str = "") -> dict[str, str | int | float | bool]:
    """A resolved recipe as dotted keys: ``student.training.epochs``. Lists, None, and a user's own
    options are JSON text, since not every tracker takes them otherwise."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        key = f"{under}{name}"
        if isinstance(value, Mapping) and name != "options":
            found |= settings_of(value, f"{key}.")
        else:
            found[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return found


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
