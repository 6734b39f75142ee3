"""Lightning's schedules, limits and intervals where a training takes other steps than in full."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from frugalkd import All, Sampling, SelfRegulation
from frugalkd.errors import SelectionMisuse

pl: Any = pytest.importorskip("pytorch_lightning", reason="needs the extra lightning")

from frugalkd.integrations.lightning import FrugalCallback, FrugalLoader  # noqa: E402

ROWS, BATCH, EPOCHS = 20, 2, 4
FULL = EPOCHS * ROWS // BATCH
"""Steps of full training."""
NONE_IS_LEARNED = SelfRegulation(confidence=0.99)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        ".*does not have many workers",
        ".*You defined a `validation_step`",
        ".*isinstance.treespec, LeafSpec:FutureWarning",
    )
]


def points(rows=ROWS):
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 5, generator=stream)
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())


class Module(pl.LightningModule):
    """``schedule`` makes the configuration of one from the optimiser and the trainer."""

    def __init__(self, schedule=None, net=None):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.schedule = net or torch.nn.Linear(5, 2), schedule
        self.rates, self.validated = [], []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self(batch[0])

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer, self.trainer)}


def fit(
    folder, module, cost=None, sampling=None, val=False, callbacks=(), ckpt_path=None, **settings
):
    sampling = sampling or Sampling(regulation=NONE_IS_LEARNED)
    settings = {"max_epochs": EPOCHS, "enable_checkpointing": False} | settings
    frugal = FrugalCallback(cost=cost, sampling=sampling)
    trainer = pl.Trainer(
        callbacks=[frugal, *callbacks], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
        default_root_dir=folder, **settings,
    )  # fmt: skip
    held_out = torch.utils.data.DataLoader(points(4), 4) if val else None
    trainer.fit(module, FrugalLoader(points(), BATCH), held_out, ckpt_path=ckpt_path)
    return trainer


def by_step(optimizer, trainer):
    assert trainer.estimated_stepping_batches == FULL
    made = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FULL)
    return {"scheduler": made, "interval": "step"}


def by_epoch(optimizer, trainer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trainer.max_epochs)


def by_five(optimizer, trainer):
    made = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FULL // 5)
    return {"scheduler": made, "interval": "step", "frequency": 5}


@pytest.mark.parametrize("cost", [0.5, 1.5])
@pytest.mark.parametrize("mode", ["regulated", "vanilla"])
@pytest.mark.parametrize("schedule", [by_step, by_epoch, by_five])
def test_lightnings_schedules_follow_the_given_limits(schedule, mode, cost, tmp_path):
    sampling = Sampling(mode="vanilla") if mode == "vanilla" else None
    module = Module(schedule)
    trainer = fit(tmp_path, module, cost, sampling)
    steps = trainer.global_step
    assert 0.8 * FULL * cost < steps <= FULL * cost + 2  # screening costs, too
    each = {by_step: 1, by_epoch: FULL // EPOCHS, by_five: 5}[schedule]
    at = np.arange(steps) * FULL / steps // each * each / FULL
    expected = (1 + np.cos(math.pi * at)) / 2
    found = np.array(module.rates)
    close = np.isclose(found, expected, atol=0.05)
    assert close.mean() > 0.85  # steps beside a change of the rate may be on its other side
    assert np.diff(found).max() <= 0
    assert found[-1] == pytest.approx(expected[-1], abs=0.01)
    assert trainer.max_epochs == EPOCHS


def test_a_frequency_in_short_epochs_counts_full_ones(tmp_path):
    """Epochs that use everything are as Lightning's own."""

    class Plain(Module):
        def training_step(self, batch, batch_idx):
            return cross_entropy(super().training_step(batch, batch_idx), batch[1])

    plain = Plain(by_five)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, logger=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, enable_checkpointing=False, accumulate_grad_batches=2,
    )  # fmt: skip
    trainer.fit(plain, torch.utils.data.DataLoader(points(), BATCH))
    whole, short = Module(by_five), Module(by_five)
    fit(tmp_path, whole, sampling=Sampling(policy=All()), accumulate_grad_batches=2)
    assert whole.rates == plain.rates
    gated = fit(tmp_path, short, sampling=Sampling(regulation=SelfRegulation(0.6)))
    assert gated.global_step < FULL
    assert short.rates[-1] < 0.2  # 1.0 where shorter epochs count


@pytest.mark.parametrize("schedule", [by_step, by_epoch])
def test_a_cost_resumes_beyond_the_given_epochs(schedule, tmp_path):
    """The limits are raised before Lightning decides that nothing is left."""

    class Saver(pl.callbacks.Checkpoint):
        def on_train_epoch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    sampling = Sampling(regulation=SelfRegulation(0.55))
    whole, settings = Module(schedule), {"enable_checkpointing": True}
    trainer = fit(tmp_path, whole, 0.9, sampling, callbacks=[Saver()], **settings)
    assert trainer.current_epoch > EPOCHS + 1
    resumed, after = Module(schedule), EPOCHS + 1
    fit(tmp_path, resumed, 0.9, sampling, ckpt_path=tmp_path / f"{after}.ckpt")
    assert 0 < len(resumed.rates) < len(whole.rates)
    assert resumed.rates == whole.rates[-len(resumed.rates) :]
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_budget_keeps_the_epochs_of_schedules_and_averaging(tmp_path):
    """A first epoch of everything is half of the rows that the budget pays for."""
    sampling = Sampling(regulation=SelfRegulation(0.99, budget=0.5, warmup=1))
    module, averaging = Module(by_epoch), pl.callbacks.StochasticWeightAveraging(0.01)
    fit(tmp_path, module, sampling=sampling)
    rates = [(1 + math.cos(math.pi * epoch / EPOCHS)) / 2 for epoch in range(EPOCHS)]
    assert list(dict.fromkeys(module.rates)) == pytest.approx(rates)
    assert module.rates.count(1.0) == FULL / EPOCHS
    trainer = fit(tmp_path, Module(), sampling=sampling, callbacks=[averaging])
    assert trainer.current_epoch == EPOCHS
    assert averaging.n_averaged == EPOCHS - averaging.swa_start


@pytest.mark.parametrize("fault", ["cost", "gate", "batchnorm"])
def test_averaging_by_epochs_is_refused_where_they_differ(fault, tmp_path):
    averaging = pl.callbacks.StochasticWeightAveraging(0.01)
    plain = fit(tmp_path, Module(), callbacks=[averaging])
    assert plain.current_epoch == EPOCHS
    assert averaging.n_averaged is not None
    net = torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.BatchNorm1d(2))
    module = Module(net=net if fault == "batchnorm" else None)
    limited = Sampling(policy=SelfRegulation(0.99, cost=0.5)) if fault == "gate" else None
    averaging = pl.callbacks.StochasticWeightAveraging(0.01)
    with pytest.raises(SelectionMisuse, match="StochasticWeightAveraging"):
        fit(tmp_path, module, 0.5 if fault == "cost" else None, limited, callbacks=[averaging])


@pytest.mark.parametrize("interval", [8, 10, 0.8])
def test_an_interval_of_batches_validates_in_short_epochs(interval, tmp_path):
    module = Module()
    trainer = fit(
        tmp_path, module, sampling=Sampling(regulation=SelfRegulation(0.6)), val=True,
        max_epochs=6, val_check_interval=interval,
    )  # fmt: skip
    assert trainer.global_step < 6 * ROWS // BATCH
    assert len(module.validated) >= trainer.current_epoch
    if interval == 10:
        assert module.validated[-1] == trainer.global_step
