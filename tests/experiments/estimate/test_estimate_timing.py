import time

import pytest
import torch

from frugalkd.experiments.estimate.part import part_of
from frugalkd.experiments.estimate.timing import Timing, time_looks, time_training
from frugalkd.ledger.ledger import Ledger
from frugalkd.runtime.meters import Meters
from frugalkd.training.settings import Optimizer, Schedule, Training
from frugalkd.training.trainer import Run
from toys import images, net


def test_the_lower_quartile_and_the_spread():
    timing = Timing((1.0, 2.0)) + Timing((3.0, 4.0, 100.0))
    assert timing.seconds == 2.0
    assert timing.spread == pytest.approx(2.0 / 3.0)
    assert Timing((2.0,)).spread == 0


def test_a_look_is_timed_by_the_row():
    rows = []

    def look(batch):
        rows.append(len(batch[1]))
        time.sleep(0.01)

    timing = time_looks(look, images(37), 10, torch.device("cpu"), 0.05, with_loading=True)
    assert set(rows) == {10}
    assert len(timing.stretches) == len(rows) - 1 >= 3
    assert 0.001 <= timing.seconds < 0.01


def test_a_step_is_timed_in_equal_epochs_of_a_calm_training():
    asked = []

    def train(part, training):
        asked.append((len(part.ids), training))
        seconds = [0.5 + 0.01 * len(part.ids) * e for e in range(int(training.epochs))]
        history = [{"wall_seconds": s} for s in seconds]
        return Run(net(), Ledger.new(len(part.ids)), Meters(), history)

    training = Training(
        batch_size=4, optimizer=Optimizer(lr=1.0), schedule=Schedule(warmup_steps=9)
    )
    timing = time_training(train, part_of(images(37), 37), training, 2.56)
    # 0.01 s a row: 2.56 s are 256 rows, 32 a stretch.
    assert [rows for rows, _ in asked] == [8, 32]
    assert [settings.epochs for _, settings in asked] == [3, 9]
    assert all(settings.optimizer.lr == 1e-4 for _, settings in asked)
    assert timing.seconds == pytest.approx(0.01)
    assert len(timing.stretches) == 8
