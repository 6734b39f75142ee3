"""Real processes: they take seconds to start, so one test does all."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import ClassVar

import pytest

from frugalkd.experiments.comparison import pool
from frugalkd.experiments.comparison.plan import Job, Key
from frugalkd.experiments.comparison.pool import Workers, _inherited
from frugalkd.experiments.recipes.load import override


@pytest.mark.heavy
@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_own_run_only(tiny, tmp_path):
    forever = override(tiny, {"student.training.epochs": 50_000, "student.objective": CE})
    brief = override(tiny, {"student.objective": CE, "student.mode": "vanilla"})
    first, second, third = (Key("distill", name, 0) for name in ("first", "second", "third"))
    with Workers(2, threads=1) as workers:
        workers.submit(first, task(forever, tmp_path / "first"))
        workers.submit(second, task(brief, tmp_path / "second"))
        assert (workers.free, workers.busy) == (0, 2)
        assert workers.next(0.0) is None
        key, reply = workers.next() or never()
        assert key == second
        assert reply["results"]["threads"] == 1
        ((process, _),) = workers._busy.values()
        os.kill(process.pid or 0, signal.SIGKILL)
        key, reply = workers.next() or never()
        assert key == first
        assert "ended with code -9" in reply["error"]
        workers.submit(third, task(brief, tmp_path / "third"))
        key, reply = workers.next() or never()
        assert key == third
        assert reply["results"]["digest"]
        # Leaving in the middle of a run ends it.
        workers.submit(first, task(forever, tmp_path / "again"))
        ((process, _),) = workers._busy.values()
    assert process.exitcode is not None


def never():
    raise AssertionError("it waits until one has ended")


CE = {"name": "cross-entropy"}


def task(recipe, out):
    job = Job(Key("distill", out.name, 0), "0" * 64, out, lambda _: recipe)
    return job.task(out.parent, recipe)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_process_logs_is_not_in_the_way_of_a_bar(terminal, monkeypatch, capsys):
    class Once:
        sent: ClassVar = []

        def recv(self):
            if self.sent:
                raise EOFError
            return {}

        def send(self, reply):
            self.sent.append(reply)

    log = logging.getLogger("frugalkd.somewhere")
    monkeypatch.setattr(pool, "execute", lambda task: log.info("from a cache"))
    monkeypatch.setattr(pool.signal, "signal", lambda *_: None)
    monkeypatch.setattr(pool, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    pool.serve(Once())  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr().err == ("" if terminal else "from a cache\n")


def test_what_children_inherit(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with _inherited(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
