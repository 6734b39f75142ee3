"""What the meters add up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from frugalkd.runtime import meters as module
from frugalkd.runtime.meters import Meters, peak_memory_bytes


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is set."""
    hand = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: hand.now)
    return hand


def test_a_phase_inside_another_is_counted_once(clock):
    meters = Meters()
    with meters.phase("screen"):
        clock.now += 1
        with meters.phase("load"):
            clock.now += 2
            with meters.phase("teacher"):
                clock.now += 4
        clock.now += 8
        with meters.phase("load"):
            clock.now += 16
    with meters.phase("load"):
        clock.now += 32
    assert meters.phases == {"screen": 9, "load": 50, "teacher": 4}
    meters.wall_seconds = 70.0
    assert meters.summary()["phases"]["other"] == 7


def test_a_phase_that_fails_is_counted_too(clock):
    meters = Meters()

    def fail():
        with meters.phase("outer"), meters.phase("inner"):
            clock.now += 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with meters.phase("next"):
        clock.now += 1
    assert meters.phases == {"outer": 0, "inner": 3, "next": 1}


def test_what_happened_within_a_call_can_be_counted_elsewhere(clock):
    meters = Meters()
    with meters.phase("store"):
        clock.now += 5
    meters.move(3, out_of="store", into="teacher")
    assert meters.phases == {"store": 2, "teacher": 3}


def test_a_state_restores_what_was_counted():
    one = Meters(samples_backpropagated=3, student_forwards=5, teacher_queries=7)
    one.wall_seconds, one.eval_seconds, one.phases["load"] = 1.5, 0.5, 0.25
    other = Meters()
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    other.phases["new"] += 1
    assert other.phases["new"] == 1


def test_a_summary_is_plain_json_with_every_meter():
    summary = json.loads(json.dumps(Meters(flops={"student_forward": 2.0}).summary()))
    assert set(summary) == {
        "samples_backpropagated",
        "student_forwards",
        "teacher_queries",
        "flops",
        "wall_seconds",
        "eval_seconds",
        "phases",
        "peak_memory_bytes",
    }


def test_peak_memory_is_in_bytes():
    assert 2**24 < peak_memory_bytes()["process"] < 2**44


def test_cost_counts_passes_of_the_student():
    meters = Meters(samples_backpropagated=300, student_forwards=420, teacher_queries=200)
    meters.flops = {"student_forward": 420 * 2.0, "teacher_forward": 200 * 10.0}
    # r = 10 / 2; of 200 queries 50 filled a store ahead.
    assert meters.cost(100, filled=50) == {
        "epochs": pytest.approx((3 * 300 + 120 + 5 * 150) / 300),
        "filling": pytest.approx(5 * 50 / 300),
        "teacher_ratio": 5.0,
    }


def test_cost_of_a_model_that_cannot_be_counted():
    meters = Meters(samples_backpropagated=300, student_forwards=300)
    assert meters.cost(100) == {"epochs": 3.0, "filling": 0.0, "teacher_ratio": None}
    meters.teacher_queries, meters.flops = 300, {"student_forward": 9.0, "teacher_forward": 0.0}
    assert meters.cost(100) == {"epochs": None, "filling": 0.0, "teacher_ratio": None}
    assert meters.cost(100, filled=300)["epochs"] == 3.0
