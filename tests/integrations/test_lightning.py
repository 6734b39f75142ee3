"""FrugalCallback against plain Lightning, and against a plain loop over a Selection."""

from __future__ import annotations

import functools
import importlib
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

from frugalkd import (
    KD,
    All,
    CrossEntropy,
    DataLoading,
    Ledger,
    Sampling,
    Selection,
    SelfRegulation,
    StoredTargets,
)
from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    LedgerError,
    ModelError,
    NonFiniteLoss,
    RunFolderError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.language import tiny_tokenizer, tokenize_corpus
from frugalkd.policies import Plan
from frugalkd.policies.policy import Ungated
from toys import NothingPasses, Spoil, grouped, same_columns, same_state

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
for name in PACKAGES:
    pytest.importorskip(name, reason="needs the extra lightning")
pl: Any = importlib.import_module(PACKAGES[0])

from frugalkd.data import Augmentation, ImageData  # noqa: E402
from frugalkd.integrations._frugal import _has_views, torchs_start_method  # noqa: E402
from frugalkd.integrations.lightning import FrugalCallback, FrugalLoader  # noqa: E402

ROWS, BATCH, EPOCHS, SEED, CLASSES = 22, 4, 3, 3, 4
NONE_PASSES = NothingPasses()
SOME = SelfRegulation(confidence=0.3)
"""A gate that some pass: at first a top probability is about a quarter."""

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        ".*does not have many workers",
        ".*is smaller than the logging interval",
        ".*exists and is not empty",
        ".*isinstance.treespec, LeafSpec:FutureWarning",
        ".*Starting from v1.9.0, `tensorboardX`",
        ".*You defined a `validation_step` but have no",
    )
]


def data(rows=ROWS, seed=0):
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % CLASSES
    return TensorDataset(torch.randn(rows, 6, generator=stream) + labels[:, None] / 2, labels)


def net(seed=0, classes=CLASSES):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, classes))


@functools.cache
def module_of(package):
    """A module of that package's kind."""
    lightning: Any = importlib.import_module(package)

    class Module(lightning.LightningModule):
        def __init__(self, gives="logits", schedule=None, net=net):
            super().__init__()
            self.net, self.gives, self.schedule = net(), gives, schedule
            self.losses, self.rates, self.validated, self.outputs = [], [], [], []

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self(x)
            losses = F.cross_entropy(logits, y, reduction="none")
            return {
                "logits": logits,
                "losses": losses,
                "mean": losses.mean(),
                "dict": {"loss": losses, "logits": logits, "more": 1},
            }[self.gives]

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.outputs.append(outputs)
            self.losses.append(float(outputs["loss"]))
            self.rates.append(self.optimizers().param_groups[0]["lr"])

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", F.cross_entropy(self(x), y))

        def on_validation_epoch_end(self):
            self.validated.append((self.trainer.current_epoch, self.trainer.global_step))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            if self.schedule is None:
                return optimizer
            total = self.trainer.estimated_stepping_batches
            made = self.schedule(optimizer, total)
            made = made if isinstance(made, dict) else {"scheduler": made, "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": made}

    return Module


Module = module_of(PACKAGES[0])


def linear(optimizer, total):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)


def trainer(folder, *callbacks, package=PACKAGES[0], **settings):
    settings = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, "logger": False} | settings
    if not any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks):
        settings = {"enable_checkpointing": False} | settings
    return importlib.import_module(package).Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=list(callbacks), **settings,
    )  # fmt: skip


@pytest.mark.skipif(torchs_start_method() != "fork", reason="torch does not fork workers here")
def test_workers_start_as_lightnings_do(tmp_path):
    """A collate function within a function cannot be sent to spawned workers."""

    def trained(workers):
        processes = set()

        class Watching(Module):
            def training_step(self, batch, batch_idx):
                *batch, process = batch
                processes.add(int(process))
                return super().training_step(batch, batch_idx)

        def collate_fn(samples):
            return [*default_collate(samples), torch.tensor(os.getpid())]

        given = loader(
            loading=DataLoading(
                num_workers=workers, collate_fn=collate_fn, labels=lambda batch: batch[1]
            )
        )
        module = Watching()
        frugal = FrugalCallback(
            sampling=Sampling(policy=All()), forward=lambda batch: module.net(batch[0])
        )
        fit(tmp_path, frugal, module, given)
        return module, processes

    (alone, here), (module, others) = trained(0), trained(2)
    assert here == {os.getpid()}
    assert len(others) == 2
    assert os.getpid() not in others
    assert same_state(alone, module)


