"""Progress in words, with the time that is left."""

from __future__ import annotations

import pytest

from frugalkd.experiments.runs.progress import Eta, features_progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_time_that_is_left_is_by_the_pace_so_far(clock):
    heard = []
    rows = Eta(heard.append).rows("features")
    for done, now in ((256, 130.0), (512, 132.0), (768, 136.0), (2560, 150.0)):
        clock[0] = now  # the first batch may have waited for anything
        rows(done, 2560)
    assert heard == [
        "features, 256 of 2,560",
        "features, 512 of 2,560, about 16 s left",
        "features, 768 of 2,560, about 21 s left",
        "features, 2,560 of 2,560",
    ]


def test_a_part_that_was_done_before_has_no_pace(clock):
    heard = []
    epoch = Eta(heard.append)
    for done in (21, 22):
        clock[0] += 60
        epoch(f"epoch {done} of 40.5", done, 40.5)
    assert heard == ["epoch 21 of 40.5", "epoch 22 of 40.5, about 18 min left"]


def test_without_a_listener_nothing_is_counted(clock):
    Eta(None)("anything", 1, 2)
    features_progress(None)("features", 1, 2)


def test_features_of_each_part_have_a_pace_of_their_own(clock):
    heard = []
    report = features_progress(heard.append)
    for what in ("features", "features of held-out data"):
        for done in (10, 20):
            clock[0] += done
            report(what, done, 40)
    assert heard == [
        "features, 10 of 40",
        "features, 20 of 40, about 40 s left",
        "features of held-out data, 10 of 40",
        "features of held-out data, 20 of 40, about 40 s left",
    ]
