"""Run one job in a fresh process and return its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from frugalkd.files.opening import open_new, remove
from frugalkd.files.writing import write_json


def in_process(job: dict[str, Any], place: Path, threads: int) -> dict[str, Any]:
    """The worker's result of ``job`` (see ``worker.run_job``), with ``error`` if it failed.

    Args:
        job: a JSON object.
        place: the messages of the process are written to ``place.log``; temporary files with other
            suffixes are removed.
        threads: of the process.
    """
    job_file, answer_file, log = (_beside(place, end) for end in ("job", "answer", "log"))
    remove(answer_file)
    write_json(job_file, {**job, "answer": str(answer_file)})
    try:
        code = _start(job_file, log, str(threads))
        answer = read_object(answer_file)
    finally:
        remove(answer_file)
        remove(job_file)
    return {"error": _why(code, log)} if answer is None else answer


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _beside(place: Path, end: str) -> Path:
    return place.with_name(f"{place.name}.{end}")


def _why(code: int, log: Path) -> str:
    """Why a process ended without a result, in one line."""
    if code < 0:
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{hint} (see {log})"
    lines = log.read_text(errors="replace").split("\n")
    messages = [line.strip() for line in lines if line.strip()] or ["no message"]
    return f"its process ended with code {code}: {messages[-1]} (see {log})"


def _start(job: Path, log: Path, threads: str) -> int:
    """Run the worker on ``job`` and wait. Its messages go to ``log``. It ends with this process."""
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.timing.worker", str(job)]
    with os.fdopen(open_new(log), "wb") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the child
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # the processes that it started, too
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
