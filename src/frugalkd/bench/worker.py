"""One task in a process of its own: ``python -m frugalkd.bench.worker TASK.json``.

Standard input is a lifeline: where it closes, the parent is gone, and the run must not go on beside
what is started next.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from frugalkd.allocator import keep_freed_memory
from frugalkd.errors import FrugalKDError
from frugalkd.files import write_json


def carry_out(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``job``: ``kind`` is teach, targets, run or together. A run that went wrong is
    an answer like any other."""
    try:
        return _carry_out(job)
    except FrugalKDError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        return {"error": f"{type(error).__name__}: {first}"}


def _carry_out(job: dict[str, Any]) -> dict[str, Any]:
    from frugalkd.bench.machine import machine
    from frugalkd.bench.runners import RUNNERS, from_plain
    from frugalkd.runs import execute, storing

    tasks = [from_plain(said) for said in job["tasks"]]
    first = tasks[0]
    if job["kind"] == "teach":
        return execute.teach(first.recipe, first.folder, resume=True)
    if job["kind"] == "targets":
        assert first.teacher is not None
        return dict(storing.ensure_targets(first.recipe, first.teacher))
    found = machine()
    runs = [RUNNERS[task.runner](task) for task in tasks]
    if job["kind"] == "run":
        return {**runs[0](), "machine": found}
    for run in runs:  # caches, pages and lazily made parts: not of the first round alone
        run()
    rounds = [_one_round(runs, turn) for turn in range(job["rounds"])]
    return {"rounds": rounds, "machine": found}


def _one_round(runs: list[Any], turn: int) -> list[dict[str, Any]]:
    """All runs once, in an order that is turned from round to round; listed in their own."""
    places = [(place + turn) % len(runs) for place in range(len(runs))]
    records = {place: runs[place]() for place in places}
    return [records[place] for place in range(len(runs))]


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
