"""How far a run is, in words, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from frugalkd.runtime.formatting import duration

Progress = Callable[[str], None]
"""Receives progress in words."""


class Eta:
    """Adds the time that is left to what it passes on to ``say``. One for each thing that is
    counted: its pace is that since its first call."""

    def __init__(self, say: Progress | None):
        self._say = say
        self._began: tuple[float, float] | None = None

    def __call__(self, said: str, done: float, total: float) -> None:
        """``said``, where ``done`` of ``total`` are done."""
        if self._say is None:
            return
        now, left = time.monotonic(), ""
        at, since = self._began = self._began or (done, now)
        if at < done < total:
            seconds = (now - since) * (total - done) / (done - at)
            left = f", about {duration(max(1.0, seconds))} left"
        self._say(said + left)

    def rows(self, what: str) -> Callable[[int, int], None]:
        """What counts the rows of ``what``: receives how many are done, and of how many."""
        return lambda done, total: self(f"{what}, {done:,} of {total:,}", done, total)


def features_progress(say: Progress | None) -> Callable[[str, int, int], None]:
    """For ``on_progress`` of :class:`frugalkd.RunOptions`."""
    counted: dict[str, Callable[[int, int], None]] = {}

    def report(what: str, done: int, total: int) -> None:
        counted.setdefault(what, Eta(say).rows(what))(done, total)

    return report
