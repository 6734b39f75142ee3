from typing import Any

import pytest

from frugalkd.experiments.estimate.miniature import Scale, choose_scale, run_miniature
from frugalkd.experiments.estimate.part import part_of
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import SelfRegulation
from frugalkd.runtime.meters import Meters
from frugalkd.training.settings import Schedule, Training
from frugalkd.training.trainer import Run
from toys import images, net

HISTORY = [
    {"rows": 4, "screened": 0, "planned": 8},
    {"rows": 2, "screened": 1, "planned": 8},
]


@pytest.mark.parametrize(
    ("seconds", "scale"),
    [
        (1e6, Scale(60_000, 20, True)),
        (60_000 * 20 * 1e-3, Scale(60_000, 20, True)),
        (40.0, Scale(2000, 20, False)),
        (20.0, Scale(1053, 19, False)),
        (1.0, Scale(256, 5, False)),
    ],
)
def test_choose_scale(seconds, scale):
    found = choose_scale(1e-3, seconds, 60_000, 20, 64)
    assert found.whole == scale.whole
    assert found.epochs == scale.epochs
    assert found.rows == pytest.approx(scale.rows, abs=1)


def test_few_epochs_stay_few_and_fractions_are_cut():
    assert choose_scale(1e-3, 10, 60_000, 3.5, 64).epochs == 3
    assert choose_scale(1e-3, 1e6, 100, 0.5, 64) == Scale(100, 1, True)


@pytest.mark.parametrize(("when", "screened"), [("last-visit", (0, 0.125)), ("now", (1, 1))])
def test_a_miniature_is_the_training_without_forced_epochs(when, screened):
    asked: list[Any] = []

    def train(part, settings, policy):
        asked.extend((settings, policy))
        return Run(net(), Ledger.new(len(part.ids)), Meters(), HISTORY)

    training = Training(epochs=10, schedule=Schedule(warmup_steps=100), recalibrate_bn=5)
    gate = SelfRegulation(when=when, warmup=2, final_full_epochs=1)
    curve, _ = run_miniature(train, part_of(images(16), 8), training, gate, 2)
    settings, policy = asked
    assert settings.epochs == 2
    # A tenth of the steps: half of the rows, a fifth of the epochs.
    assert settings.schedule.warmup_steps == 10
    assert settings.recalibrate_bn == 0
    assert (policy.warmup, policy.final_full_epochs, policy.when) == (0, 0, when)
    assert curve.kept == (0.5, 0.25)
    assert curve.screened == screened
