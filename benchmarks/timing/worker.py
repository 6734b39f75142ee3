"""One task in a process of its own: ``python -m benchmarks.timing.worker TASK.json``.

Standard input is a lifeline: where it closes, the parent is gone, and the run must not go on beside
what is started next.
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

from frugalkd.allocator import keep_freed_memory
from frugalkd.errors import FrugalKDError
from frugalkd.files.atomic import write_json
from frugalkd.files.opening import Resolved


def carry_out(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``job``: ``kind`` is teach, targets, run, together, ledger, ranks or
    billion. What went wrong is an answer like any other: ``error``, in one line."""
    try:
        return _carry_out(job)
    except Exception as error:
        return {"error": _told(error)}


def _told(error: Exception) -> str:
    if isinstance(error, FrugalKDError):
        return str(error)
    traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _carry_out(job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.timing.machine import machine
    from benchmarks.timing.runners import RUNNERS, from_plain
    from frugalkd.runs import execute, storing

    if job["kind"] == "ledger":
        from benchmarks.timing.ledger import measure

        return measure(job["samples"], Resolved(job["folder"]))
    if job["kind"] == "billion":
        from benchmarks.timing import billion

        return billion.measure(job["samples"], Resolved(job["folder"]))
    if job["kind"] == "ranks":
        from benchmarks.timing import ranks

        return ranks.measure(job["samples"])
    tasks = [from_plain(said) for said in job["tasks"]]
    first = tasks[0]
    if job["kind"] == "teach":
        return execute.teach(first.recipe, first.folder, resume=True)
    if job["kind"] == "targets":
        assert first.teacher is not None
        return dict(storing.ensure_targets(first.recipe, first.teacher))
    found = machine()
    prepared = [partial(RUNNERS[task.runner], task) for task in tasks]
    if job["kind"] == "run":
        return {**prepared[0]()(), "machine": found}
    return {**take_turns(prepared, job["rounds"]), "machine": found}


Run = Callable[[], dict[str, Any]]


def take_turns(prepared: Sequence[Callable[[], Run]], rounds: int) -> dict[str, Any]:
    """Prepare each run, run it once so that caches and lazily made parts are not of the first round
    alone, then run all of them ``rounds`` times, in an order that is turned from round to round.

    Returns:
        ``first``: what the first ones said, ``rounds``: what each round's said, ``errors``: in one
        line; all in the order of ``prepared``, None where there is nothing. A run that fails takes
        no further part.
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
            errors[place] = _told(error)
    said: list[list[dict[str, Any] | None]] = []
    for turn in range(rounds):
        records: list[dict[str, Any] | None] = [None] * count
        for place in ((step + turn) % count for step in range(count)):
            if place in runs:
                try:
                    records[place] = runs[place]()
                except Exception as error:
                    errors[place] = _told(error)
                    del runs[place]
        said.append(records)
    return {"first": first, "rounds": said, "errors": errors}


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Read the job, carry it out, write the answer where the job says."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    job = json.loads(Path(sys.argv[1]).read_text())
    write_json(Path(job["answer"]), carry_out(job))


if __name__ == "__main__":
    main()
