"""Regression and several labels in Lightning and in transformers' trainer, against a plain loop
over a Selection."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from frugalkd import KD, LiveTeacher, Sampling, Selection, SelfRegulation
from frugalkd.errors import SettingError, TargetsError, UnsupportedData
from frugalkd.objectives import BinaryCrossEntropy, MultiLabelKD, RegressionKD, SquaredError

ROWS, BATCH, EPOCHS, SEED = 24, 4, 3, 3

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        ".*does not have many workers",
        ".*is smaller than the logging interval",
        ".*isinstance.treespec, LeafSpec:FutureWarning",
    )
]


@dataclass(frozen=True)
class Kind:
    """``output`` as transformers calls it, its objectives, labels from values, a gate that some
    rows pass, transformers' own loss, and how near stored outputs are."""

    output: Any
    problem_type: str
    distils: Any
    alone: Any
    labels: Callable[[torch.Tensor], torch.Tensor]
    gate: SelfRegulation
    loss: Callable[..., torch.Tensor]
    near: float


def squared(logits, labels):
    return F.mse_loss(logits.squeeze(), labels.squeeze())


REGRESSION = Kind(
    "regression", "regression", RegressionKD(), SquaredError(), lambda x: x,
    SelfRegulation(confidence=0.05, max_skip=1), squared, 1e-6,
)  # fmt: skip
SEVERAL = Kind(
    "several-labels", "multi_label_classification", MultiLabelKD(), BinaryCrossEntropy(),
    lambda x: (x > 0).float(), SelfRegulation(confidence=0.45, max_skip=1),
    F.binary_cross_entropy_with_logits, 1e-3,
)  # fmt: skip
kinds = pytest.mark.parametrize("kind", [REGRESSION, SEVERAL], ids=lambda kind: kind.output)


class Rows(Dataset):
    """Inputs and labels, as a mapping."""

    def __init__(self, kind, targets=2):
        self.x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
        self.y = kind.labels(self.x[:, :targets])
        if targets == 1:
            self.y = self.y[:, 0]

    def __len__(self):
        return ROWS

    def __getitem__(self, id):
        return {"x": self.x[id], "labels": self.y[id]}


class Classes(Rows):
    def __init__(self):
        super().__init__(REGRESSION)
        self.y = torch.arange(ROWS) % 2


class Config:
    """What a trainer reads of a transformers model."""

    def __init__(self, problem_type, num_labels):
        self.problem_type, self.num_labels = problem_type, num_labels

    def to_dict(self):
        return vars(self)


class Net(nn.Module):
    """As a model of transformers: with a configuration and a loss of its own."""

    def __init__(self, kind, seed=0, targets=2, named=True):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, targets))
        self.config, self.loss = Config(kind.problem_type if named else None, targets), kind.loss

    def forward(self, x, labels=None):
        logits = self.layers(x)
        given = {} if labels is None else {"loss": self.loss(logits, labels)}
        return {**given, "logits": logits}


def plain_loop(kind, *, alone=False, targets=2):
    objective, student = kind.alone if alone else kind.distils, Net(kind, 1, targets)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    selection = Selection(
        Rows(kind, targets), epochs=EPOCHS, batch_size=BATCH, model=student, seed=SEED,
        targets=None if alone else LiveTeacher(Net(kind, targets=targets)),
        sampling=Sampling(policy=kind.gate, output=kind.output),
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


def same(kind, student, ledger, near=1e-6, **loop):
    expected, selection = plain_loop(kind, **loop)
    assert 0 < selection.ledger["participations"].sum() < ROWS * EPOCHS
    assert np.array_equal(ledger["participations"], selection.ledger["participations"])
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=1e-4, atol=near)
    assert ledger.reference.keys() == selection.ledger.reference.keys()
    for name, part in ledger.reference.items():
        assert part == pytest.approx(selection.ledger.reference[name])


@kinds
def test_lightning_comes_to_what_a_loop_does(kind):
    pl: Any = pytest.importorskip("pytorch_lightning", reason="needs the extra lightning")
    made = importlib.import_module("frugalkd.integrations.lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net(kind, 1)

        def forward(self, x):
            return self.net(x)["logits"]

        def training_step(self, batch, batch_idx):
            return self(batch["x"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    module = Module()
    callback = made.FrugalCallback(
        teacher=Net(kind), objective=kind.distils, sampling=Sampling(regulation=kind.gate)
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[callback], logger=False, enable_checkpointing=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, made.FrugalLoader(Rows(kind), batch_size=BATCH, seed=SEED))
    same(kind, module.net, callback.ledger)


def trainer_of(folder, kind, of="FrugalTrainer", student=None, data=None, **given):
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
    return (Own if of == "Own" else made.FrugalTrainer)(
        Net(kind, 1) if student is None else student, args,
        train_dataset=Rows(kind) if data is None else data, data_collator=default_collate,
        sampling=Sampling(regulation=kind.gate), **given,
    )  # fmt: skip


@kinds
def test_problem_type_is_enough_for_transformers_trainer(tmp_path, kind):
    trainer = trainer_of(tmp_path, kind, teacher=Net(kind))
    assert trainer.objective == kind.distils
    trainer.train()
    same(kind, trainer.model, trainer.ledger)


def test_one_label_is_regression_as_in_transformers(tmp_path):
    student, teacher = Net(REGRESSION, 1, 1, named=False), Net(REGRESSION, targets=1)
    trainer = trainer_of(
        tmp_path, REGRESSION, student=student, data=Rows(REGRESSION, 1), teacher=teacher
    )
    trainer.train()
    same(REGRESSION, student, trainer.ledger, targets=1)


@pytest.mark.parametrize("of", ["Own", "FrugalTrainer"])
@kinds
def test_without_a_teacher_the_loss_is_that_of_labels(tmp_path, kind, of):
    """Of the objective, or of the model's own loss."""
    trainer = trainer_of(tmp_path, kind, of)
    trainer.train()
    same(kind, trainer.model, trainer.ledger, alone=True)


@kinds
def test_a_store_keeps_the_outputs(tmp_path, kind):
    trainer = trainer_of(tmp_path, kind, teacher=Net(kind), store=tmp_path / "kept")
    trainer.train()
    same(kind, trainer.model, trainer.ledger, near=kind.near)


BAD = {
    "classes as values": (
        lambda to: trainer_of(to, REGRESSION, data=Classes()), UnsupportedData,
        "floating-point values are needed",
    ),
    "classes as several labels": (
        lambda to: trainer_of(to, SEVERAL, data=Classes()), UnsupportedData,
        "0 or 1 for each label are needed",
    ),
    "an objective of classes": (
        lambda to: trainer_of(to, REGRESSION, teacher=Net(REGRESSION), objective=KD()),
        UnsupportedData, "for regression .*, and KD learns classes",
    ),
    "smoothing": (
        lambda to: trainer_of(to, REGRESSION, label_smoothing_factor=0.1), SettingError,
        "label_smoothing_factor=0.1 is for one class a sample",
    ),
    "a teacher of other targets": (
        lambda to: trainer_of(to, REGRESSION, teacher=Net(REGRESSION, targets=3)), TargetsError,
        "3 regression targets",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(tmp_path, make, error, says):
    with pytest.raises(error, match=says):
        make(tmp_path).train()
