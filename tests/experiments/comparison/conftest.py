"""Comparisons without worker processes: the same interface, in this process, counting its runs."""

from __future__ import annotations

import pytest

from frugalkd.experiments.comparison.pool import execute
from frugalkd.experiments.recipes.load import load_recipe, override


class HereAndNow:
    """Stands in for Workers. ``started`` lists the keys of all tasks; ``stop_after`` tasks it is
    killed; ``execute`` may be another function."""

    def __init__(self):
        self.started, self.stop_after, self.execute = [], None, execute
        self.jobs, self._queue = 1, []

    def __call__(self, jobs, threads):
        self.jobs, self._queue = jobs, []
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    @property
    def free(self):
        return self.jobs - len(self._queue)

    @property
    def busy(self):
        return len(self._queue)

    def submit(self, key, task):
        assert self.free
        self._queue.append((key, task))

    def next(self, patience=None):
        if self.stop_after is not None and len(self.started) >= self.stop_after:
            raise KeyboardInterrupt
        key, task = self._queue.pop(0)
        self.started.append(key)
        return key, self.execute(task)


@pytest.fixture
def workers(monkeypatch):
    here = HereAndNow()
    monkeypatch.setattr("frugalkd.experiments.comparison.run.Workers", here)
    return here


@pytest.fixture(scope="session")
def tiny():
    """Digits, but so little of it that a run takes a tenth of a second."""
    return override(
        load_recipe("digits"),
        {
            "data.train_size": 300,
            "teacher.model": {"name": "mlp", "options": {"hidden": [32]}},
            "teacher.training.epochs": 10,
            "teacher.training.optimizer.lr": 0.01,
            "student.model": {"name": "mlp", "options": {"hidden": [16]}},
            "student.training.epochs": 6,
            "student.training.optimizer.lr": 0.02,
        },
    )
