"""The cost model, by hand: numbers small enough to check on paper."""

import pytest

from frugalkd.experiments.estimate.arithmetic import (
    EVERYONE,
    Size,
    fill_seconds,
    mode_estimate,
    student_flops,
    student_seconds,
    students_until_paid,
    teacher_seconds,
)
from frugalkd.experiments.estimate.result import Costs, Flops, Range, Share, exactly

COSTS = Costs(step=3.0, screen=1.0, ask=16.0, fill=17.0, teacher_step=50.0, teacher_screen=15.0)
FLOPS = Flops(10.0, 20.0, 920.0, 1840.0)
SIZE = Size(samples=100, epochs=10, views=2, disk_bytes=4000)
GATED = Share(Range(0.3, 0.25, 0.5), screen_rate=0.2)


def test_vanilla_live_is_step_and_teacher_for_every_row():
    assert student_seconds(EVERYONE, COSTS, SIZE, "live") == exactly(100 * 10 * (3 + 16))
    assert student_seconds(EVERYONE, COSTS, SIZE, "stored") == exactly(100 * 10 * 3)
    assert student_seconds(EVERYONE, COSTS, SIZE, "none") == exactly(100 * 10 * 3)


def test_a_gated_training_pays_for_the_kept_and_for_looks_at_the_sleepers():
    # 0.3 kept, 0.2 of the other 0.7 screened: 0.3 x 3 + 0.14 x 1.
    stored = student_seconds(GATED, COSTS, SIZE, "stored")
    assert stored.point == pytest.approx(1000 * 1.04)
    assert stored.low == pytest.approx(1000 * (0.75 + 0.15))
    assert stored.high == pytest.approx(1000 * (1.5 + 0.10))
    assert student_seconds(GATED, COSTS, SIZE, "live").point == pytest.approx(1000 * 5.84)


def test_gate_now_looks_at_the_whole_pool():
    now = Share(exactly(0.25), pool=0.5, reads_all=True)
    assert now.screened(0.25) == 0.5
    assert student_seconds(now, COSTS, SIZE, "stored").point == pytest.approx(1000 * (0.75 + 0.5))


def test_no_more_is_kept_than_the_pool_has():
    assert Share(exactly(0.5), pool=0.5, screen_rate=0.3).screened(0.6) == 0


@pytest.mark.parametrize("targets", ["live", "stored"])
def test_flops_of_every_row_counted_one_by_one(targets):
    rows = [("kept", 300), ("screened", 140)]
    each = {"kept": 10 + 20 + (920 if targets == "live" else 0), "screened": 10}
    by_hand = sum(each[what] * count for what, count in rows)
    assert student_flops(GATED, FLOPS, SIZE, targets) == pytest.approx(by_hand)


def test_filling_is_every_view_of_the_pool_once():
    assert fill_seconds(EVERYONE, COSTS, SIZE, "stored") == 100 * 2 * 17
    half = Share(exactly(0.4), pool=0.5)
    assert fill_seconds(half, COSTS, SIZE, "stored") == 50 * 2 * 17
    assert fill_seconds(half, COSTS, SIZE, "live") == 0


def test_a_row_of_the_table():
    row = mode_estimate("regulated", GATED, COSTS, FLOPS, SIZE, "stored")
    assert row.of_vanilla.point == pytest.approx(1.04 / 3)
    assert row.forwards.point == pytest.approx(0.3 + 0.14)
    # More kept is fewer asleep; still more forwards.
    assert row.forwards.low == pytest.approx(0.25 + 0.15)
    assert row.disk_bytes == 4000
    assert row.pays
    assert mode_estimate("regulated", GATED, COSTS, FLOPS, SIZE, "live").disk_bytes == 0


@pytest.mark.parametrize(("kept", "pays"), [(0.9499, True), (0.95, False), (1.0, False)])
def test_selection_pays_below_095_of_vanilla(kept, pays):
    share = Share(exactly(kept))
    assert mode_estimate("regulated", share, COSTS, FLOPS, SIZE, "live").pays is pays


def test_screening_can_cost_more_than_the_gate_saves():
    share = Share(exactly(0.7), reads_all=True)
    row = mode_estimate("regulated", share, COSTS, FLOPS, SIZE, "stored")
    assert row.of_vanilla.point == pytest.approx((0.7 * 3 + 1) / 3)
    assert not row.pays


@pytest.mark.parametrize("cost", [0.0, 1.0, 9.99, 10.0, 10.01, 95.0, 1e6])
@pytest.mark.parametrize(("before", "after"), [(20.0, 10.0), (19.3, 19.0)])
def test_break_even_is_the_first_count_for_which_the_sum_is_no_more(cost, before, after):
    found = students_until_paid(cost, before, after)
    assert found is not None
    assert cost + found * after <= found * before + 1e-6
    if found:
        assert cost + (found - 1) * after > (found - 1) * before


def test_break_even_never_and_from_the_start():
    assert students_until_paid(5.0, 10.0, 10.0) is None
    assert students_until_paid(5.0, 10.0, 12.0) is None
    assert students_until_paid(-5.0, 10.0, 12.0) == 0


def test_a_teachers_own_training():
    share = Share(exactly(0.4), screen_rate=0.5)
    assert teacher_seconds(share, COSTS, 100, 2).point == pytest.approx(200 * (0.4 * 50 + 0.3 * 15))
    assert teacher_seconds(EVERYONE, COSTS, 100, 2).point == 200 * 50
