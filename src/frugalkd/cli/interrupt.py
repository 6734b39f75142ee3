"""Ctrl-C and SIGTERM during a run: it stops where it can go on, and one line says how."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from frugalkd.errors import Stopped
from frugalkd.runtime.process import rank_and_world

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped a run. ``str(error)`` is one line: what is kept, how to go on; ``code`` is
    the exit code that shells and schedulers expect: 128 and the signal's number."""

    def __init__(self, message: str, code: int = 128 + signal.SIGINT):
        self.code = code
        super().__init__(message)


class StopRequest:
    """The wish to stop, as a training asks for it after each step or look.

    Before it first asked, and at a second signal, the process does not wait: KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._asks = False
        self.signal: int = signal.SIGINT
        self.made = False

    def __call__(self) -> bool:
        self._asks = True
        return self.made

    def make(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        again, self.made, self.signal = self.made, True, number
        if again or not self._asks:
            raise KeyboardInterrupt


@contextmanager
def resumable(out: Path, *, runs: bool = False) -> Iterator[StopRequest]:
    """Turn signals inside into Interrupted, which names the command that goes on.

    Args:
        out: the run folder, or with ``runs`` the folder of many: then the same command goes on.

    Yields:
        What a training asks whether to stop.

    Raises:
        Interrupted: a signal came. Where it came too late to stop anything, that is what it says.
    """
    wish = StopRequest()
    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not have handlers
        before = {number: signal.signal(number, wish.make) for number in _SIGNALS}
    try:
        yield wish
    except (KeyboardInterrupt, Stopped):
        raise Interrupted(_what_is_kept(out, runs), 128 + wish.signal) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if wish.made:
        raise Interrupted(f"stopped, but {out} was done by then", 128 + wish.signal)


def _what_is_kept(out: Path, runs: bool) -> str:
    if runs:
        again = shlex.join(["frugalkd", *sys.argv[1:]])
        return f"stopped; what is finished is kept; go on with: {again}"
    kept = sorted(out.glob("checkpoints/epoch-?????-step-?????????.safetensors"))
    if not kept:
        return "stopped before the first step's end: nothing is kept"
    # A checkpoint's name says how many epochs and steps were done.
    _, epochs, _, step = kept[-1].stem.split("-")
    return (
        f"stopped after {int(step):,} steps ({int(epochs)} whole epochs), which are kept; go on "
        f"with: {resume_command()}"
    )


def resume_command() -> str:
    """The command of this process, with ``--resume``; the launcher's part of it is left to say."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    launcher = "torchrun ... -m " if rank_and_world()[1] > 1 else ""
    return launcher + shlex.join(["frugalkd", *arguments, "--resume"])
