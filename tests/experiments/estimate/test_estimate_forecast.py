import math

import numpy as np
import pytest

from frugalkd.experiments.estimate.forecast import (
    Curve,
    doublings,
    fall_of,
    fall_per_doubling,
    kept_fraction,
    looks_of_a_sleeper,
    screening_rate,
)
from frugalkd.experiments.estimate.result import Range, exactly
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelfRegulation


def curve(rows, kept, screened=None):
    return Curve(rows, tuple(kept), tuple(screened or [0.0] * len(kept)))


def sleep_of(policy):
    return lambda streak: int(policy.skip_epochs(np.array([streak], dtype=np.uint8))[0])


def test_fall_per_doubling_by_hand():
    small, large = curve(100, [1, 0.8, 0.8]), curve(400, [1, 0.4, 0.4])
    # A half over two doublings; the first epoch says nothing.
    assert fall_per_doubling(small, large, first_is_all=True) == pytest.approx(math.log(2) / 2)
    every = fall_per_doubling(small, large, first_is_all=False)
    assert every == pytest.approx(math.log(2.6 / 1.8) / 2)


def test_a_rise_is_no_fall():
    assert fall_per_doubling(curve(1, [1, 0.2]), curve(4, [1, 0.3]), first_is_all=True) == 0


def test_equal_sets_give_no_fall():
    assert fall_per_doubling(curve(1, [1, 0.5]), curve(1, [1, 0.4]), first_is_all=True) == 0


def test_nothing_kept_gives_no_fall():
    assert fall_per_doubling(curve(1, [1, 0.2]), curve(4, [1, 0.0]), first_is_all=True) == 0
    assert fall_per_doubling(curve(1, [1.0]), curve(4, [1.0]), first_is_all=True) == 0


def test_doublings_that_fade():
    assert doublings(3, 1.0) == 3
    assert doublings(3, 0.5) == 0.5 + 0.25 + 0.125
    assert doublings(1.5, 0.5) == 0.5 + 0.5 * 0.25
    assert doublings(0, 0.5) == 0


def test_the_whole_training_in_small_forecasts_itself():
    whole = curve(1000, [1, 0.5, 0.3, 0.2])
    found = kept_fraction(whole, exactly(0.0), 1000, 4, first_is_all=True)
    assert found.point == pytest.approx(0.5)
    assert found.low == pytest.approx(0.475)
    assert found.high == pytest.approx(0.525)


def test_a_fractional_last_epoch_counts_by_its_part():
    found = kept_fraction(curve(10, [1, 0.5, 0.4]), exactly(0.0), 10, 2.5, first_is_all=True)
    assert found.point == pytest.approx((1 + 0.5 + 0.5 * 0.4) / 2.5)


def test_data_that_double_by_hand():
    found = kept_fraction(curve(10, [1, 0.5]), exactly(0.9), 40, 2, first_is_all=True)
    assert found.point == pytest.approx((1 + 0.5 * math.exp(-0.9 * (0.85 + 0.85**2))) / 2)
    # Two doublings have a margin of 10 %, here wider than what the readings differ by.
    assert found.low == pytest.approx(0.9 * found.point)
    assert found.high == pytest.approx(1.1 * found.point)


def test_the_ends_of_a_fall_are_the_ends_of_the_range():
    fall = Range(0.8, 0.2, 1.6)
    found = kept_fraction(curve(10, [1, 0.5]), fall, 20, 2, first_is_all=True)
    assert found.point == pytest.approx((1 + 0.5 * math.exp(-0.8 * 0.85)) / 2)
    assert found.low == pytest.approx((1 + 0.5 * math.exp(-1.6)) / 2)
    assert found.high == pytest.approx((1 + 0.5 * math.exp(-0.2 * 0.6)) / 2)


def test_a_curve_at_the_top_does_not_say_how_it_will_fall():
    assert fall_of(0.3, 0.1, curve(10, [1, 0.5])) == exactly(0.3)
    assert fall_of(0.0, 0.2, curve(10, [1, 0.95])) == Range(0.1, 0.0, 0.2)