class Orders:
    """Each loop is the order of the next epoch of a selection of everything, in batches."""

    def __init__(self, rows=ROWS):
        selection = Selection(data(rows), epochs=EPOCHS, batch_size=BATCH, seed=SEED)
        self.epochs, self.size = [], math.ceil(rows / BATCH)
        for epoch in selection:
            self.epochs.append([])
            for batch in epoch:
                self.epochs[-1].append(batch.ids.tolist())
                batch.observe(torch.zeros(len(batch.ids), CLASSES))

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(self.epochs.pop(0))


def plain_loader():
    return DataLoader(data(), batch_sampler=Orders(), generator=torch.Generator())


def loader(rows=ROWS, **settings):
    return FrugalLoader(data(rows), batch_size=BATCH, seed=SEED, **settings)


def val():
    return DataLoader(data(8, seed=1), batch_size=8)


def fit(folder, frugal, module=None, given=None, validation=None, ckpt_path=None, **settings):
    """Train; the module."""
    module = Module() if module is None else module
    callbacks = [frugal, *settings.pop("callbacks", ())]
    given = loader() if given is None else given
    trainer(folder, *callbacks, **settings).fit(module, given, validation, ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("accumulation", "precision"), [(1, "32-true"), (4, "32-true"), (1, "bf16-mixed")]
)
def test_a_gate_that_no_sample_passes_is_plain_lightning(
    package, accumulation, precision, tmp_path
):
    kind: Any = module_of(package)
    settings: Any = {
        "accumulate_grad_batches": accumulation, "precision": precision,
        "check_val_every_n_epoch": 2, "package": package,
    }  # fmt: skip
    plain = kind("mean", linear)
    trainer(tmp_path, **settings).fit(plain, plain_loader(), val())
    for gives in ("logits", "losses", "dict"):
        frugal, module = FrugalCallback(sampling=Sampling(policy=NONE_PASSES)), kind(gives, linear)
        fit(tmp_path, frugal, module, validation=val(), **settings)
        assert len(plain.losses) == EPOCHS * math.ceil(ROWS / BATCH)
        if precision == "32-true":
            assert module.losses == plain.losses
            assert same_state(module, plain)
        np.testing.assert_allclose(module.losses, plain.losses, rtol=2e-3)
        assert module.rates == plain.rates
        assert module.validated == plain.validated != []
        assert frugal.budget == 1
        assert (frugal.ledger["participations"] == EPOCHS).all()
        assert frugal.ledger.epochs == EPOCHS
        assert "training_step" not in vars(module)
    assert module.outputs[0]["more"] == 1
    assert not module.outputs[0]["logits"].requires_grad


