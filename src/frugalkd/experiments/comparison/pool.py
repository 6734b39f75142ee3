"""Where jobs run: processes of this machine, or tasks of a Ray cluster. A job trains, or fills a
store, and notes its progress and costs in files."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from frugalkd.errors import ClusterError, FolderBusy, FrugalKDError, RunFolderError, WriteFailed
from frugalkd.experiments.comparison.plan import Key
from frugalkd.experiments.runs.progress import Eta
from frugalkd.files.opening import Resolved, remove, remove_folder
from frugalkd.files.parsing import one_line, parse_json, read_bounded, read_json
from frugalkd.files.writing import make_folder, write_json
from frugalkd.runtime.devices import check_threads
from frugalkd.runtime.imports import require_extra
from frugalkd.runtime.logs import logged
from frugalkd.runtime.process import keep_freed_memory, release_freed_memory

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
RETRIES = 3
"""How often a run restarts, from its last checkpoint, when its node is lost."""

PATIENCE = 60.0
"""Seconds that a restarted run waits for the lost node's process to release its folder."""

_PASSED_ON = ("PYTHONPATH", "FRUGALKD_DATA")
EVERY = 2.0
"""Seconds between two writes of a job's progress, and before the first one."""
_LARGEST = 10_000
_AGAIN = "delete it; what filling the store has cost until now is then not counted"

Task = dict[str, Any]
"""``kind`` (teach, targets, distill), ``recipe`` (plain values), ``out``, ``teacher`` (or None),
``stores`` (the folder of stores that runs share), ``cost`` and ``progress`` (files)."""


class Pool(AbstractContextManager["Pool", None]):
    """Executes tasks, several at a time. Its context ends them all: a run under way stays at its
    last checkpoint."""

    _busy: dict[Any, Any]

    @property
    def busy(self) -> int:
        """How many tasks are under way."""
        return len(self._busy)

    @property
    def free(self) -> int:
        """How many tasks could begin now."""
        return max(0, self._room() - self.busy)

    @abstractmethod
    def _room(self) -> int:
        """How many tasks there is room for."""

    @abstractmethod
    def submit(self, key: Key, task: Task) -> None:
        """Begin ``task``, while one is ``free``."""

    @abstractmethod
    def next(self, patience: float | None = None) -> tuple[Key, dict[str, Any]] | None:
        """Wait for one task to end; its key and its reply. None: none has within ``patience``
        seconds."""


class Workers(Pool):
    """Up to ``jobs`` fresh Python processes of ``threads`` CPU threads each, started when they are
    first needed. Raises RecipeError: too many threads for this machine.

    A process serves many runs, since importing torch takes longer than a small run. A process that
    dies (killed, out of memory) costs its own run only, unlike in a pool of concurrent.futures.
    """

    def __init__(self, jobs: int, threads: int):
        check_threads(threads)
        self._jobs, self._threads = jobs, threads
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[SpawnProcess, Connection]] = []
        self._busy: dict[Connection, tuple[SpawnProcess, Key]] = {}

    def __exit__(self, *exception: object) -> None:
        for process, _ in self._busy.values():
            process.terminate()
        for connection in (*self._busy, *(connection for _, connection in self._idle)):
            connection.close()
        # All of them are ending: another Ctrl-C leaves none behind.
        for process, _ in (*self._busy.values(), *self._idle):
            process.join()
        self._idle, self._busy = [], {}

    def _room(self) -> int:
        return self._jobs

    def submit(self, key: Key, task: Task) -> None:
        process, connection = self._idle.pop() if self._idle else self._start()
        self._busy[connection] = (process, key)
        with contextlib.suppress(OSError):  # the process has died: next() says so
            connection.send(task)

    def next(self, patience: float | None = None) -> tuple[Key, dict[str, Any]] | None:
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
            error = f"its process ended with code {process.exitcode}: killed, or out of memory"
            return key, {"error": error}
        self._idle.append((process, connection))
        return key, reply

    def _start(self) -> tuple[SpawnProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        with _inherited(self._threads):
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


class RayWorkers(Pool):
    """Tasks of a Ray cluster at ``address``, as many at a time as it has CPUs (``threads`` a run)
    for, or GPUs: unless the ``device`` is ``cpu``, a run takes one where the cluster has some.
    Every node must see the same folders under the same names. A ``local`` cluster ends with this
    context. Raises ClusterError: Ray is not installed, or there is no cluster at the address."""

    def __init__(self, threads: int, device: str = "auto", address: str = "local"):
        needs = "runs on Ray need ray (--jobs runs them on this machine)"
        require_extra("ray", needs, ClusterError, "ray")
        import ray

        self._threads, self._ray = threads, ray
        self._busy: dict[Any, Key] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # frugalkd sends nothing
            try:
                ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = "this machine" if address == "local" else address
                raise ClusterError(
                    f"no Ray cluster at {where} ({one_line(error, 120)}): start one with "
                    "'ray start --head', or name another --ray-address"
                ) from None
        gpus = 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        self._needs = {"num_cpus": threads, "num_gpus": min(1, gpus)}
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= dict.fromkeys(_THREADS, str(threads))
        self._task = ray.remote(_execute_on_node).options(
            **self._needs, max_retries=RETRIES, runtime_env={"env_vars": environment}
        )

    def __exit__(self, *exception: object) -> None:
        for reference in self._busy:
            self._ray.cancel(reference, force=True)
        self._busy.clear()
        if self._ours:
            self._ray.shutdown()

    def _room(self) -> int:
        cluster = self._ray.cluster_resources()
        room = cluster.get("CPU", 0) // self._threads
        if self._needs["num_gpus"]:
            room = min(room, cluster.get("GPU", 0))
        return max(1, int(room))

    def submit(self, key: Key, task: Task) -> None:
        self._busy[self._task.remote(task, str(Path.cwd()))] = key

    def next(self, patience: float | None = None) -> tuple[Key, dict[str, Any]] | None:
        ended, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=patience)
        if not ended:
            return None
        reference = ended[0]
        key = self._busy.pop(reference)
        try:
            return key, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            lost = f"its Ray task was lost {RETRIES + 1} times: {one_line(error, 160)}"
            return key, {"error": lost}