def test_a_miniature_in_which_nobody_passed_leaves_the_low_end_open():
    nobody = curve(10, [1.0, 1.0, 0.99])
    assert kept_fraction(nobody, exactly(0), 80, 20, first_is_all=True).low == 1 / 20
    assert kept_fraction(nobody, exactly(0), 80, 20, first_is_all=False).low == 0
    # Where another mode says how the kept fraction falls, something is known.
    told = kept_fraction(nobody, Range(0.1, 0.0, 0.2), 80, 20, first_is_all=True)
    assert told.low > 0.3
    whole = kept_fraction(nobody, exactly(0), 10, 3, first_is_all=True)
    assert whole.low == pytest.approx(0.95 * whole.point)


def test_under_gate_now_the_first_epoch_falls_too():
    found = kept_fraction(curve(10, [1, 0.5]), exactly(0.2), 20, 2, first_is_all=False)
    assert found.point == pytest.approx(1.5 * math.exp(-0.2 * 0.85) / 2)


def test_missing_epochs_go_on_as_the_last_ones_fell():
    falling = [1, 0.6] + [0.5 * (e / 2) ** -0.1 for e in range(2, 8)]
    found = kept_fraction(curve(10, falling), exactly(0.0), 10, 16, first_is_all=True)
    true = np.mean([1, 0.6] + [0.5 * (e / 2) ** -0.1 for e in range(2, 16)])
    assert found.point == pytest.approx(true)
    flat = np.mean([*falling, *[falling[-1]] * 8])
    assert found.high >= flat - 1e-9


@pytest.mark.parametrize("fall", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("rows", [10, 15, 10_000_000])
def test_ranges_are_in_order_and_within_0_and_1(fall, rows):
    for kept in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.1, 0.05, 0.0]):
        found = kept_fraction(curve(10, kept), exactly(fall), rows, 9, first_is_all=True)
        assert 0 <= found.low <= found.point <= found.high <= 1


@pytest.mark.parametrize("most", [1, 4, 8])
@pytest.mark.parametrize("epochs", [2, 5, 20, 35])
def test_looks_of_a_sleeper_are_those_that_the_policy_makes(most, epochs):
    policy, ledger, pool = SelfRegulation(max_skip=most), Ledger.new(1), np.arange(1)
    passes = Outcome(np.ones(1, np.float32), np.ones(1, bool), np.ones(1, np.float32))

    def visit(epoch, screening):
        failed = policy.needs_training(passes, pool, ledger, EpochContext(epoch, epochs, 0))
        ledger.record(pool, epoch=epoch, confidence=passes.confidence, correct=passes.correct,
                      failed=failed, screening=screening)  # fmt: skip
        sleep = policy.skip_epochs(ledger["streak"][pool])
        ledger["due"][pool] = epoch + sleep + (0 if screening else 1)

    visit(0, False)
    looks = 0
    for epoch in range(1, epochs):
        screen = policy.plan(ledger, pool, EpochContext(epoch, epochs, 0)).screen
        if len(screen):
            visit(epoch, True)
            looks += 1
    assert looks_of_a_sleeper(sleep_of(policy), epochs) == pytest.approx(looks / (epochs - 1))


def test_screening_rate_of_a_whole_miniature_is_its_own():
    seen = curve(10, [1.0, 0.5, 0.5], [0.0, 0.1, 0.2])
    sleep = sleep_of(SelfRegulation())
    assert screening_rate(seen, sleep, 3) == pytest.approx(0.3 / 1.0)
    everyone = curve(10, [1.0, 1.0, 1.0])
    assert screening_rate(everyone, sleep, 3) == looks_of_a_sleeper(sleep, 3)


MEASURED = {
    # tau: (kept of 1,000 and of 4,000 samples from the second epoch on, kept of 60,000)
    0.7: (0.509, 0.3355, 0.247),
    0.9: (0.582, 0.436, 0.327),
    0.97: (0.652, 0.513, 0.420),
}


@pytest.mark.parametrize("tau", MEASURED)
def test_measured_truths_of_fashion_mnist_lie_within_the_range(tau):
    small, large, truth = MEASURED[tau]
    curves = [curve(rows, [1, *[kept] * 19]) for rows, kept in ((1000, small), (4000, large))]
    fall = fall_per_doubling(*curves, first_is_all=True)
    found = kept_fraction(curves[1], exactly(fall), 60_000, 20, first_is_all=True)
    assert found.low <= truth <= found.high
    assert found.point == pytest.approx(truth, abs=0.02)