def test_a_regulated_run_is_that_of_a_plain_loop(tmp_path):
    frugal = FrugalCallback(teacher=net(1), sampling=Sampling(policy=SOME), objective=KD(2.0, 0.5))
    module = fit(tmp_path, frugal, max_epochs=5)

    student, teacher, kd = net(), net(1).eval(), KD(2.0, 0.5)
    selection = Selection(
        data(), epochs=5, batch_size=BATCH, seed=SEED, model=student, sampling=Sampling(policy=SOME)
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    participations = np.zeros(ROWS, dtype=int)
    for epoch in selection:
        for batch in epoch:
            x, y = batch.data
            logits = student.train()(x)
            with torch.no_grad():
                soft = teacher(x)
            losses = kd(logits, soft, y)
            (losses.sum() / len(losses)).backward()
            optimizer.step()
            optimizer.zero_grad()
            batch.observe(logits, y, losses)
            top, said = torch.softmax(logits.detach(), dim=1).max(dim=1)
            participations[batch.ids] += ((said != y) | (top < SOME.confidence)).numpy()
    assert same_columns(frugal.ledger, selection.ledger)
    assert frugal.ledger["participations"].tolist() == participations.tolist()
    assert 0 < participations.sum() < 5 * ROWS, "a gate that some pass, or this shows nothing"
    assert same_state(module.net, student)
    assert 0 < frugal.budget < 1
    assert frugal.meters.teacher_queries == frugal.meters.samples_backpropagated
    assert frugal.meters.student_forwards == selection.meters.student_forwards
    assert frugal.meters.wall_seconds > 0
    assert not any(p.grad is not None for p in teacher.parameters())


class Saver(pl.callbacks.Checkpoint):
    """Writes checkpoints wherever Lightning's own callbacks do."""

    when = ("on_train_batch_end", "on_validation_end", "on_train_epoch_end")

    def __init__(self, folder):
        self.folder, self.number = folder, 0
        for name in self.when:
            setattr(self, name, functools.partial(self.save, name))

    def save(self, name, trainer, *_):
        if trainer.fit_loop._should_accumulate():  # Lightning keeps no gradients
            return
        self.number += 1
        trainer.save_checkpoint(self.folder / f"{self.number:03}-{name}.ckpt")


@pytest.mark.parametrize(
    ("accumulation", "limit"), [(1, {}), (2, {"max_epochs": -1, "max_steps": 11})]
)
@pytest.mark.heavy
def test_a_run_resumes_from_any_checkpoint_of_lightning(accumulation, limit, tmp_path):
    """Those after each step, after validations, and at the end of each epoch."""

    def run(folder, ckpt_path=None, callbacks=()):
        frugal = FrugalCallback(teacher=net(1), sampling=Sampling(policy=SOME))
        module = fit(
            tmp_path / folder, frugal, Module("logits", linear), validation=val(),
            ckpt_path=ckpt_path, callbacks=callbacks, accumulate_grad_batches=accumulation,
            **({"max_epochs": 4} | limit),
        )  # fmt: skip
        return frugal, module

    undisturbed, module = run("whole", callbacks=[Saver(tmp_path)])
    kept = sorted(tmp_path.glob("*.ckpt"))
    assert len({path.name.split("-")[1] for path in kept}) == len(Saver.when)
    assert len(undisturbed.ledger) > undisturbed.meters.samples_backpropagated / 4 > 0
    for path in kept:
        torch.load(path, weights_only=True)  # tensors and plain values alone
        resumed, other = run("again", path)
        assert same_state(module, other), path
        if not other.outputs and resumed.selection is None:
            assert path in kept[-2:], "Lightning has nothing to resume from"
            continue
        assert same_columns(undisturbed.ledger, resumed.ledger), path
        assert resumed.ledger.epochs == undisturbed.ledger.epochs
        for meter in ("samples_backpropagated", "student_forwards", "teacher_queries"):
            assert getattr(resumed.meters, meter) == getattr(undisturbed.meters, meter)
        steps = len(other.rates)
        assert other.rates == module.rates[len(module.rates) - steps :], path


def test_only_the_same_training_resumes(tmp_path):
    fit(
        tmp_path,
        FrugalCallback(sampling=Sampling(policy=NONE_PASSES)),
        callbacks=[Saver(tmp_path)],
        max_epochs=1,
    )
    last = max(tmp_path.glob("*.ckpt"))
    with pytest.raises(RunFolderError, match="other policy"):
        fit(tmp_path, FrugalCallback(sampling=Sampling(policy=All())), ckpt_path=last)
    trainer(tmp_path, Saver(tmp_path), max_epochs=1).fit(Module("mean"), plain_loader())
    with pytest.raises(RunFolderError, match="resumes at step 6"):
        fit(tmp_path, FrugalCallback(sampling=Sampling(policy=NONE_PASSES)), ckpt_path=last)


class EveryOther(Ungated):
    """No sample in odd epochs, a third of them in others, at half the learning rate."""

    def plan(self, ledger, pool, at):
        ids = pool[:0] if at.epoch % 2 else pool[: len(pool) // 3]
        return Plan(ids, lr_factor=0.5, stop=at.epoch == 6)


def cosine(optimizer, total):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)


def by_epochs(optimizer, total):
    made = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    return {"scheduler": made, "interval": "epoch"}


@pytest.mark.parametrize("schedule", [linear, cosine, by_epochs])
def test_a_schedule_follows_progress_and_epochs_may_be_empty(schedule, tmp_path):
    moved = []

    class Watched(Module):
        def on_train_start(self):
            def watch(optimizer, *_):
                moved.append(optimizer.param_groups[0]["lr"])

            self.optimizers().optimizer.register_step_pre_hook(watch)

    frugal, module = (
        FrugalCallback(sampling=Sampling(policy=EveryOther())),
        Watched("logits", schedule),
    )
    fit(tmp_path, frugal, module, validation=val(), max_epochs=8)
    full, steps = math.ceil(ROWS / BATCH), 2  # 7 rows in batches of 4
    rates = []
    for epoch in (0, 2, 4):
        for step in range(steps):
            at = epoch * full + math.floor(step * full / steps)
            rates.append({
                linear: 1 - at / (8 * full),
                cosine: (1 + math.cos(math.pi * at / (8 * full))) / 2,
                by_epochs: 1 / (1 + epoch),
            }[schedule] * 0.1)  # fmt: skip
    assert moved == pytest.approx([rate / 2 for rate in rates])
    assert [epoch for epoch, _ in module.validated] == [0, 2, 4]
    assert frugal.ledger.epochs == 6
    assert frugal.selection is not None
    assert frugal.selection.epoch == 6


def test_hybrid_trains_what_was_significant_on_stored_targets(tmp_path):
    teacher = FrugalCallback(sampling=Sampling(policy=SOME))
    big = fit(tmp_path, teacher, max_epochs=4).net
    teacher.ledger.save(tmp_path / "ledger.safetensors")
    ledger = Ledger.load(tmp_path / "ledger.safetensors")
    ledger["participations"][:5] = 0
    runs = {}
    for name, teaching in {
        "live": {"teacher": big},
        "kept": {"teacher": big, "store": tmp_path / "store"},
        "again": {"store": None},
    }.items():
        teaching: dict[str, Any]
        if name == "again":
            teaching = {"teacher": StoredTargets(tmp_path / "store")}
        frugal = FrugalCallback(
            sampling=Sampling(mode="hybrid", ledger=ledger, regulation=SOME), **teaching
        )
        module = fit(tmp_path, frugal, Module(net=functools.partial(net, 2)), max_epochs=4)
        assert (frugal.ledger["visits"] > 0).tolist() == (ledger["participations"] > 0).tolist()
        runs[name] = frugal.meters.teacher_queries, module
    assert same_state(runs["kept"][1], runs["again"][1])
    np.testing.assert_allclose(runs["live"][1].losses, runs["kept"][1].losses, rtol=1e-2)
    assert runs["live"][0] > runs["kept"][0] > runs["again"][0] == 0


class Shifted(TensorDataset):
    def view(self, id, view):
        x, y = self[id]
        return x + view, y


def test_a_store_of_pictures_that_are_the_same_says_nothing(tmp_path):
    pixels = torch.randint(256, (ROWS, 1, 2, 3), dtype=torch.uint8)
    labels, names = torch.arange(ROWS) % CLASSES, tuple("abcd"[:CLASSES])
    plain = ImageData(pixels, labels, names, mean=(0.5,), std=(0.5,))
    for data, several in ((plain, False), (plain.with_augmentation(Augmentation(crop=1)), True)):
        assert _has_views(data) is several


def test_a_store_of_views_says_that_it_keeps_one(tmp_path):
    frugal = FrugalCallback(teacher=net(1), store=tmp_path / "store")
    given = FrugalLoader(Shifted(*data().tensors), batch_size=BATCH, seed=SEED)
    with pytest.warns(FrugalKDWarning, match="keeps one view of each sample"):
        fit(tmp_path, frugal, given=given, max_epochs=1)


def test_a_corpus_is_refused_by_name(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    corpus = tokenize_corpus(["some text"] * 9, tiny_tokenizer("some text", 270), tmp_path / "c")
    with pytest.raises(UnsupportedData, match="a Corpus is trained on by distill, train_teacher"):
        FrugalLoader(corpus)


@pytest.mark.parametrize("objective", [None, CrossEntropy()])
def test_a_store_that_nothing_would_fill_is_refused(tmp_path, objective):
    teacher = None if objective is None else net(1)
    frugal = FrugalCallback(teacher=teacher, objective=objective, store=tmp_path / "store")
    with pytest.raises(SettingError, match="none runs here"):
        fit(tmp_path, frugal, max_epochs=1)


class Sample(torch.utils.data.Dataset):
    """Mappings, collated by hand."""

    def __len__(self):
        return ROWS

    def __getitem__(self, id):
        x, y = data()[id]
        return {"x": x, "label": int(y), "name": str(id)}


def named(samples):
    return {
        "x": torch.stack([sample["x"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples]),
        "names": [sample["name"] for sample in samples],
    }


class OfMappings(Module):
    def training_step(self, batch):
        assert len(batch["names"]) == len(batch["x"])
        return self.net(batch["x"])


def test_any_batch_will_do_with_a_forward_of_ones_own(tmp_path):
    module = OfMappings()
    frugal = FrugalCallback(
        sampling=Sampling(policy=SOME), forward=lambda batch: module.net(batch["x"])
    )
    given = FrugalLoader(
        Sample(), batch_size=BATCH, seed=SEED, loading=DataLoading(collate_fn=named)
    )
    fit(tmp_path, frugal, module, given)
    pairs = FrugalCallback(sampling=Sampling(policy=SOME))
    other = fit(tmp_path, pairs)
    assert same_columns(frugal.ledger, pairs.ledger)
    assert same_state(module, other)


def test_a_data_module_a_fast_run_and_an_early_stop(tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def val_dataloader(self):
            return val()

    frugal = FrugalCallback(sampling=Sampling(mode="regulated"))
    trainer(tmp_path, frugal).fit(Module(), datamodule=Data())
    assert frugal.ledger.epochs == EPOCHS
    trainer(tmp_path, frugal, fast_dev_run=2).fit(Module(), datamodule=Data())
    assert frugal.meters.samples_backpropagated == 2 * BATCH - 1  # a third of 22 rows
    stopping = pl.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0)
    trainer(tmp_path, frugal, stopping).fit(Module(), datamodule=Data())
    assert frugal.ledger.epochs == 2


def test_a_bad_loss_stops_the_run_before_a_checkpoint(tmp_path):
    class Breaking(Module):
        def training_step(self, batch, batch_idx):
            return self(batch[0]) * (math.nan if self.trainer.global_step == 3 else 1)

    saving = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    with pytest.raises(NonFiniteLoss, match="step 3"):
        fit(
            tmp_path,
            FrugalCallback(sampling=Sampling(mode="vanilla")),
            Breaking(),
            callbacks=[saving],
        )
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "step=1.ckpt", "step=2.ckpt", "step=3.ckpt",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("accumulation", "bad"), [(1, 5), (1, 17), (2, 9)])
def test_a_bad_gradient_stops_the_run_before_a_checkpoint(accumulation, bad, tmp_path):
    """In the last batch of an epoch, and the last one of all; what is kept is resumed from."""

    class Breaking(Module):
        left = bad

        def training_step(self, batch, batch_idx):
            self.left -= 1
            return Spoil.apply(self(batch[0])) if self.left == -1 else self(batch[0])

    def run(module, folder, path=None):
        saving = pl.callbacks.ModelCheckpoint(
            folder, filename="{step:02}", every_n_train_steps=1, save_top_k=-1
        )
        settings: Any = {"accumulate_grad_batches": accumulation, "ckpt_path": path}
        return fit(
            tmp_path,
            FrugalCallback(sampling=Sampling(policy=All())),
            module,
            callbacks=[saving],
            **settings,
        )

    epoch, batch = divmod(bad, 6)
    step = batch // accumulation * accumulation  # where it began, in batches
    with pytest.raises(NonFiniteLoss, match=f"^a gradient .* epoch {epoch}, step {step}") as raised:
        run(Breaking(), tmp_path)
    rows = BATCH * accumulation if batch != 5 else 2 + BATCH * (accumulation - 1)
    assert len(set(raised.value.ids)) == rows
    kept = sorted(tmp_path.glob("step*.ckpt"))
    assert len(kept) == (epoch * 6 + step) // accumulation
    whole, resumed = run(Module(), tmp_path / "whole"), run(Module(), tmp_path / "again", kept[-1])
    assert same_state(whole, resumed)


def test_weights_that_overflow_stop_the_run(tmp_path):
    class Wild(Module):
        def on_before_optimizer_step(self, optimizer):
            if self.trainer.global_step == 17:
                optimizer.param_groups[0]["lr"] = 3e38
                for parameter in self.parameters():
                    parameter.grad *= 1e6

    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step:02}", save_top_k=-1)
    with pytest.raises(NonFiniteLoss, match=r"^the weight net\..* at epoch 2, step 5, samples"):
        fit(tmp_path, FrugalCallback(sampling=Sampling(policy=All())), Wild(), callbacks=[saving])
    assert [path.stem for path in sorted(tmp_path.glob("step*.ckpt"))] == ["step=06", "step=12"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batchnorm_trains_where_one_row_would_be_left(accumulation, tmp_path):
    """The last of 21 rows joins the batch before."""
    rows = []

    class Counting(Module):
        def training_step(self, batch, batch_idx):
            rows.append(len(batch[1]))
            return super().training_step(batch, batch_idx)

    def with_batchnorm():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))

    given = loader(21)
    assert len(given) == 5
    frugal = FrugalCallback(sampling=Sampling(policy=All()))
    module = Counting(schedule=linear, net=with_batchnorm)
    fit(tmp_path, frugal, module, given, accumulate_grad_batches=accumulation)
    assert rows == [4, 4, 4, 4, 5] * EPOCHS
    assert frugal.budget == 1
    regulated = FrugalCallback(sampling=Sampling(mode="regulated", regulation=SOME))
    fit(tmp_path, regulated, Counting(net=with_batchnorm), given, max_epochs=6)
    assert 1 not in rows
    fit(tmp_path, frugal, Module(), loader(1))
    assert frugal.meters.samples_backpropagated == EPOCHS


