"""Regression in Lightning and in transformers' trainer, against a plain loop over a Selection."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from frugalkd import KD, LiveTeacher, Sampling, Selection, SelfRegulation
from frugalkd.errors import SettingError, TargetsError, UnsupportedData
from frugalkd.objectives import RegressionKD, SquaredError

ROWS, BATCH, EPOCHS, SEED = 24, 4, 3, 3
SOME = SelfRegulation(confidence=0.05, max_skip=1)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        ".*does not have many workers",
        ".*is smaller than the logging interval",
        ".*isinstance.treespec, LeafSpec:FutureWarning",
    )
]


class Rows(Dataset):
    """Inputs and values, as a mapping."""

    def __init__(self, targets=2, kind=torch.float32):
        stream = torch.Generator().manual_seed(0)
        self.x = torch.randn(ROWS, 6, generator=stream)
        self.y = self.x[:, :targets].to(kind)
        if targets == 1:
            self.y = self.y[:, 0]

    def __len__(self):
        return ROWS

    def __getitem__(self, id):
        return {"x": self.x[id], "labels": self.y[id]}


class Config:
    """What a trainer reads of a transformers model."""

    def __init__(self, problem_type, num_labels):
        self.problem_type, self.num_labels = problem_type, num_labels

    def to_dict(self):
        return vars(self)


class Net(nn.Module):
    """``loss`` as transformers' models of ``problem_type`` give it."""

    def __init__(self, seed=0, targets=2, problem_type: str | None = "regression"):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, targets))
        self.config = Config(problem_type, targets)

    def forward(self, x, labels=None):
        logits = self.layers(x)
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.mse_loss(logits.squeeze(), labels.squeeze())
        return {"loss": loss, "logits": logits}


def plain_loop(objective=None, targets=2):
    objective = RegressionKD() if objective is None else objective
    student = Net(1, targets)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    selection = Selection(
        Rows(targets), epochs=EPOCHS, batch_size=BATCH, model=student, seed=SEED,
        targets=LiveTeacher(Net(targets=targets)) if objective.needs_targets else None,
        sampling=Sampling(policy=SOME, output="regression"),
    )  # fmt: skip
    for epoch in selection:
        for batch in epoch:
            outputs = student(batch.data["x"])["logits"]
            losses = objective(outputs, batch.targets, batch.labels)
            optimizer.zero_grad()
            batch.reduce(losses).backward()
            optimizer.step()
            batch.observe(outputs, losses=losses)
    return student, selection


def same(student, ledger, **loop):
    expected, selection = plain_loop(**loop)
    assert 0 < selection.ledger["participations"].sum() < ROWS * EPOCHS
    assert np.array_equal(ledger["participations"], selection.ledger["participations"])
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-6)
    assert ledger.reference["sigma"] == pytest.approx(selection.ledger.reference["sigma"])


def test_lightning_comes_to_what_a_loop_does():
    pl: Any = pytest.importorskip("pytorch_lightning", reason="needs the extra lightning")
    made = importlib.import_module("frugalkd.integrations.lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net(1)

        def forward(self, x):
            return self.net(x)["logits"]

        def training_step(self, batch, batch_idx):
            return self(batch["x"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    module = Module()
    callback = made.FrugalCallback(
        teacher=Net(), objective=RegressionKD(), sampling=Sampling(regulation=SOME)
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[callback], logger=False, enable_checkpointing=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, made.FrugalLoader(Rows(), batch_size=BATCH, seed=SEED))
    same(module.net, callback.ledger)


def trainer_of(folder, kind="FrugalTrainer", student=None, data=None, teacher=None, **given):
    transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
    made = importlib.import_module("frugalkd.integrations.transformers")

    class Own(made.FrugalMixin, transformers.Trainer):
        pass

    smoothing = given.pop("label_smoothing_factor", 0.0)
    args = transformers.TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, seed=SEED,
        learning_rate=0.05, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, label_smoothing_factor=smoothing,
    )  # fmt: skip
    return (Own if kind == "Own" else made.FrugalTrainer)(
        Net(1) if student is None else student, args,
        train_dataset=Rows() if data is None else data, data_collator=default_collate,
        teacher=teacher, sampling=Sampling(regulation=SOME), **given,
    )  # fmt: skip


def test_problem_type_is_enough_for_transformers_trainer(tmp_path):
    trainer = trainer_of(tmp_path, teacher=Net())
    assert trainer.objective == RegressionKD()
    trainer.train()
    same(trainer.model, trainer.ledger)


def test_one_label_is_regression_as_in_transformers(tmp_path):
    student = Net(1, 1, problem_type=None)
    trainer = trainer_of(tmp_path, student=student, data=Rows(1), teacher=Net(targets=1))
    trainer.train()
    same(student, trainer.ledger, targets=1)


@pytest.mark.parametrize("kind", ["Own", "FrugalTrainer"])
def test_without_a_teacher_it_is_the_squared_error(tmp_path, kind):
    """Of the objective, or of the model's own loss."""
    trainer = trainer_of(tmp_path, kind)
    trainer.train()
    same(trainer.model, trainer.ledger, objective=SquaredError())


def test_stored_values_are_exact(tmp_path):
    trainer = trainer_of(tmp_path, teacher=Net(), store=tmp_path / "kept")
    trainer.train()
    same(trainer.model, trainer.ledger)


BAD = {
    "classes": (lambda to: trainer_of(to, data=Rows(kind=torch.int64)), UnsupportedData,
                "floating-point values are needed"),
    "an objective of classes": (
        lambda to: trainer_of(to, teacher=Net(), objective=KD()), UnsupportedData,
        "for regression .*, and KD learns classes",
    ),
    "smoothing": (
        lambda to: trainer_of(to, label_smoothing_factor=0.1), SettingError,
        "label_smoothing_factor=0.1 is for one class a sample",
    ),
    "a teacher of other targets": (
        lambda to: trainer_of(to, teacher=Net(targets=3)), TargetsError, "3 regression targets"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(tmp_path, make, kind, says):
    with pytest.raises(kind, match=says):
        make(tmp_path).train()
