"""Jobs in real processes: the results of a worker, and the errors if it has none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from benchmarks.timing import process
from benchmarks.timing.process import in_process, read_object

WORKER = [sys.executable, "-m", "benchmarks.timing.worker"]


@pytest.mark.heavy
def test_an_error_is_returned(tmp_path):
    """One real worker, with an incomplete task."""
    place = tmp_path / "0-arm"
    answer = in_process({"kind": "run", "tasks": [{}], "rounds": 1}, place, threads=1)
    assert answer == {"error": "KeyError: 'runner'"}
    assert "Traceback" in (tmp_path / "0-arm.log").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["0-arm.log"]


def test_a_process_without_a_result_is_one_line(tmp_path, monkeypatch):
    def ends(code, messages=""):
        def start(job, log, threads):
            assert json.loads(job.read_text())["kind"] == "run"
            log.write_text(messages)
            return code

        monkeypatch.setattr(process, "_start", start)
        return in_process({"kind": "run"}, tmp_path / "x", threads=1)["error"]

    log = tmp_path / "x.log"
    assert ends(1, "Traceback\n  a\nImportError: no b\n") == (
        f"its process ended with code 1: ImportError: no b (see {log})"
    )
    assert ends(0) == f"its process ended with code 0: no message (see {log})"
    assert ends(-signal.SIGKILL).startswith("its process was ended by SIGKILL: out of memory?")
    assert ends(-signal.SIGTERM) == f"its process was ended by SIGTERM (see {log})"


def test_an_old_result_is_not_reused(tmp_path, monkeypatch):
    (tmp_path / "x.answer").write_text('{"seconds": 1}')
    monkeypatch.setattr(process, "_start", lambda *_: (tmp_path / "x.log").write_text("") or 3)
    assert "error" in in_process({"kind": "run"}, tmp_path / "x", threads=1)


def test_a_worker_ends_with_its_parent(tmp_path):
    script = (
        "import threading, time; from benchmarks.timing.worker import _end_with_parent;"
        "threading.Thread(target=_end_with_parent, daemon=True).start(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    child.stdin.close()
    assert child.wait(30) == 1


def test_only_json_objects_are_read(tmp_path):
    file = tmp_path / "file"
    assert read_object(file) is None
    for text, expected in (("[1]", None), ("{", None), ('{"a": 1}', {"a": 1})):
        file.write_text(text)
        assert read_object(file) == expected
