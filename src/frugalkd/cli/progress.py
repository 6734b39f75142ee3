"""How far a run is: a live bar on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from functools import partial
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from frugalkd.cli.show import print_line
from frugalkd.files.parsing import printable

EVERY = 30.0
"""Seconds after which, where there is no terminal, a line says how far it is."""

_text = partial(TextColumn, markup=False)  # names are no markup


class _Progress(ABC):
    """A bar on a terminal for the length of a ``with``; elsewhere there is none."""

    def __init__(self, title: str, total: int, console: Console | None):
        self._title, self._total = printable(title), total
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._said = time.monotonic()

    @abstractmethod
    def _columns(self) -> list[ProgressColumn]:
        """What the bar shows."""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                *self._columns(), console=self._console, transient=True, expand=True
            )
            self._task = self._bar.add_task(self._title, total=self._total, state="starting")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._said = time.monotonic()
        print_line(self._console, line)

    def _say_now_and_then(self, line: str) -> None:
        """The same, unless there was a line lately."""
        if time.monotonic() - self._said >= EVERY:
            self.say(line)


@final
class EpochProgress(_Progress):
    """A listener for the engine: called with each epoch's record, inside a ``with``."""

    def __init__(self, title: str, epochs: float, console: Console | None = None):
        super().__init__(title, math.ceil(epochs), console)

    def _columns(self) -> list[ProgressColumn]:
        return [
            _text("{task.description}", style="bold"),
            BarColumn(bar_width=None),
            _text("{task.completed:.0f}/{task.total:.0f}"),
            _text("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
        ]

    def __call__(self, record: dict[str, Any]) -> None:
        """Show an epoch's record."""
        done = int(record["epoch"]) + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=done, state=_short(record))
        else:
            self.say(f"{self._title}: epoch {done}/{self._total}, {_long(record)}")

    def before(self, said: str) -> None:
        """Show how far what comes before the epochs is: a scoring run, the filling of a store."""
        if self._bar is not None:
            self._bar.update(self._task, state=said)
        else:
            self._say_now_and_then(f"{self._title}: {said}")


def _awake(record: dict[str, Any]) -> str:
    """How many samples trained in this epoch, as a share where the record says of how many."""
    share = f"{record['rows'] / record['samples']:.0%}" if record.get("samples") else ""
    return share or f"{record['rows']:,}"


def _loss(record: dict[str, Any]) -> str:
    return "-" if record["loss"] is None else f"{record['loss']:.4g}"


def _short(record: dict[str, Any]) -> str:
    seen = f"{record['samples_backpropagated']:,}"
    return f"loss {_loss(record)} awake {_awake(record)} samples {seen}"


def _long(record: dict[str, Any]) -> str:
    return (
        f"loss {_loss(record)}, awake {_awake(record)}, "
        f"{record['samples_backpropagated']:,} samples so far, {record['wall_seconds']:.1f} s"
    )


@final
class RunsProgress(_Progress):
    """A listener for a comparison: called with each event, inside a ``with``."""

    def __init__(self, title: str, console: Console | None = None):
        super().__init__(title, 1, console)
        self._running: dict[str, str] = {}

    def _columns(self) -> list[ProgressColumn]:
        return [
            SpinnerColumn(),
            _text("{task.description}", style="bold"),
            BarColumn(bar_width=20),
            _text("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            _text("{task.fields[state]}", table_column=Column(no_wrap=True, ratio=1)),
        ]

    def __call__(self, event: dict[str, Any]) -> None:
        """Show an event (see ``comparison.run.Event``)."""
        name, what = run_name(event), event["event"]
        if what in ("begun", "running"):
            self._running[name] = ", ".join(filter(None, [name, event.get("progress")]))
        else:
            self._running.pop(name, None)
        running = "; ".join(self._running.values())
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=event["total"],
                completed=event["finished"],
                state=printable(running),
            )
            if what == "failed":
                self.say(f"failed: {name}: {event['error']}")
            return
        so_far = f"{self._title}: {event['finished']}/{event['total']}"
        if what == "running":
            self._say_now_and_then(f"{so_far} done; running: {running}")
        elif what != "begun":
            self.say(f"{so_far} {_outcome(event, name)}")


def run_name(event: dict[str, Any]) -> str:
    """What an event, or a row of ``--list``, is about."""
    kind = {"teach": "teacher ", "targets": "soft targets of ", "distill": ""}[event["kind"]]
    seed = f" seed {event['seed']}" if event["kind"] == "distill" else ""
    return f"{kind}{event['name']}{seed}"


def _outcome(event: dict[str, Any], name: str) -> str:
    if event["event"] == "failed":
        return f"{name} failed: {event['error']}"
    if event["kind"] == "targets":
        return f"{name} are stored"
    accuracy = "" if event["accuracy"] is None else f": accuracy {100 * event['accuracy']:.2f} %"
    return f"{name}{accuracy}{' (done before)' if event['event'] == 'found' else ''}"
