"""Other kinds of output than one class in Lightning and in transformers' trainer, against a plain
loop over a Selection."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from frugalkd import KD, All, LiveTeacher, Sampling, Selection, SelfRegulation
from frugalkd.errors import (
    FrugalKDError,
    ModelError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.objectives import (
    BinaryCrossEntropy,
    EmbedDistill,
    MultiLabelKD,
    RegressionKD,
    SquaredError,
)
from ranking import as_launched, on_ranks, preload
from toys import same_columns

for name in ("transformers", "pytorch_lightning"):
    pytest.importorskip(name, reason="needs the extras transformers and lightning")
transformers: Any = importlib.import_module("transformers")
pl: Any = importlib.import_module("pytorch_lightning")

from frugalkd.integrations.lightning import FrugalCallback, FrugalLoader  # noqa: E402
from frugalkd.integrations.transformers import FrugalMixin, FrugalTrainer  # noqa: E402

preload("frugalkd.integrations.transformers", "frugalkd.integrations.lightning")

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
    """``output``; ``problem_type`` as transformers calls it; objectives with a teacher and without;
    labels from values; a gate that some rows pass; transformers' own loss; how near stored outputs
    are; a learning rate."""

    output: Any
    problem_type: str | None
    distils: Any
    alone: Any
    labels: Callable[[torch.Tensor], torch.Tensor] | None
    gate: SelfRegulation
    loss: Callable[..., torch.Tensor] | None
    near: float
    rate: float = 0.05


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
EMBEDDINGS = Kind(
    "embeddings", None, EmbedDistill(), None, None,
    SelfRegulation(confidence=0.6, max_skip=1), None, 0.01, 0.5,
)  # fmt: skip
MIXED = Kind(
    "one-class", None, KD(), None, None, SelfRegulation(confidence=0.6, max_skip=1), None, 0, 0.5
)
"""Classes, without labels, of views that are mixed with other samples."""
LABELLED = (REGRESSION, SEVERAL)
KINDS = {kind.output: kind for kind in (*LABELLED, EMBEDDINGS, MIXED)}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
kinds = pytest.mark.parametrize("kind", LABELLED, ids=lambda kind: kind.output)


class Rows(Dataset):
    """Inputs, and labels of a kind that has some, as a mapping."""

    def __init__(self, kind, targets=2):
        self.x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
        self.y: Any = None if kind.labels is None else kind.labels(self.x[:, :targets])
        if targets == 1:
            self.y = self.y[:, 0]

    def __len__(self):
        return ROWS

    def __getitem__(self, id):
        return {"x": self.x[id]} if self.y is None else {"x": self.x[id], "labels": self.y[id]}


class MixedRows(Rows):
    """A third of all views is the middle of two samples."""

    def mixed(self, ids, views):
        return (np.asarray(ids) + np.asarray(views)) % 3 == 1

    def view(self, id, view):
        x = self.x[id]
        return {"x": (x + self.x[(id + 1) % ROWS]) / 2 if self.mixed(id, view) else x}


def rows_of(kind, targets=2):
    return MixedRows(kind) if kind is MIXED else Rows(kind, targets)


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
        outputs = self.layers(x)
        if self.loss is None:
            return outputs
        given = {} if labels is None else {"loss": self.loss(outputs, labels)}
        return {**given, "logits": outputs}


def outputs_of(given):
    return given if isinstance(given, torch.Tensor) else given["logits"]


def sampling_of(kind, policy=None):
    policy = kind.gate if policy is None else policy
    return Sampling(policy=policy, output=kind.output, label_free=kind is MIXED)


def plain_loop(kind, *, alone=False, targets=2, policy=None):
    objective, student = kind.alone if alone else kind.distils, Net(kind, 1, targets)
    optimizer = torch.optim.SGD(student.parameters(), lr=kind.rate)
    selection = Selection(
        rows_of(kind, targets), epochs=EPOCHS, batch_size=BATCH, model=student, seed=SEED,
        targets=None if alone else LiveTeacher(Net(kind, targets=targets)),
        sampling=sampling_of(kind, policy),
    )  # fmt: skip
    for epoch in selection:
        for batch in epoch:
            outputs = outputs_of(student(batch.data["x"]))
            losses = objective(outputs, batch.targets, batch.labels)
            optimizer.zero_grad()
            batch.reduce(losses).backward()
            optimizer.step()
            batch.observe(outputs, losses=losses)
    return student, selection


def same(kind, student, ledger, near=1e-6, **loop):
    expected, selection = plain_loop(kind, **loop)
    assert 0 < selection.ledger["participations"].sum() < ROWS * EPOCHS or "policy" in loop
    assert np.array_equal(ledger["participations"], selection.ledger["participations"])
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=1e-4, atol=near)
    assert ledger.reference.keys() == selection.ledger.reference.keys()
    for name, part in ledger.reference.items():
        assert part == pytest.approx(selection.ledger.reference[name], abs=near)


class Module(pl.LightningModule):
    def __init__(self, kind, net):
        super().__init__()
        self.net, self.rate = net, kind.rate

    def forward(self, x):
        return outputs_of(self.net(x))

    def training_step(self, batch, batch_idx):
        return self(batch["x"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Saver(pl.callbacks.Checkpoint):
    """After each step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"checkpoint-{trainer.global_step}")