def _execute_on_node(task: Task, folder: str) -> dict[str, Any]:
    """On a node, in ``folder``, which relative paths start from."""
    os.chdir(folder)
    began = time.monotonic()
    while True:
        reply = execute(task)
        busy = reply.get("type") == FolderBusy.__name__
        if not busy or time.monotonic() - began > PATIENCE:
            return reply
        time.sleep(1)


def execute(task: Task) -> dict[str, Any]:
    """Do one task; returns ``{"results": ...}``, or ``{"error": one line, "traceback": ...}``."""
    try:
        return {"results": _execute(task)}
    except FrugalKDError as error:
        return {"error": str(error), "type": type(error).__name__}
    except Exception as error:
        name, lines = type(error).__name__, str(error).splitlines() or [""]
        error_line = f"{name}: {lines[0]}"
        return {"error": error_line, "type": name, "traceback": traceback.format_exc()}


def _execute(task: Task) -> dict[str, Any]:
    from frugalkd.experiments.recipes.schema import Recipe
    from frugalkd.experiments.runs import execute, targets

    recipe = Recipe.model_validate(task["recipe"])
    # The comparison resolved the folders: they hold no links.
    out, stores = Resolved(task["out"]), Resolved(task["stores"])
    teacher = None if task["teacher"] is None else Resolved(task["teacher"])
    note = ProgressNote(Resolved(task["progress"]))
    with contextlib.closing(note) as progress:
        report: dict[str, Any] = {"on_epoch_end": progress.listen, "progress": progress.write}
        if task["kind"] == "teach":
            return execute.teach(recipe, out, resume=True, **report)
        make_folder(stores)
        if task["kind"] == "targets":
            cost, write = CostNote(Resolved(task["cost"])), progress.write
            spent = targets.ensure_targets(recipe, teacher, stores, note=cost, progress=write)
            cost(spent, done=True)
            return dict(spent)
        return execute.distill(
            recipe, out, teacher=teacher, resume=True, stores=stores,
            record_plans=task["record_plans"], **report,
        )  # fmt: skip


def serve(connection: Connection) -> None:
    """Execute tasks until the other end closes. The process ends with its parent: a killed
    comparison must not leave a run behind that the next one would run beside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    # Beside a bar on a terminal a line of another process would be in the way.
    with nullcontext() if sys.stderr.isatty() else logged():
        while True:
            try:
                connection.send(execute(connection.recv()))
                release_freed_memory()
            except (EOFError, OSError):
                return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class ProgressNote:
    """Writes the progress of a job to the file ``path``; the file is removed when it is closed. A
    file that cannot be written does not stop the job."""

    def __init__(self, path: Path):
        self._path, self._eta = path, Eta(self.write)
        self._due = time.monotonic() + EVERY

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError, WriteFailed):
            remove(self._path)
            remove_folder(self._path.parent)  # if it was the last one

    def write(self, progress: str) -> None:
        """In words, for what comes before the epochs."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            with contextlib.suppress(OSError, WriteFailed):
                make_folder(self._path.parent)
                write_json(self._path, {"said": progress})

    def listen(self, record: dict[str, Any]) -> None:
        """The record of an epoch."""
        done = record["progress"]
        self._eta(f"epoch {record['epoch'] + 1}, {done:.0%} done", done, 1.0)


def read_progress(path: Path) -> str:
    """What was written last; "" where nothing was, or it cannot be read."""
    try:
        return one_line(parse_json(read_bounded(path, _LARGEST))["said"], 100)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class CostNote:
    """Adds the cost of filling a store to what earlier processes noted in the file ``path``."""

    def __init__(self, path: Path):
        self._path, self._before = path, read_cost(path)
        make_folder(path.parent)

    def __call__(self, spent: dict[str, float], done: bool = False) -> None:
        """Write it, with what this process has ``spent`` so far. Raises WriteFailed."""
        cost = {what: self._before[what] + spent[what] for what in ("rows", "seconds")}
        write_json(self._path, {"schema": 1, **cost, "done": done})


def read_cost(path: Path) -> dict[str, Any]:
    """``rows`` that teachers were queried for and ``seconds``, stopped processes included, and
    whether the store is full (``done``); zeros where there is no file. Raises RunFolderError."""
    if not path.is_file():
        return {"rows": 0, "seconds": 0.0, "done": False}
    # Earlier versions wrote it once the store was full, without "done".
    cost = {"done": True, **read_json(path, again=_AGAIN)}
    if not all(type(cost.get(name)) in (int, float) for name in ("rows", "seconds")):
        raise RunFolderError(f"{path} is damaged: {_AGAIN}")
    return cost
