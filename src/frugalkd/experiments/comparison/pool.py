"""Worker processes that outlive a run, and a run that may not outlive its worker."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from frugalkd.experiments.comparison.plan import Key
from frugalkd.experiments.comparison.worker import Task, serve
from frugalkd.runtime.devices import check_threads

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Workers:
    """Up to ``jobs`` fresh Python processes, started when they are first needed.

    A process serves many runs, since importing torch takes longer than a small run. A process that
    dies (killed, out of memory) costs its own run only, unlike in a pool of concurrent.futures.

    Args:
        jobs: processes.
        threads: CPU threads of each; ``jobs`` never changes them.

    Raises:
        RecipeError: too many threads for this machine.
    """

    def __init__(self, jobs: int, threads: int):
        check_threads(threads)
        self.jobs, self.threads = jobs, threads
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[SpawnProcess, Connection]] = []
        self._busy: dict[Connection, tuple[SpawnProcess, Key]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        """End all processes; a run under way stays at its last checkpoint."""
        for process, _ in self._busy.values():
            process.terminate()
        for connection in (*self._busy, *(connection for _, connection in self._idle)):
            connection.close()
        # All of them are ending: another Ctrl-C leaves none behind.
        for process, _ in (*self._busy.values(), *self._idle):
            process.join()
        self._idle, self._busy = [], {}

    @property
    def free(self) -> int:
        """How many tasks could begin now."""
        return self.jobs - len(self._busy)

    @property
    def busy(self) -> int:
        """How many tasks are under way."""
        return len(self._busy)

    def submit(self, key: Key, task: Task) -> None:
        """Begin ``task``, while one is ``free``."""
        process, connection = self._idle.pop() if self._idle else self._start()
        self._busy[connection] = (process, key)
        with contextlib.suppress(OSError):  # the process has died: next() says so
            connection.send(task)

    def next(self, patience: float | None = None) -> tuple[Key, dict[str, Any]] | None:
        """Wait for one task to end; its key and its reply. None: none has within ``patience``
        seconds."""
        ended = wait(list(self._busy), patience)
        if not ended:
            return None
        connection = ended[0]
        assert isinstance(connection, Connection)
        process, key = self._busy.pop(connection)
        try:
            reply = connection.recv()
        except (EOFError, OSError):
            process.join()
            connection.close()
            code = process.exitcode
            return key, {
                "error": f"its process ended with code {code}: killed, or out of memory",
                "type": "ProcessEnded",
            }
        self._idle.append((process, connection))
        return key, reply

    def _start(self) -> tuple[SpawnProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        with _inherited(self.threads):
            process.start()
        theirs.close()
        return process, ours


@contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a child has before any code runs in it: threads for OpenMP and MKL, and Ctrl-C blocked,
    which this process handles: it ends its children without tracebacks. Blocked, not ignored, so
    that a Ctrl-C that comes right now is not lost."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name in _THREADS:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
