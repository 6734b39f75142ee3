"""Embeddings in Lightning and in transformers' trainer, against a plain loop over a Selection."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from frugalkd import DataLoading, LiveTeacher, Sampling, Selection, SelfRegulation
from frugalkd.errors import ModelError, SelectionMisuse
from frugalkd.objectives import EmbedDistill

ROWS, BATCH, EPOCHS, SEED = 24, 4, 3, 3
SOME = SelfRegulation(confidence=0.6, max_skip=1)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        ".*does not have many workers",
        ".*is smaller than the logging interval",
        ".*isinstance.treespec, LeafSpec:FutureWarning",
    )
]


class Rows(Dataset):
    """Inputs alone, as a mapping."""

    def __init__(self):
        self.x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return ROWS

    def __getitem__(self, id):
        return {"x": self.x[id]}


class Net(nn.Module):
    def __init__(self, seed=0, width=5):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, width))

    def forward(self, x):
        return self.layers(x)


def plain_loop():
    student = Net(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    objective = EmbedDistill()
    selection = Selection(
        Rows(), epochs=EPOCHS, batch_size=BATCH, model=student, seed=SEED,
        targets=LiveTeacher(Net()), loading=DataLoading(),
        sampling=Sampling(policy=SOME, output="embeddings"),
    )  # fmt: skip
    for epoch in selection:
        for batch in epoch:
            outputs = student(**batch.data)
            losses = objective(outputs, batch.targets, batch.labels)
            optimizer.zero_grad()
            batch.reduce(losses).backward()
            optimizer.step()
            batch.observe(outputs, losses=losses)
    return student, selection


def same(student, ledger):
    expected, selection = plain_loop()
    assert 0 < selection.ledger["participations"].sum() < ROWS * EPOCHS
    assert np.array_equal(ledger["participations"], selection.ledger["participations"])
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-6)
    assert ledger.reference["mean"] == pytest.approx(selection.ledger.reference["mean"])


def lightning(width=5, **given):
    pl: Any = pytest.importorskip("pytorch_lightning", reason="needs the extra lightning")
    made = importlib.import_module("frugalkd.integrations.lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net(1, width)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return self(**batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    module = Module()
    callback = made.FrugalCallback(
        teacher=Net(), objective=EmbedDistill(), sampling=Sampling(regulation=SOME), **given
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[callback], logger=False, enable_checkpointing=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, made.FrugalLoader(Rows(), batch_size=BATCH, seed=SEED))
    return module.net, callback.ledger


def test_lightning_comes_to_what_a_loop_does():
    same(*lightning())


def test_lightning_has_no_place_for_a_projection():
    with pytest.raises(ModelError, match=r"of 4 numbers and the teacher of 5.*end the model with"):
        lightning(width=4)


def transformers_trainer(folder, width=5, sampling=SOME, **given):
    transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
    made = importlib.import_module("frugalkd.integrations.transformers")
    student = Net(1, width)
    args = transformers.TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, seed=SEED,
        learning_rate=0.5, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = made.FrugalTrainer(
        student, args, train_dataset=Rows(), data_collator=default_collate, teacher=Net(),
        objective=EmbedDistill(), sampling=Sampling(regulation=sampling), **given,
    )  # fmt: skip
    trainer.train()
    return student, trainer.ledger


def test_transformers_trainer_comes_to_what_a_loop_does(tmp_path):
    same(*transformers_trainer(tmp_path))


def test_transformers_trainer_stores_embeddings_as_values(tmp_path):
    student, ledger = transformers_trainer(tmp_path, store=tmp_path / "kept")
    expected, selection = plain_loop()
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=0.01, atol=0.01)
    assert ledger["confidence"] == pytest.approx(selection.ledger["confidence"], abs=0.02)


def test_transformers_trainer_refuses_widths_and_classes(tmp_path):
    with pytest.raises(ModelError, match="of 4 numbers and the teacher of 5"):
        transformers_trainer(tmp_path, width=4)
    with pytest.raises(SelectionMisuse, match="embeddings are not one class"):
        transformers_trainer(tmp_path, sampling=SelfRegulation(ceiling=0.9))
