"""A run under way, told to its trackers."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, final

import torch

from frugalkd.errors import FrugalKDWarning, TrackerError
from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.files.opening import refuse_ways_out
from frugalkd.files.parsing import one_line
from frugalkd.training.checkpoints import random_state, set_random_state

if TYPE_CHECKING:  # a recipe that names no tracker does not wait for accelerate
    from accelerate.tracking import GeneralTracker

Record = dict[str, Any]


def check_installed(trackers: Mapping[str, Tracker]) -> None:
    """Raises TrackerError, with the command that installs it, where a tracker is not installed."""
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    installed = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if name not in installed:
            raise TrackerError(
                f"tracker {name} is not installed: pip install 'frugalkd[{name}]', or take it out "
                "of the recipe's trackers"
            )


@final
class Tracking:
    """The trackers of one run: started, told of each epoch and of the end, finished.

    A context that finishes them. None of them changes what is trained: the random streams are put
    back behind each call, and one that fails once the training has begun is let go with a warning.
    What they print goes to stderr.
    """

    def __init__(self) -> None:
        self._running: dict[str, GeneralTracker] = {}
        self._chosen: dict[str, Tracker] = {}
        self._told: dict[str, set[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, tracker in list(self._running.items()):
            self._ask(name, self._chosen[name].finish, tracker)
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
        """Start ``trackers``; a run that goes on is found again by ``known``.

        Args:
            trackers: by Accelerate's names.
            run: how it is called, and its folder.
            settings: what it is run with, plain values.
            known: what this method returned when the run began, {} for a new one.
            before: the records of the epochs that are done; a tracker that is new to the run is
                told of them.

        Returns:
            By what each tracker finds the run again.

        Raises:
            TrackerError: one of them is not installed, or does not start.
        """
        if not trackers:
            return {}
        check_installed(trackers)
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # Accelerate's trackers ask it whether this is the main process
        self._chosen.update(trackers)
        found = {}
        for name, options in trackers.items():
            if options.keeps is not None:
                refuse_ways_out(run.folder / options.keeps)
            try:
                with _aside():
                    tracker = LOGGER_TYPE_TO_CLASS[name](**options.arguments(run, known.get(name)))
                    tracker.start()
                    self._running[name] = tracker
                    found[name] = options.identity(tracker)
                    if name not in known or options.forgets:
                        tracker.store_init_configuration(dict(settings))
            except Exception as error:
                raise TrackerError(
                    f"tracker {name} does not start ({_reason(error)}): mend that, or take it out "
                    "of the recipe's trackers"
                ) from error
            self._told[name] = set()
            if name in known:
                self._told[name] = {record["epoch"] for record in before}
        for record in before:
            self.log(record)
        return found

    def log(self, record: Record) -> None:
        """An epoch's record; one that a tracker knows already is not told again."""
        for name, tracker in list(self._running.items()):
            if record["epoch"] not in self._told[name]:
                self._told[name].add(record["epoch"])
                values = numbers(record, "train", leave_out=("epoch",))
                self._ask(name, tracker.log, values, step=record["epoch"])

    def conclude(self, results: dict[str, Any]) -> None:
        """The content of ``results.json``: the evaluation and the meters, one step after the last
        epoch's; before it, epochs that a killed process did not tell of."""
        for record in results["history"]:
            self.log(record)
        last = {"budget": results["budget"]}
        for part in ("evaluation", "meters"):
            last |= numbers(results[part] or {}, part)
        for name, tracker in list(self._running.items()):
            self._ask(name, tracker.log, last, step=len(results["history"]))

    def _ask(self, name: str, what: Callable[..., None], *said: Any, **more: Any) -> None:
        try:
            with _aside():
                what(*said, **more)
        except Exception as error:
            self._running.pop(name, None)
            warnings.warn(
                f"tracker {name} failed ({_reason(error)}): the run goes on without it",
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
    """A resolved recipe as dotted keys: ``student.training.epochs``. Lists, nothing, and sections
    of a user's own keys are JSON text, since not every tracker takes them otherwise."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        key = f"{under}{name}"
        if isinstance(value, Mapping) and name != "options":
            found |= settings_of(value, f"{key}.")
        elif isinstance(value, str | int | float):
            found[key] = value
        else:
            found[key] = json.dumps(value)
    return found


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What happens inside draws from no random stream of the run's, and prints on stderr."""
    cpu = torch.device("cpu")
    before = random_state(cpu)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        set_random_state(before, cpu)


def _reason(error: Exception) -> str:
    return one_line(str(error) or type(error).__name__, 200)