def by_lightning(
    kind, folder, *, student=None, taught=True, world=1, saves=False, resume=None, **given
):
    """The trained network, and the ledger."""
    as_launched()
    module = Module(kind, Net(kind, 1) if student is None else student)
    settings = {"objective": kind.distils, "sampling": sampling_of(kind), **given}
    callback = FrugalCallback(teacher=Net(kind) if taught else None, **settings)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[callback, *([Saver(folder)] if saves else [])], logger=False,
        enable_checkpointing=saves, accelerator="cpu", devices=world, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    loader = FrugalLoader(rows_of(kind), batch_size=BATCH // world, seed=SEED)
    trainer.fit(module, loader, ckpt_path=resume)
    return module.net, callback.ledger


class Own(FrugalMixin, transformers.Trainer):
    """With the model's own loss."""


def trainer_of(
    folder, kind, of: Any = FrugalTrainer, student=None, data=None, world=1, saves=False, **given
):
    smoothing = given.pop("label_smoothing_factor", 0.0)
    args = transformers.TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH // world,
        seed=SEED, learning_rate=kind.rate, optim="sgd", lr_scheduler_type="constant",
        max_grad_norm=0.0, report_to=[], disable_tqdm=True, use_cpu=True, save_steps=1,
        save_strategy="steps" if saves else "no", remove_unused_columns=False,
        label_smoothing_factor=smoothing,
    )  # fmt: skip
    if kind in (EMBEDDINGS, MIXED):
        given.setdefault("objective", kind.distils)
    return of(
        Net(kind, 1) if student is None else student, args,
        train_dataset=rows_of(kind) if data is None else data, data_collator=default_collate,
        **{"sampling": sampling_of(kind), **given},
    )  # fmt: skip


def by_transformers(kind, folder, *, taught=True, resume=None, **given):
    """The trained network, and the ledger."""
    as_launched()
    trainer = trainer_of(folder, kind, teacher=Net(kind) if taught else None, **given)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer.model, trainer.ledger


trainers = pytest.mark.parametrize("train", [by_lightning, by_transformers])


@every_kind
@trainers
def test_a_trainer_comes_to_what_a_loop_does(tmp_path, kind, train):
    same(kind, *train(kind, tmp_path))


@every_kind
@trainers
def test_the_objective_follows_from_the_output(tmp_path, kind, train):
    same(kind, *train(kind, tmp_path, objective=None))


