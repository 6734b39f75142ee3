"""The cost model and the forecast, by hand: numbers small enough to check on paper."""

import math

import numpy as np
import pytest

from frugalkd.experiments.estimate.model import (
    EVERYTHING,
    Curve,
    Fit,
    Range,
    Share,
    bounded,
    exactly,
    fall_per_doubling,
    fit_of_all,
    forecast,
    kept_fraction,
    labels_alone,
    mode_row,
    passing_rate,
    screening_rate,
    students_text,
    students_until_paid,
)
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelfRegulation

COSTS = {"step": 3.0, "screen": 1.0, "query": 16.0, "fill": 17.0}
GATED = Share(Range(0.3, 0.25, 0.5), screen_rate=0.2)
GATE = SelfRegulation()


def row(share, targets="stored"):
    store = (3400.0, 4000)
    return mode_row("regulated", share, targets, COSTS, 1000, store, epochs=20, ratio=6.0)


def curve(rows, kept, screened=None, **more):
    return Curve(rows, kept, screened or [0.0] * len(kept), **more)


def test_vanilla_live_queries_every_row():
    assert row(EVERYTHING, "live")["seconds"] == exactly(1000 * (3 + 16))
    assert row(EVERYTHING, "stored")["seconds"] == exactly(1000 * 3)
    assert row(EVERYTHING, "none")["seconds"] == exactly(1000 * 3)


def test_a_gated_training_pays_for_steps_and_screenings():
    # 0.3 kept, 0.2 of the other 0.7 screened: 0.3 x 3 + 0.14 x 1.
    stored = row(GATED)["seconds"]
    assert stored.point == pytest.approx(1000 * 1.04)
    assert stored.low == pytest.approx(1000 * (0.75 + 0.15))
    assert stored.high == pytest.approx(1000 * (1.5 + 0.10))
    assert row(GATED, "live")["seconds"].point == pytest.approx(1000 * 5.84)


def test_gate_now_screens_the_whole_pool():
    now = Share(exactly(0.25), pool=0.5, reads_all=True)
    assert row(now)["seconds"].point == pytest.approx(1000 * (0.75 + 0.5))
    assert Share(exactly(0.5), pool=0.5, screen_rate=0.3).screened(0.6) == 0


def test_a_row_of_the_table():
    made = row(GATED)
    assert made["of_vanilla"].point == pytest.approx(1.04 / 3)
    # More kept is fewer skipped; still more forwards.
    assert made["forwards"].low == pytest.approx(0.25 + 0.15)
    assert (made["fill_seconds"], made["disk_bytes"]) == (3400, 4000)
    assert row(Share(exactly(0.4), pool=0.5))["fill_seconds"] == 1700
    assert made["cost"].low == pytest.approx(20 * (0.25 + 0.15 / 3))
    assert row(EVERYTHING)["cost"] == exactly(20)
    live = row(GATED, "live")
    assert live["cost"].low == pytest.approx(20 * (0.25 * (1 + 6 / 3) + 0.15 / 3))
    assert (live["fill_seconds"], live["disk_bytes"]) == (0, 0)


@pytest.mark.parametrize("cost", [0.0, 1.0, 9.99, 10.0, 10.01, 95.0, 1e6])
@pytest.mark.parametrize(("before", "after"), [(20.0, 10.0), (19.3, 19.0)])
def test_break_even_is_the_first_count_that_costs_no_more(cost, before, after):
    found = students_until_paid(cost, before, after)
    assert found is not None
    assert cost + found * after <= found * before + 1e-6
    if found:
        assert cost + (found - 1) * after > (found - 1) * before


def test_break_even_never_and_from_the_start():
    assert students_until_paid(5.0, 10.0, 10.0) is None
    assert students_until_paid(5.0, 10.0, 12.0) is None
    assert students_until_paid(-5.0, 10.0, 12.0) == 0
    texts = [students_text(count) for count in (None, 0, 1, 1200)]
    assert texts == ["never", "0 students", "1 student", "1,200 students"]


