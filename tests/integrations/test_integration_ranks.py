"""The trainers on several ranks: a recount of what each rank really trained on, what one process
does with the same global batches, and trainings that resume on any number of ranks."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import DistributedType
from accelerate.state import PartialState
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from frugalkd import DataLoading, Ledger, LiveTeacher, Sampling, Selection, SelfRegulation
from frugalkd.distributed.ranks import world_here
from frugalkd.errors import FrugalKDError, NonFiniteLoss, SelectionMisuse
from frugalkd.policies import All
from frugalkd.teachers import FirstVisitTargets
from ranking import LIMIT, as_launched, on_ranks, preload
from toys import NothingPasses, Spoil

for name in ("transformers", "pytorch_lightning"):
    pytest.importorskip(name, reason="needs the extras transformers and lightning")
transformers: Any = importlib.import_module("transformers")
pl: Any = importlib.import_module("pytorch_lightning")

from frugalkd.integrations import transformers as integration  # noqa: E402
from frugalkd.integrations._hugging_face import check_devices  # noqa: E402
from frugalkd.integrations.lightning import (  # noqa: E402
    FrugalCallback,
    FrugalLoader,
    check_trainer,
)
from frugalkd.integrations.transformers import FrugalMixin, FrugalTrainer  # noqa: E402

preload("frugalkd.integrations.transformers", "frugalkd.integrations.lightning")

EPOCHS, SEED, CLASSES, GLOBAL = 5, 3, 4, 8
GATE = SelfRegulation(confidence=0.5, max_skip=2)
"""A gate that many samples pass after an epoch or two."""
TOLERANCE = 2e-6
"""Of a weight: float32 sums in another order."""

pytestmark = pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")


class Numbered(Dataset):
    """Points near their class's corner, each with its number: a model sees which it gets."""

    def __init__(self, rows):
        stream = torch.Generator().manual_seed(0)
        self.labels = torch.arange(rows) % CLASSES
        noise = torch.randn(rows, CLASSES, generator=stream)
        self.points = noise / 2 + 2 * F.one_hot(self.labels, CLASSES)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, id):
        return {"x": self.points[id], "labels": int(self.labels[id]), "number": id}


def net(dropout=0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(CLASSES, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, CLASSES)
    )


class Classifier(nn.Module):
    """As the Trainer accepts it."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.net = net(dropout)

    def forward(self, x, labels=None, number=None):
        logits = self.net(x)
        loss = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        return {"logits": logits, **loss}


class Ignoring(Classifier):
    """Takes the number of the step's items and ignores it, as Bert does."""

    def forward(self, x, labels=None, number=None, **kwargs):
        return super().forward(x, labels)


class Dividing(Classifier):
    """Divides its loss by the number of the step's items, as language models do."""

    def forward(self, x, labels=None, number=None, num_items_in_batch=None, **kwargs):
        found = super().forward(x, labels)
        if num_items_in_batch is not None:
            found["loss"] = found["loss"] * len(x) / num_items_in_batch
        return found


class Record(list):
    """(epoch, numbers, logits, forced) of each batch that a rank trained on."""

    def add(self, planned, numbers, logits):
        epoch, batch = planned.current
        self.append((epoch.index, numbers.tolist(), logits.detach().clone(), batch.forced.tolist()))


class Recording:
    """Before a trainer: what its model really received."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch: Any = self._batch  # pyright: ignore[reportAttributeAccessIssue]
        numbers = inputs["number"]
        loss, outputs = super().compute_loss(  # pyright: ignore[reportAttributeAccessIssue]
            model, inputs, True, num_items_in_batch
        )
        if batch is not None:
            self.record.add(self.planned, numbers, outputs["logits"])  # pyright: ignore
        return (loss, outputs) if return_outputs else loss


class Objective(Recording, FrugalTrainer):
    """With frugalkd's objective."""


class Own(Recording, FrugalMixin, transformers.Trainer):
    """With the model's own loss."""


