"""While runs run: what a signal does, and their progress on stderr."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from frugalkd.cli.show import print_line
from frugalkd.errors import Stopped
from frugalkd.files.parsing import printable
from frugalkd.runtime.process import rank_and_world

EVERY = 30.0
"""Seconds between two lines about progress, where there is no terminal."""

_text = partial(TextColumn, markup=False)  # names are not markup
_COLUMNS = (
    _text("{task.description}", style="bold"),
    BarColumn(bar_width=12),
    _text("{task.fields[done]}"),
    TimeElapsedColumn(),
    _text("{task.fields[state]}", table_column=Column(no_wrap=True, ratio=1)),
    TimeRemainingColumn(compact=True),
)


class Interrupted(Exception):
    """A signal stopped a run. ``str(error)`` is one line: what is kept, how to resume; ``code`` is
    the exit code that shells and schedulers expect."""

    def __init__(self, message: str, number: int = signal.SIGINT):
        self.code = 128 + number
        super().__init__(message)


@contextmanager
def resumable(out: Path, *, runs: bool = False) -> Iterator[Callable[[], bool]]:
    """A signal inside raises Interrupted, which names the command that resumes the run in ``out``,
    or with ``runs`` the many of that folder. Yields what a training polls after each batch: whether
    a signal came. Before the first poll, and at a second signal, the process stops at once."""
    polled, signals = False, list[int]()

    def stop() -> bool:
        nonlocal polled
        polled = True
        return bool(signals)

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1 or not polled:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not have handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield stop
    except (KeyboardInterrupt, Stopped):
        number = signals[-1] if signals else signal.SIGINT
        raise Interrupted(_what_is_kept(out, runs), number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise Interrupted(f"stopped, but {out} was done by then", signals[-1])


def _what_is_kept(out: Path, runs: bool) -> str:
    arguments = sys.argv[1:]
    if runs:
        return (
            f"stopped; finished work is kept; resume with: {shlex.join(['frugalkd', *arguments])}"
        )
    kept = sorted(out.glob("checkpoints/epoch-?????-step-?????????.safetensors"))
    if not kept:
        return "stopped before the end of the first step: nothing is kept"
    # A checkpoint's name has the numbers of complete epochs and steps.
    _, epochs, _, step = kept[-1].stem.split("-")
    arguments = [argument for argument in arguments if argument != "--resume"]
    launcher = "torchrun ... -m " if rank_and_world()[1] > 1 else ""
    again = launcher + shlex.join(["frugalkd", *arguments, "--resume"])
    return (
        f"stopped after {int(step):,} steps ({int(epochs)} complete epochs), which are kept; "
        f"resume with: {again}"
    )


@final
class Bar:
    """A bar on a terminal for the length of a ``with``; elsewhere lines. Its methods receive what
    is shown: the records of a training's epochs, the events of a comparison."""

    def __init__(self, title: str, console: Console | None = None):
        self.title = printable(title)
        self.console = console or Console(file=sys.stderr)
        self.live = self.console.is_terminal
        self._progress = Progress(
            *_COLUMNS, console=self.console, transient=True, expand=True, disable=not self.live
        )
        self._task = self._progress.add_task(self.title, total=1.0, state="", done="")
        self._last = time.monotonic()
        self._running: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, state: str = "", **values: Any) -> None:
        """Move the bar; ``state`` is its text, ``values`` as of rich's ``Progress.update``."""
        self._progress.update(self._task, state=printable(state), **values)

    def say(self, line: str, *, rarely: bool = False) -> None:
        """Print a line, above the bar where there is one; with ``rarely`` only EVERY seconds after
        the last."""
        if not rarely or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            print_line(self.console, line)

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch's record."""
        epoch, seen = int(record["epoch"]) + 1, f"{record['samples_backpropagated']:,}"
        loss = "-" if record["loss"] is None else f"{record['loss']:.4g}"
        active = f"{record['rows'] / record['samples']:.0%}"
        done = f"{record['progress']:.0%}"
        state = f"epoch {epoch} loss {loss} active {active} samples {seen}"
        self.update(state, completed=record["progress"], done=done)
        if not self.live:
            self.say(
                f"{self.title}: epoch {epoch}, {done} done, loss {loss}, active {active}, {seen} "
                f"samples so far, {record['wall_seconds']:.1f} s"
            )

    def before(self, line: str) -> None:
        """What precedes the epochs: a scoring run, the filling of a store."""
        self.update(line)
        if not self.live:
            self.say(f"{self.title}: {line}", rarely=True)

    def event(self, event: dict[str, Any]) -> None:
        """An event of a comparison (see ``comparison.run.Event``)."""
        name, what = run_name(event), event["event"]
        if what in ("begun", "running"):
            self._running[name] = ", ".join(filter(None, [name, event.get("progress")]))
        else:
            self._running.pop(name, None)
        running, finished = "; ".join(self._running.values()), event["finished"]
        so_far = f"{finished}/{event['total']}"
        self.update(running, total=event["total"], completed=finished, done=so_far)
        so_far = f"{self.title}: {so_far}"
        if self.live:
            if what == "failed":
                self.say(f"failed: {name}: {event['error']}")
        elif what == "running":
            self.say(f"{so_far} done; running: {running}", rarely=True)
        elif what != "begun":
            self.say(f"{so_far} {_outcome(event, name)}")


def run_name(event: dict[str, Any]) -> str:
    """The run of an event, or of a row of ``--list``."""
    kind = {"teach": "teacher ", "targets": "soft targets of ", "distill": ""}[event["kind"]]
    seed = f" seed {event['seed']}" if event["kind"] == "distill" else ""
    return f"{kind}{event['name']}{seed}"


def _outcome(event: dict[str, Any], name: str) -> str:
    if event["event"] == "failed":
        return f"{name} failed: {event['error']}"
    if event["kind"] == "targets":
        return f"{name} are stored"
    value = event["accuracy"]
    accuracy = "" if value is None else f": {event['measure']} {100 * value:.2f} %"
    return f"{name}{accuracy}{' (done before)' if event['event'] == 'found' else ''}"
