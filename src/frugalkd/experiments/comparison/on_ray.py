"""Runs as tasks of a Ray cluster, in the place of worker processes of this machine."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from frugalkd.errors import ClusterError, FolderBusy
from frugalkd.experiments.comparison.plan import Key
from frugalkd.experiments.comparison.worker import Task, execute
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import require_extra

RETRIES = 3
"""How often a run restarts, from its last checkpoint, when its node is lost."""

PATIENCE = 60.0
"""Seconds that a restarted run waits for the lost node's process to release its folder."""

_PASSED_ON = ("PYTHONPATH", "FRUGALKD_DATA")


class RayWorkers:
    """Has the methods of :class:`~frugalkd.experiments.comparison.pool.Workers`, with as many runs
    at a time as the cluster has CPUs for, or GPUs. Every node must see the same folders under the
    same names.

    Args:
        threads: CPUs of a run.
        device: the recipe's; unless it is ``cpu``, a run takes a GPU where the cluster has some.
        address: of a cluster (``auto``: the one of this machine); ``local`` starts one here, which
            ends with this context.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, threads: int, device: str = "auto", address: str = "local"):
        needs = "runs on Ray need ray (--jobs runs them on this machine)"
        require_extra("ray", needs, ClusterError, "ray")
        import ray

        self.threads, self._ray = threads, ray
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
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        set_threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment = {"env_vars": {**passed, **set_threads}}
        self._task = ray.remote(_execute).options(
            **self._needs, max_retries=RETRIES, runtime_env=environment
        )

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exception: object) -> None:
        """End all tasks; a run under way is left at its last checkpoint."""
        for reference in self._busy:
            self._ray.cancel(reference, force=True)
        self._busy.clear()
        if self._ours:
            self._ray.shutdown()

    @property
    def jobs(self) -> int:
        """How many runs the cluster has room for now, one at least."""
        there = self._ray.cluster_resources()
        room = there.get("CPU", 0) // self.threads
        if self._needs["num_gpus"]:
            room = min(room, there.get("GPU", 0))
        return max(1, int(room))

    @property
    def free(self) -> int:
        """How many tasks could begin now."""
        return max(0, self.jobs - len(self._busy))

    @property
    def busy(self) -> int:
        """How many tasks are under way."""
        return len(self._busy)

    def submit(self, key: Key, task: Task) -> None:
        """Begin ``task`` on some node."""
        self._busy[self._task.remote(task, str(Path.cwd()))] = key

    def next(self, patience: float | None = None) -> tuple[Key, dict[str, Any]] | None:
        """Wait for one task to end; its key and its answer. None: none has within ``patience``
        seconds."""
        ended, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=patience)
        if not ended:
            return None
        reference = ended[0]
        key = self._busy.pop(reference)
        try:
            return key, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            said = f"its Ray task was lost {RETRIES + 1} times: {one_line(error, 160)}"
            return key, {"error": said, "type": type(error).__name__}


def _execute(task: Task, folder: str) -> dict[str, Any]:
    """On a node, in ``folder``, which relative paths start from."""
    os.chdir(folder)
    began = time.monotonic()
    while True:
        reply = execute(task)
        late = time.monotonic() - began > PATIENCE
        if late or reply.get("type") != FolderBusy.__name__:
            return reply
        time.sleep(1)