class Module(pl.LightningModule):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.net, self.rates, self.evaluated = net(dropout), [], []

    def forward(self, x, number=None):
        return self.net(x)

    def training_step(self, batch):
        logits = self(batch["x"])
        self.record.add(self.frugal.planned, batch["number"], logits)
        return logits

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def validation_step(self, batch):
        loss = F.cross_entropy(self(batch["x"]), batch["labels"])
        self.log("val_loss", loss, sync_dist=True)

    def on_validation_epoch_end(self):
        self.evaluated.append(float(self.trainer.callback_metrics["val_loss"]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Stopping(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


class Saver(pl.callbacks.Checkpoint):
    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % self.steps == 0 and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.folder / f"checkpoint-{trainer.global_step}")


def args(folder, world, **settings):
    given = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": GLOBAL // world, "seed": SEED,
        "learning_rate": 0.5, "optim": "sgd", "logging_steps": 1, "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "remove_unused_columns": False,
        "eval_strategy": "epoch", "per_device_eval_batch_size": 2,
    }  # fmt: skip
    return transformers.TrainingArguments(str(folder), **(given | settings))


def where_fsdp_works(folder, world, **settings):
    """Arguments for FSDP2, on ranks of which Accelerate believes that they have a GPU each: it
    turns FSDP off on CPUs, where torch has it."""
    linear = {"transformer_layer_cls_to_wrap": ["Linear"]}
    given = args(folder, world, fsdp=True, fsdp_config=linear, **settings)
    assert given.device.type == "cpu"  # which makes the state
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return given


def run(
    kind, folder, world, *, rows=50, policy=GATE, accumulation=1, workers=0, save=0, resume=None,
    dropout=0.0, fsdp=False, stop=None, optim="sgd",
):  # fmt: skip
    """What a training comes to on this rank of ``world``. Only the first one can write."""
    as_launched()
    if world_here() > 1 and torch.distributed.get_rank():
        integration.save_tree = Ledger.save = None  # pyright: ignore[reportAttributeAccessIssue]
    record, data, size = Record(), Numbered(rows), GLOBAL // world // accumulation
    held_out = Numbered(16)
    frugal: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resuming elsewhere
        if kind == "lightning":
            module = Module(dropout)
            frugal = module.frugal = FrugalCallback(sampling=Sampling(policy=policy))
            module.record, callbacks = record, [frugal, *([Saver(folder, save)] if save else [])]
            loading = DataLoading(num_workers=workers)
            transformers.set_seed(SEED)
            pl.Trainer(
                max_epochs=EPOCHS, accelerator="cpu", devices=world, callbacks=callbacks,
                accumulate_grad_batches=accumulation, logger=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder, enable_checkpointing=save > 0,
                num_sanity_val_steps=0,
            ).fit(
                module, FrugalLoader(data, size, loading=loading, seed=SEED),
                DataLoader(held_out, 2), ckpt_path=resume,
            )  # fmt: skip
            model, rates, evaluated = module.net, module.rates, module.evaluated
        else:
            settings = {
                "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation,
                "dataloader_num_workers": workers, "optim": optim,
            }  # fmt: skip
            if save:
                settings |= {"save_strategy": "steps", "save_steps": save}
            given = args(folder, world, **settings)
            if fsdp:
                given = where_fsdp_works(folder, world, **settings)
            of, model = {"objective": (Objective, Classifier), "own": (Own, Dividing)}[kind]
            trainer: Any = of(
                model(dropout), given, train_dataset=data, eval_dataset=held_out,
                sampling=Sampling(policy=policy), callbacks=[Stopping(stop)],
            )  # fmt: skip
            frugal, trainer.record = trainer, record
            trainer.train(resume)
            model, logs = trainer.model.net, trainer.state.log_history
            rates = [log["learning_rate"] for log in logs if "learning_rate" in log]
            evaluated = [log["eval_loss"] for log in logs if "eval_loss" in log]
    return {
        "record": list(record),
        "weights": whole_weights(model),
        "columns": {name: column.copy() for name, column in frugal.ledger.columns.items()},
        "epochs": frugal.ledger.epochs,
        "meters": {name: getattr(frugal.meters, name) for name in METERS},
        "rates": rates,
        "evaluated": evaluated,
    }


METERS = ("samples_backpropagated", "student_forwards", "teacher_queries")


def trained(kind, folder, world, **settings):
    """What each of ``world`` ranks has."""
    if world == 1:
        return [run(kind, folder, 1, **settings)]
    return on_ranks(world, functools.partial(run, kind, folder, world, **settings))


def recount(ranks, rows=50, before=None, epochs=EPOCHS):
    """Count, in plain Python, each sample's participations in what the ranks recorded, and compare
    with the ledger of each of them; ``before``: the ledger where they began."""
    first = ranks[0]
    counts = {name: np.zeros(rows, dtype=int) for name in ("participations", "forced")}
    if before is not None:
        counts = {name: before[name].numpy().astype(int) for name in counts}
    assert len({len(rank["record"]) for rank in ranks}) == 1, "as many batches on each rank"
    used: dict[int, list[int]] = {}
    for batches in zip(*(rank["record"] for rank in ranks), strict=True):
        assert len({epoch for epoch, *_ in batches}) == 1
        for epoch, numbers, logits, forced in batches:
            used.setdefault(epoch, []).extend(numbers)
            odds = np.exp(logits.numpy().astype(np.float64))
            top = odds.max(axis=1) / odds.sum(axis=1)
            failed = (odds.argmax(axis=1) != np.array(numbers) % CLASSES) | (top < GATE.confidence)
            for number, fails, is_forced in zip(numbers, failed, forced, strict=True):
                counts["forced"][number] += is_forced
                counts["participations"][number] += fails and not is_forced
    for ids in used.values():
        assert len(ids) == len(set(ids)), "each sample once an epoch"
    for rank in ranks:
        for name, found in counts.items():
            assert rank["columns"][name].tolist() == found.tolist(), name
        assert torch.equal(rank["weights"], first["weights"])
        assert rank["meters"] == first["meters"]
        assert rank["evaluated"] == first["evaluated"] != []
        assert rank["epochs"] == epochs
        for name, column in rank["columns"].items():
            assert column.tobytes() == first["columns"][name].tobytes(), name
    if before is None:
        total = sum(map(len, used.values()))
        assert first["meters"]["samples_backpropagated"] == total
        assert 0 < counts["participations"].sum() < total < EPOCHS * rows, "or it shows nothing"


def against_one_process(ranks, kind, folder, **settings):
    """The same global batches on one rank: the same weights and counts."""
    (alone,) = trained(kind, folder, 1, **settings)
    torch.testing.assert_close(ranks[0]["weights"], alone["weights"], rtol=0, atol=TOLERANCE)
    assert not torch.allclose(alone["weights"], whole_weights(net()), atol=1e-2)
    assert ranks[0]["meters"] == alone["meters"]
    assert ranks[0]["rates"] == alone["rates"]
    np.testing.assert_allclose(ranks[0]["evaluated"], alone["evaluated"], rtol=1e-5)
    for name in ("visits", "participations", "forced", "flags"):
        assert ranks[0]["columns"][name].tolist() == alone["columns"][name].tolist()


def whole_weights(model):
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return torch.cat([p.detach().flatten() for p in whole])


EVERYTHING: dict[str, Any] = {"rows": 48, "policy": NothingPasses()}
"""Every rank's rows make the batches of one process."""


@pytest.mark.parametrize("kind", ["objective", "lightning"])
@pytest.mark.heavy
def test_two_ranks_train_what_the_merged_ledger_says(kind, tmp_path):
    recount(trained(kind, tmp_path, 2, accumulation=2))


KINDS = ("objective", "own", "lightning")
cells = [pytest.mark.parametrize("world", [1, 2, 4]), pytest.mark.parametrize("kind", KINDS)]


def in_each_cell(test):
    """On 1, 2 and 4 ranks, with each trainer."""
    return pytest.mark.heavy(functools.reduce(lambda made, mark: mark(made), cells, test))


@in_each_cell
def test_accumulated_steps(kind, world, tmp_path):
    recount(trained(kind, tmp_path, world, accumulation=2))
    ranks = trained(kind, tmp_path, world, accumulation=2, **EVERYTHING)
    against_one_process(ranks, kind, tmp_path, **EVERYTHING)


@in_each_cell
def test_workers(kind, world, tmp_path):
    here, there = (trained(kind, tmp_path, world, workers=workers) for workers in (0, 2))
    recount(there)
    assert torch.equal(here[0]["weights"], there[0]["weights"])


@in_each_cell
def test_a_training_resumes_in_the_middle_of_an_epoch(kind, world, tmp_path):
    """On as many ranks, where nothing changes, and on each other number."""
    dropout = 0.0 if kind == "lightning" else 0.2  # Lightning keeps no random stream
    whole = trained(kind, tmp_path / "whole", world, save=1, dropout=dropout)
    recount(whole)
    epochs = [epoch for epoch, *_ in whole[0]["record"]]
    step = epochs.index(2) + 1  # the first of an epoch in which samples were left out
    assert epochs[step] == 2
    place = tmp_path / "whole" / f"checkpoint-{step}"
    again = trained(kind, tmp_path / "again", world, resume=place, dropout=dropout)
    # DDP sums the first step's gradients in other buckets than the later ones', where it rebuilds
    # these, as for Lightning; of two numbers the order does not matter.
    near = {"rtol": 0, "atol": TOLERANCE if (kind, world) == ("lightning", 4) else 0}
    for one, other in zip(whole, again, strict=True):
        torch.testing.assert_close(one["weights"], other["weights"], **near)
        assert one["columns"].keys() == other["columns"].keys()
        for name, column in one["columns"].items():
            np.testing.assert_allclose(column, other["columns"][name], **near)
        assert one["meters"] == other["meters"]
        assert len(other["record"]) == len(one["record"]) - step
    for others in {1, 2, 4} - {world}:
        ranks = trained(kind, tmp_path / f"{others}", others, resume=place, dropout=dropout)
        recount(ranks, before=columns_at(place))
        (in_rest,) = ({epoch for epoch, *_ in rank["record"]} for rank in ranks[:1])
        assert in_rest == {2, 3, 4}
        rates = ranks[0]["rates"][-len(ranks[0]["record"]) :]
        assert all(0 < after < before for before, after in itertools.pairwise(rates))
        assert rates[0] < 0.5 * (1 - 2 / EPOCHS) + 1e-9
        assert rates[-1] < 0.5 / EPOCHS + 1e-9


def columns_at(place: Path):
    """The ledger in a checkpoint."""
    from frugalkd.files.tensors import load_tree

    if place.is_dir():
        return load_tree(place / "frugalkd.safetensors")["selection"]["columns"]
    callbacks = torch.load(place, weights_only=True)["callbacks"]
    (state,) = (state for name, state in callbacks.items() if name.startswith("FrugalCallback"))
    return state["selection"]["columns"]


def plainly(folder, model, accumulation):
    """The weights of the mixin and of a plain Trainer that reads the same batches."""
    as_launched()
    world, data = torch.distributed.get_world_size(), Numbered(48)
    selection = Selection(data, epochs=2, batch_size=2, seed=SEED)
    orders = []
    for epoch in selection:
        orders.append([])
        for batch in epoch:
            orders[-1].append(batch.ids.tolist())
            batch.observe(torch.zeros(2, CLASSES))

    class Orders:
        def __iter__(self):
            return iter(orders.pop(0))

        def __len__(self):
            return 48 // 2 // world

    class Plain(transformers.Trainer):
        def get_train_dataloader(self):
            return DataLoader(data, batch_sampler=Orders(), generator=torch.Generator())

    def trainer(kind, **more):
        settings = {"num_train_epochs": 2, "gradient_accumulation_steps": accumulation}
        settings |= {"per_device_train_batch_size": 2, "max_grad_norm": 0.0, "eval_strategy": "no"}
        made = kind(model(), args(folder, world, **settings), train_dataset=data, **more)
        made.train()
        return whole_weights(made.model), [log.get("loss") for log in made.state.log_history]

    class Mixed(FrugalMixin, transformers.Trainer):
        pass

    return trainer(Plain), trainer(Mixed, sampling=Sampling(policy=NothingPasses()))


@pytest.mark.heavy
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("model", [Classifier, Ignoring, Dividing])
def test_the_mixins_loss_is_that_of_the_plain_trainer(model, accumulation, tmp_path):
    """Also where that multiplies it by the number of ranks."""
    for (weights, losses), (mixed, its) in on_ranks(2, plainly, tmp_path, model, accumulation):
        assert torch.equal(weights, mixed)
        assert losses == its


def refused(folder):
    """What each of these raises on a rank, by name."""
    as_launched()
    data, said, model = Numbered(50), {}, net()

    def begin(name, make):
        try:
            make()
        except FrugalKDError as error:
            said[name] = f"{type(error).__name__}: {error}"

    def trainer(kind=FrugalTrainer, resume=None, rows=50, **settings):
        names = ("teacher", "store", "sampling")
        own = {name: settings.pop(name) for name in names if name in settings}
        settings = {"eval_strategy": "no", "max_grad_norm": 0.0} | settings
        made = kind(Ignoring(), args(folder, 2, **settings), train_dataset=Numbered(rows), **own)
        made.train(resume)

    class Rows(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(inputs["x"])
            losses = F.cross_entropy(outputs["logits"], inputs["labels"], reduction="none")
            return (losses, outputs) if return_outputs else losses.mean()

    class OneARow(FrugalMixin, Rows):
        pass

    everything = Sampling(policy=All())
    trainer(max_steps=12, save_strategy="steps", save_steps=3, sampling=everything)
    place = folder / "checkpoint-3"
    for name, settings in {
        "store": {"teacher": Classifier(), "store": folder / "store"},
        "visits": {"teacher": FirstVisitTargets(LiveTeacher(model), data, folder / "visits")},
        "one a row": {"kind": OneARow, "sampling": everything},
        "few rows": {"rows": 7},
        "batch size": {"auto_find_batch_size": True},
        "dispatch": {"accelerator_config": {"dispatch_batches": True}},
        "steps": {
            "max_steps": 12,
            "per_device_train_batch_size": 2,
            "resume": place,
            "sampling": everything,
        },
        "checkpoint": {"resume": place if torch.distributed.get_rank() else None},
    }.items():
        begin(name, functools.partial(trainer, **settings))
    trainer(OneARow, average_tokens_across_devices=False, sampling=everything)
    begin("fsdp", functools.partial(trainer, fsdp=True))  # which stays in the environment
    return said


@pytest.mark.heavy
def test_what_ranks_cannot_do_is_refused(tmp_path):
    first, second = on_ranks(2, refused, tmp_path)
    assert first == second
    assert {name: line[:60] for name, line in first.items()} == {
        "store": "RankError: a store that is filled at first visits is for one",
        "visits": "RankError: a store that is filled at first visits is for one",
        "one a row": "SelectionMisuse: compute_loss returns one loss a row, which ",
        "few rows": "RankError: 7 samples are less than a step of 2 ranks with 1 ",
        "fsdp": "SelectionMisuse: Accelerate ignores FSDP on cpu, and would t",
        "batch size": "SelectionMisuse: auto_find_batch_size may find another size ",
        "dispatch": "SelectionMisuse: each process reads its own rows of the plan",
        "steps": "RunFolderError: the length of an epoch that uses everything ",
        "checkpoint": "RankError: ranks 0 and 1 differ in the checkpoint: start all",
    }


@pytest.mark.heavy
def test_a_callback_may_stop_all_ranks(tmp_path):
    recount(trained("objective", tmp_path, 2, stop=9), epochs=1)


@pytest.mark.heavy
def test_sharded_models_learn_what_others_do(tmp_path):
    """FSDP2 through the trainer, on gloo; an epoch that is resumed continues as it was."""
    how: dict[str, Any] = {"optim": "adamw_torch"}  # torch loads no state where there is none
    sharded = trained("objective", tmp_path, 2, fsdp=True, save=1, **how)
    recount(sharded)
    (ddp, _) = trained("objective", tmp_path / "ddp", 2, **how)
    torch.testing.assert_close(sharded[0]["weights"], ddp["weights"], rtol=0, atol=TOLERANCE)
    assert sharded[0]["meters"] == ddp["meters"]
    epochs = [epoch for epoch, *_ in sharded[0]["record"]]
    place = tmp_path / f"checkpoint-{epochs.index(2) + 1}"
    again = trained("objective", tmp_path / "again", 2, fsdp=True, resume=place, **how)
    for one, other in zip(sharded, again, strict=True):
        assert torch.equal(one["weights"], other["weights"])
        assert one["meters"] == other["meters"]


def diverging(kind, folder):
    """A gradient that is not finite on the last rank alone, in its tenth batch."""
    as_launched()
    left = 10 if torch.distributed.get_rank() else 0

    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            nonlocal left
            left -= self.training
            return Spoil.apply(self.inner(x)) if self.training and not left else self.inner(x)

    everything = Sampling(policy=All())
    try:
        if kind == "lightning":
            module = Module()
            module.net, module.record = Bad(), Record()
            frugal = module.frugal = FrugalCallback(sampling=everything)
            pl.Trainer(
                max_epochs=EPOCHS, accelerator="cpu", devices=2, logger=False,
                callbacks=[frugal, Saver(folder, 1)], enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder,
            ).fit(module, FrugalLoader(Numbered(48), 4, seed=SEED))  # fmt: skip
        else:
            model = Classifier()
            model.net = Bad()
            given = args(folder, 2, save_strategy="steps", save_steps=1, eval_strategy="no")
            FrugalTrainer(model, given, train_dataset=Numbered(48), sampling=everything).train()
    except NonFiniteLoss as error:
        return error.epoch, error.step, sorted(error.ids)
    return None


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["objective", "lightning"])
def test_a_bad_gradient_on_one_rank_stops_all(kind, tmp_path):
    first, second = on_ranks(2, diverging, kind, tmp_path)
    assert first == second
    assert first[:2] == (1, 3)
    assert len(first[2]) == GLOBAL
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == sorted(f"checkpoint-{step}" for step in range(1, 10))


LAUNCHED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_integration_ranks import run

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    found = run(kind, folder, 2)
    torch.save(found, folder / f"rank-{os.environ['LOCAL_RANK']}")
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "launcher"),
    [
        ("objective", "torch.distributed.run --standalone --nproc-per-node 2"),
        ("objective", "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
         "--mixed_precision no --dynamo_backend no --main_process_port 0"),
        ("lightning", "torch.distributed.run --standalone --nproc-per-node 2"),
        ("lightning", None),
    ],
    ids=["torchrun", "accelerate-launch", "lightning-torchrun", "lightning-devices"],
)  # fmt: skip
def test_launchers_start_ranks(kind, launcher, tmp_path):
    """Those that users have; Lightning starts its second process itself."""
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED)
    tests = str(Path(__file__).parent.parent)
    paths = [str(Path(__file__).parent), tests, str(Path(tests).parent / "src")]
    command = [sys.executable, *(["-m", *launcher.split()] if launcher else []), str(script)]
    done = subprocess.run(
        [*command, kind, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    recount([torch.load(tmp_path / f"rank-{rank}", weights_only=False) for rank in range(2)])


def arguments(**settings) -> Any:
    """Of a trainer, and its accelerator, as :func:`check_devices` reads them."""
    loading = SimpleNamespace(dispatch_batches=None, split_batches=False)
    given = {"kind": DistributedType.NO, "n_gpu": 0, "parallel": None, "loading": loading}
    given |= {"deepspeed": None, "fsdp": None, "is_fsdp2": True} | settings
    accelerator = SimpleNamespace(
        distributed_type=given["kind"], parallelism_config=given["parallel"],
        dataloader_config=given["loading"], is_fsdp2=given["is_fsdp2"],
        device=SimpleNamespace(type="cpu"),
    )  # fmt: skip
    more = {"auto_find_batch_size": False, "torch_compile": False, "world_size": 1}
    return SimpleNamespace(**(more | given)), accelerator


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_gpu": 2}, r"\(DataParallel\) splits each batch: start one process a device"),
        ({"deepspeed": "zero.json"}, "DeepSpeed is not supported"),
        ({"kind": DistributedType.DEEPSPEED}, "DeepSpeed is not supported"),
        ({"fsdp": True}, "Accelerate ignores FSDP on cpu"),
        ({"fsdp": True, "kind": DistributedType.FSDP, "is_fsdp2": False}, "version 1"),
        ({"fsdp": True, "kind": DistributedType.FSDP, "torch_compile": True}, "torch_compile"),
        ({"kind": DistributedType.MEGATRON_LM}, "MEGATRON_LM is not supported"),
        ({"parallel": SimpleNamespace(non_data_parallel_size=2)}, "tensor, context and sequence"),
        (
            {"loading": SimpleNamespace(dispatch_batches=False, split_batches=True)},
            "dispatch_batches and split_batches",
        ),
        ({"world_size": 2}, "the arguments name 2 processes and torch.distributed 1"),
        ({}, None),
    ],
)
def test_other_ways_to_use_devices_are_refused(settings, says):
    if says is None:
        check_devices(*arguments(**settings))
        return
    with pytest.raises(SelectionMisuse, match=says) as raised:
        check_devices(*arguments(**settings))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("strategy", "launcher", "says"),
    [
        ("FSDPStrategy", None, "FSDPStrategy is not supported: use strategy='ddp'"),
        ("DeepSpeedStrategy", None, "DeepSpeedStrategy is not supported"),
        ("DDPStrategy", "_MultiProcessingLauncher", "spawns or forks end with the training"),
        ("SingleDeviceStrategy", None, "has 2 processes and torch.distributed 1: set devices"),
    ],
)
def test_other_strategies_are_refused(strategy, launcher, says):
    made = type(strategy, (), {"launcher": type(str(launcher), (), {})()})()
    with pytest.raises(SelectionMisuse, match=says):
        check_trainer(SimpleNamespace(strategy=made, world_size=2), Module())
