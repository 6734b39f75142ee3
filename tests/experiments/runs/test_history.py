"""The course of a training stays short and true."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.experiments.runs.history import mean_history


def epochs(rows, samples=1000):
    return [
        {"epoch": k, "samples": samples, "rows": n, "participations": n // 2, "screened": samples}
        for k, n in enumerate(rows)
    ]


def test_few_epochs_are_kept_as_they_are():
    found = mean_history([epochs([1000, 500, 250])])
    assert found == {
        "every": 1,
        "trained": [1.0, 0.5, 0.25],
        "participations": [0.5, 0.25, 0.125],
        "screened": [1.0, 1.0, 1.0],
    }


@pytest.mark.parametrize("count", [100, 101, 500, 1234])
def test_of_many_epochs_a_few_at_a_time_are_averaged(count):
    rows = np.random.default_rng(0).integers(0, 1001, count)
    found = mean_history([epochs(rows.tolist())])
    assert found is not None
    every = found["every"]
    assert every == -(-count // 100)
    parts = [rows[at : at + every].mean() / 1000 for at in range(0, count, every)]
    assert found["trained"] == pytest.approx(parts, abs=1e-4)
    assert len(found["trained"]) == len(found["screened"]) <= 100


def test_a_run_that_ended_early_leaves_the_rest_to_the_others():
    found = mean_history([epochs([1000]), epochs([500, 200])])
    assert found is not None
    assert found["trained"] == [0.75, 0.2]


@pytest.mark.parametrize("none", [[], [[]]])
def test_nothing_of_no_epoch(none):
    assert mean_history(none) is None