def test_a_forward_may_return_a_dict_with_logits(tmp_path):
    class InDict(Module):
        def forward(self, x):
            return {"logits": super().forward(x)}

        def training_step(self, batch, batch_idx):
            return self(batch[0]) if self.gives == "logits" else self(batch[0])["logits"] * 1

        def validation_step(self, batch, batch_idx):
            pass

    def trained(module):
        frugal = FrugalCallback(teacher=net(1), sampling=Sampling(policy=SOME))
        return fit(tmp_path, frugal, module)

    plain = trained(Module())
    assert all(same_state(plain, trained(InDict(gives))) for gives in ("logits", "tensor"))


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Augmenting(Module):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class Formless(Module):
    forward = pl.LightningModule.forward


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(6), 0


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"policy": SelfRegulation(when="now")}, SelectionMisuse, "only after a step"),
        ({"mode": "hybrid"}, LedgerError, "significance ledger"),
        ({"objective": KD()}, TargetsError, "needs a teacher"),
        ({"teacher": net(1, classes=5)}, TargetsError, "5 classes"),
        ({"module": Module("mean")}, SelectionMisuse, r"shape \(\) for 4 rows"),
        ({"module": Module("losses"), "objective": CrossEntropy()}, SelectionMisuse, "alone"),
        ({"module": Manual()}, SelectionMisuse, "manual optimisation"),
        ({"module": Augmenting()}, SelectionMisuse, "Augmenting.on_after_batch_transfer"),
        ({"module": Formless()}, ModelError, "Formless has no forward: .* pass forward="),
        ({"limit_train_batches": 2}, SelectionMisuse, "cut a plan short"),
        ({"overfit_batches": 2}, SelectionMisuse, "cut a plan short"),
        ({"reload_dataloaders_every_n_epochs": 1}, SelectionMisuse, "reload_dataloaders"),
        ({"max_epochs": -1}, SelectionMisuse, "set max_epochs"),
        ({"given": DataLoader(data(), BATCH)}, SelectionMisuse, "come in a DataLoader"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*overfit")
def test_misuse_is_refused_in_one_line(given, error, says, tmp_path):
    names = ("policy", "mode", "objective", "teacher", "cost")
    own = {name: given[name] for name in names if name in given}
    settings = {name: value for name, value in given.items() if name not in names}
    with pytest.raises(FrugalKDError, match=says) as raised:
        fit(tmp_path, FrugalCallback(**grouped(**own)), **settings)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    if "module" in settings:
        assert "training_step" not in vars(settings["module"])


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_a_cost_may_take_more_epochs_than_were_given(limit, tmp_path, monkeypatch):
    monkeypatch.setattr("frugalkd.policies.self_regulation.MOST_FAIL", 1.0)  # as they do here
    frugal = FrugalCallback(cost=0.5, sampling=Sampling(regulation=SelfRegulation(0.4)))
    given = loader()
    limits: Any = {"max_epochs": 4} if limit == "max_epochs" else {"max_steps": 4 * given.full}
    made = trainer(tmp_path, frugal, **({"max_epochs": -1} | limits))
    before = made.max_epochs, made.max_steps
    module = Module(schedule=lambda o, n: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, n))
    made.fit(module, given)
    assert (made.max_epochs, made.max_steps) == before
    meters = frugal.meters
    screened = meters.student_forwards - meters.samples_backpropagated
    cost = meters.samples_backpropagated + screened / 3
    assert cost == pytest.approx(2 * ROWS, abs=1)
    assert 2 < frugal.ledger.epochs <= 8
    assert module.rates[-1] < module.rates[0] / 4


def test_a_loader_without_its_callback_and_an_iterable_one(tmp_path):
    with pytest.raises(SelectionMisuse, match="FrugalCallback"):
        trainer(tmp_path).fit(Module("mean"), loader())
    with pytest.raises(UnsupportedData, match="map-style"):
        FrugalLoader(Endless())
    with pytest.raises(SelectionMisuse, match="there was no training yet"):
        _ = FrugalCallback().ledger
