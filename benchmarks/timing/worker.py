"""Run one job in a separate process: ``python -m benchmarks.timing.worker TASK.json``.

If standard input closes, the parent has ended. The worker then exits, so that it does not compete
with later runs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from frugalkd.errors import FrugalKDError
from frugalkd.files.opening import Resolved
from frugalkd.files.writing import write_json
from frugalkd.runtime.process import keep_freed_memory


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """The result of ``job``: ``kind`` is teach, targets, run, together, ledger, gpu, ranks,
    trainers or billion. A failure is returned as ``error``, in one line."""
    try:
        return _run_job(job)
    except Exception as error:
        return {"error": _one_line(error)}


def _one_line(error: Exception) -> str:
    if isinstance(error, FrugalKDError):
        return str(error)
    traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _run_job(job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.timing.machine import machine
    from benchmarks.timing.runners import RUNNERS, from_plain
    from frugalkd.experiments.runs import execute, targets

    if job["kind"] == "ledger":
        from benchmarks.timing.ledger import measure

        return measure(job["samples"], Resolved(job["folder"]))
    if job["kind"] == "billion":
        from benchmarks.timing import billion

        return billion.measure(job["samples"], Resolved(job["folder"]))
    if job["kind"] == "gpu":
        from benchmarks.timing import gpu

        return gpu.measure(job["samples"])
    if job["kind"] == "ranks":
        from benchmarks.timing import ranks

        return ranks.measure(job["samples"])
    if job["kind"] == "trainers":
        from benchmarks.timing import trainers

        return trainers.measure(job["samples"])
    tasks = [from_plain(plain) for plain in job["tasks"]]
    first = tasks[0]
    if job["kind"] == "teach":
        return execute.teach(first.recipe, first.folder, resume=True)
    if job["kind"] == "targets":
        assert first.teacher is not None
        return dict(targets.ensure_targets(first.recipe, first.teacher))
    found = machine()
    prepared = [partial(RUNNERS[task.runner], task) for task in tasks]
    if job["kind"] == "run":
        return {**prepared[0]()(), "machine": found}
    return {**interleave(prepared, job["rounds"]), "machine": found}


Run = Callable[[], dict[str, Any]]


def interleave(prepared: Sequence[Callable[[], Run]], rounds: int) -> dict[str, Any]:
    """Prepare each run and run it once, to fill caches and create lazy parts. Then run all of them
    ``rounds`` times, in an order that rotates from round to round.

    Returns:
        ``first``: the records of the first runs, ``rounds``: the records of each round, ``errors``:
        one line each; all in the order of ``prepared``, None for missing ones. A run that fails is
        not repeated.
    """
    count = len(prepared)
    runs: dict[int, Run] = {}
    first: list[dict[str, Any] | None] = [None] * count
    errors: list[str | None] = [None] * count
    for place, prepare in enumerate(prepared):
        try:
            run = prepare()
            first[place] = run()
            runs[place] = run
        except Exception as error:
            errors[place] = _one_line(error)
    records_by_round: list[list[dict[str, Any] | None]] = []
    for turn in range(rounds):
        records: list[dict[str, Any] | None] = [None] * count
        for place in ((step + turn) % count for step in range(count)):
            if place in runs:
                try:
                    records[place] = runs[place]()
                except Exception as error:
                    errors[place] = _one_line(error)
                    del runs[place]
        records_by_round.append(records)
    return {"first": first, "rounds": records_by_round, "errors": errors}


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Read the job, run it, and write the result to the file that the job names."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    job = json.loads(Path(sys.argv[1]).read_text())
    write_json(Path(job["answer"]), run_job(job))


if __name__ == "__main__":
    main()