@pytest.mark.parametrize("kind", [*LABELLED, EMBEDDINGS], ids=lambda kind: kind.output)
@trainers
def test_a_store_keeps_the_outputs(tmp_path, kind, train):
    same(kind, *train(kind, tmp_path, store=tmp_path / "kept"), near=kind.near)


@every_kind
@trainers
@pytest.mark.heavy
def test_a_trainer_resumes_in_the_middle_of_an_epoch(tmp_path, kind, train):
    train(kind, tmp_path, saves=True)
    steps = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
    for step in (steps[1], steps[-3]):
        same(kind, *train(kind, tmp_path / "again", resume=tmp_path / f"checkpoint-{step}"))


def on_a_rank(train, output, folder, policy):
    kind = KINDS[output]
    network, ledger = train(kind, folder, world=2, sampling=sampling_of(kind, policy))
    return network.state_dict(), ledger


@every_kind
@trainers
@pytest.mark.heavy
def test_two_ranks_come_to_what_a_loop_does(tmp_path, kind, train):
    """All samples; and both have the same ledger where some are left out."""
    for weights, ledger in on_ranks(2, partial(on_a_rank, train, kind.output, tmp_path, All())):
        network = Net(kind)
        network.load_state_dict(weights)
        same(kind, network, ledger, near=1e-5, policy=All())
    work = partial(on_a_rank, train, kind.output, tmp_path / "gate", kind.gate)
    (weights, ledger), (others, other) = on_ranks(2, work)
    assert same_columns(ledger, other)
    assert 0 < ledger["participations"].sum() < ROWS * EPOCHS
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


@kinds
def test_problem_type_is_enough_for_transformers_trainer(tmp_path, kind):
    assert trainer_of(tmp_path, kind, teacher=Net(kind)).objective == kind.distils


def test_one_label_is_regression_as_in_transformers(tmp_path):
    student, teacher = Net(REGRESSION, 1, 1, named=False), Net(REGRESSION, targets=1)
    trainer = trainer_of(
        tmp_path, REGRESSION, student=student, data=Rows(REGRESSION, 1), teacher=teacher
    )
    trainer.train()
    same(REGRESSION, student, trainer.ledger, targets=1)


@pytest.mark.parametrize("of", [Own, FrugalTrainer])
@kinds
def test_without_a_teacher_the_loss_is_that_of_labels(tmp_path, kind, of):
    """Of the objective, or of the model's own loss."""
    trainer = trainer_of(tmp_path, kind, of)
    trainer.train()
    same(kind, trainer.model, trainer.ledger, alone=True)


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
        lambda to: trainer_of(
            to, REGRESSION, teacher=Net(REGRESSION), objective=KD(), sampling=Sampling()
        ),
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
    "a ceiling on embeddings": (
        lambda to: trainer_of(
            to, EMBEDDINGS, teacher=Net(EMBEDDINGS),
            sampling=Sampling(regulation=SelfRegulation(ceiling=0.9)),
        ),
        SelectionMisuse, "embeddings are not one class",
    ),
    "smoothing without classes": (
        lambda to: trainer_of(
            to, EMBEDDINGS, objective=None, label_smoothing_factor=0.1, teacher=Net(EMBEDDINGS),
            sampling=Sampling(output="embeddings"),
        ),
        SettingError, "label_smoothing_factor=0.1 is for one class a sample",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(tmp_path, make, error, says):
    with pytest.raises(error, match=says):
        make(tmp_path).train()


@trainers
def test_trainers_have_no_place_for_a_projection(tmp_path, train):
    student = Net(EMBEDDINGS, 1, targets=4)
    with pytest.raises(ModelError, match="of 4 numbers and the teacher of 2"):
        train(EMBEDDINGS, tmp_path, student=student)


@trainers
def test_embeddings_are_learned_from_a_teacher(tmp_path, train):
    with pytest.raises(FrugalKDError, match="teacher"):
        train(EMBEDDINGS, tmp_path, objective=None, taught=False)