def test_fall_per_doubling():
    small, large = curve(100, [1, 0.8, 0.8]), curve(400, [1, 0.4, 0.4])
    # A half over two doublings; the first epoch gives no information.
    assert fall_per_doubling(large, small) == pytest.approx(math.log(2) / 2)
    small = curve(100, [1, 0.8, 0.8], first_is_all=False)
    large = curve(400, [1, 0.4, 0.4], first_is_all=False)
    assert fall_per_doubling(large, small) == pytest.approx(math.log(2.6 / 1.8) / 2)


@pytest.mark.parametrize(
    ("small", "large"),
    [((1, [1, 0.2]), (4, [1, 0.3])), ((1, [1, 0.5]), (1, [1, 0.4])), ((1, [1, 0.2]), (4, [1, 0]))],
)
def test_no_fall(small, large):
    assert fall_per_doubling(curve(*large), curve(*small)) == 0
    assert fall_per_doubling(curve(*large)) == 0


def test_the_whole_training_forecasts_itself():
    found = kept_fraction(curve(1000, [1, 0.5, 0.3, 0.2]), 0.0, 1000, 4)
    assert found == pytest.approx((0.5, 0.475, 0.525))
    found = kept_fraction(curve(10, [1, 0.5, 0.4]), 0.0, 10, 2.5)
    assert found.point == pytest.approx((1 + 0.5 + 0.5 * 0.4) / 2.5)


def test_data_that_double():
    found = kept_fraction(curve(10, [1, 0.5]), 0.9, 40, 2)
    assert found.point == pytest.approx((1 + 0.5 * math.exp(-0.9 * (0.85 + 0.85**2))) / 2)
    # Two doublings have a margin of 5 + 2 x 3 %.
    assert found[1:] == pytest.approx((0.89 * found.point, 1.11 * found.point))
    found = kept_fraction(curve(10, [1, 0.5], first_is_all=False), 0.2, 20, 2)
    assert found.point == pytest.approx(1.5 * math.exp(-0.2 * 0.85) / 2)


def test_missing_epochs_fall_as_the_last_ones_did():
    falling = [1, 0.6] + [0.5 * (e / 2) ** -0.1 for e in range(2, 8)]
    found = kept_fraction(curve(10, falling), 0.0, 10, 16)
    true = np.mean([1, 0.6] + [0.5 * (e / 2) ** -0.1 for e in range(2, 16)])
    assert found.point == pytest.approx(true)
    assert found.low == pytest.approx(0.85 * true)


def test_no_sample_that_passed_leaves_the_low_end_open():
    top = [1.0, 1.0, 0.99]
    assert kept_fraction(curve(10, top), 0.0, 80, 20).low == 1 / 20
    assert kept_fraction(curve(10, top, first_is_all=False), 0.0, 80, 20).low == 0
    # If another mode shows how the kept fraction falls, something is known.
    assert kept_fraction(curve(10, top), 0.1, 80, 20).low > 0.3
    whole = kept_fraction(curve(10, top), 0.0, 10, 3)
    assert whole.low == pytest.approx(0.95 * whole.point)


@pytest.mark.parametrize("fall", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("rows", [10, 15, 10_000_000])
def test_ranges_are_in_order_and_within_0_and_1(fall, rows):
    for kept in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.1, 0.05, 0.0]):
        found = kept_fraction(curve(10, kept), fall, rows, 9)
        assert 0 <= found.low <= found.point <= found.high <= 1


def test_a_saturated_curve_falls_half_as_regulated():
    top, below = curve(40, [1, 0.95]), [curve(40, [1, 0.4]), curve(10, [1, 0.8])]
    share = forecast([top, top], below, GATE, 80, 2)
    expected = kept_fraction(top, math.log(2) / 4, 80, 2)
    assert share.kept == expected
    assert forecast([below[0]], below, GATE, 40, 2).kept.point == pytest.approx(0.7)


def test_epochs_on_all_samples_are_added():
    gate = SelfRegulation(warmup=2, final_full_epochs=1)
    share = forecast([curve(10, [1, 0.5])], [], gate, 20, 6, pool=0.5)
    mean = kept_fraction(curve(10, [1, 0.5]), 0.0, 10, 6).point
    assert share.kept.point == pytest.approx(0.5 * (0.5 + 0.5 * mean))
    assert share.pool == 0.5


@pytest.mark.parametrize("most", [1, 8])
@pytest.mark.parametrize("epochs", [2, 5, 20, 300])
def test_passing_rate_is_that_of_the_policy(most, epochs):
    policy, ledger, pool = SelfRegulation(max_skip=most), Ledger.new(1), np.arange(1)
    passes = Outcome(np.ones(1, np.float32), np.ones(1, bool), np.ones(1, np.float32))

    def visit(epoch, screening):
        failed = policy.needs_training(passes, pool, ledger, EpochContext(epoch, epochs, 0))
        ledger.record(pool, epoch=epoch, confidence=passes.confidence, correct=passes.correct,
                      failed=failed, screening=screening)  # fmt: skip
        skips = policy.skip_epochs(ledger["streak"][pool])
        ledger["due"][pool] = epoch + skips + (0 if screening else 1)

    visit(0, False)
    screenings = 0
    for epoch in range(1, epochs):
        if len(policy.plan(ledger, pool, EpochContext(epoch, epochs, 0)).screen):
            visit(epoch, True)
            screenings += 1
    assert passing_rate(policy, epochs) == pytest.approx(screenings / (epochs - 1))


def test_screening_rate_of_a_whole_miniature_is_its_own():
    seen = curve(10, [1.0, 0.5, 0.5], [0.0, 0.1, 0.2])
    assert screening_rate(seen, GATE, 3) == pytest.approx(0.3 / 1.0)
    assert screening_rate(curve(10, [1.0, 1.0, 1.0]), GATE, 3) == passing_rate(GATE, 3)


MEASURED = {
    # confidence: (kept of 1,000 and of 4,000 samples from the second epoch on, kept of 60,000)
    0.7: (0.509, 0.3355, 0.247),
    0.9: (0.582, 0.436, 0.327),
    0.97: (0.652, 0.513, 0.420),
}


@pytest.mark.parametrize("confidence", MEASURED)
def test_measured_truths_of_fashion_mnist(confidence):
    small, large, truth = MEASURED[confidence]
    curves = [curve(rows, [1, *[kept] * 19]) for rows, kept in ((4000, large), (1000, small))]
    found = forecast(curves, curves, GATE, 60_000, 20).kept
    assert found.low <= truth <= found.high
    assert found.point == pytest.approx(truth, abs=0.02)


def test_bounds():
    regulated = Share(Range(0.4, 0.3, 0.5), screen_rate=0.2)
    found = bounded(regulated, Share(Range(0.25, 0.2, 0.3)), ever=1.0)
    assert found["significance"].kept == Range(0.5, 0.2, 1.0)
    hybrid = found["hybrid"].kept
    assert hybrid.point == pytest.approx(np.sqrt(0.4 * 0.5))
    assert (hybrid.low, hybrid.high) == (pytest.approx(0.06), 1.0)
    assert found["ceiling"].kept.low == 0.15
    assert all(share.rough for share in found.values())
    assert labels_alone(regulated).kept == pytest.approx((0.4, 0.225, 0.625))


def test_a_fit_grows_as_a_power_of_the_size():
    small, large = Fit(1000, 0.8, 0.08, 0.5), Fit(4000, 0.4, 0.02, 0.9)
    whole = fit_of_all(large, small, 16_000)  # halved and quartered at each fourfold
    assert whole == pytest.approx((16_000, 0.2, 0.005, 0.9))
    few, many = Fit(1000, 0.3, 0.01, 0.8), Fit(4000, 0.4, 0.05, 0.8)
    rising = fit_of_all(many, few, 16_000)  # never above the large
    assert (rising.failing, rising.gap) == pytest.approx((0.4, 0.05))
    alone = fit_of_all(Fit(4000, 0.4, -0.01, 0.9), None, 4000)
    assert (alone.failing, alone.gap) == (0.4, 0)
