"""The loop against a plain one, bad losses, resuming, BatchNorm recalibration."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.nn import functional as F

from frugalkd import RunOptions, Sampling
from frugalkd.data import load_digits
from frugalkd.data.labels import Noise, with_noise
from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    ModelError,
    NonFiniteLoss,
    Stopped,
)
from frugalkd.ledger.dynamics import COLUMNS as DYNAMICS
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import KD, CrossEntropy, FitNets, Objective
from frugalkd.policies import All, RandomSubset, SelfRegulation
from frugalkd.policies.modes import MODES
from frugalkd.selection import Epoch
from frugalkd.selection.observer import Observer
from frugalkd.teachers import StoredTargets
from frugalkd.training import api
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.checkpoints import Checkpoints
from frugalkd.training.settings import Checkpointing, Optimizer, Schedule, Training
from frugalkd.training.trainer import ForwardFn, accelerator_for, fixed_parts
from toys import (
    CLASSES,
    IdsAndViews,
    NothingPasses,
    Spoil,
    Wild,
    grouped,
    images,
    net,
    order,
    rate,
    same_columns,
    same_state,
)

SGD = Optimizer("sgd", lr=0.05, momentum=0.9)
ADAMW = Optimizer("adamw", lr=0.01)
WHENS: list[Any] = ["now", "last-visit"]
NONE_PASSES = {when: NothingPasses(when=when) for when in WHENS}


def plain(model, data, training, seed, teacher=None, steps=None):
    """Conventional training in ten lines: what every gate that no sample passes must equal."""
    settings = {"lr": training.optimizer.lr, "fused": True}
    if training.optimizer.name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, **settings)
    size, step = training.batch_size, 0
    torch.manual_seed(seed)
    model.train()
    for epoch in range(math.ceil(training.epochs)):
        part = min(1.0, training.epochs - epoch)
        ids = order(len(data), seed, epoch)[: round(part * len(data))]
        for start in range(0, len(ids), size):
            if step == steps:
                return model
            chunk = ids[start : start + size]
            x, y = data.batch(chunk, np.full(len(chunk), epoch))
            progress = (epoch + part * start / len(ids)) / training.epochs
            after = (epoch + part * (start + len(chunk)) / len(ids)) / training.epochs
            optimizer.param_groups[0]["lr"] = rate(training, progress, after)
            if teacher is None:
                losses = F.cross_entropy(model(x), y, reduction="none")
            else:
                with torch.no_grad():
                    targets = teacher.eval()(x)
                losses = KD()(model(x), targets, y)
            (losses.sum() / len(chunk)).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return model.eval()


TRAININGS = {
    "sgd": Training(epochs=2.5, batch_size=8, optimizer=SGD),
    "adamw": Training(
        epochs=3,
        batch_size=8,
        optimizer=ADAMW,
        schedule=Schedule("linear", warmup=0.25, final=0.1),
    ),
}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("policy", [All(), *NONE_PASSES.values()], ids=["all", *WHENS])
@pytest.mark.parametrize("distilled", [False, True], ids=["teach", "distill"])
def test_a_gate_that_no_sample_passes_is_plain_training(distilled, policy, training):
    data = images()  # 37 samples: the last batch of 8 is short; cropped and flipped
    teacher = net(seed=9)
    if distilled:
        with torch.no_grad():  # a BatchNorm that has seen something
            teacher.train()(data.batch(range(37), [0] * 37)[0])
    expected = plain(net(), data, training, seed=5, teacher=teacher if distilled else None)
    common = {"policy": policy, "training": training, "seed": 5, "device": "cpu"}
    if distilled:
        run = distill(net(), data, **grouped(teacher=teacher, **common))
    else:
        run = train_teacher(net(), data, **grouped(**common))
    assert same_state(run.model, expected)
    assert not same_state(run.model, net())
    trained = run.ledger["participations"].sum()
    assert trained == run.meters.samples_backpropagated
    assert (run.ledger["participations"] == run.ledger["visits"]).all()


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("distilled", [False, True], ids=["teach", "distill"])
def test_training_dynamics_change_nothing_else(distilled, when):
    policy = SelfRegulation(confidence=0.4, when=when, max_skip=2)
    training = replace(TRAININGS["adamw"], epochs=4)
    more = {"mode": "regulated", "regulation": policy} if distilled else {"policy": policy}
    plain, full = (start(more | {"dynamics": on}, training=training) for on in (False, True))
    assert same_state(plain.model, full.model)
    assert not any(name in plain.ledger.columns for name in DYNAMICS)
    assert full.ledger["counted"].max() == 2, "of four epochs"
    for name, column in plain.ledger.columns.items():
        kept = full.ledger[name] & 3 if name == "flags" else full.ledger[name]
        assert kept.tobytes() == column.tobytes(), name
    timeless = [
        {k: v for k, v in record.items() if k != "wall_seconds"} for record in plain.history
    ]
    for record, wanted in zip(full.history, timeless, strict=True):
        assert {name: record[name] for name in wanted} == wanted


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.heavy
def test_wrong_labels_are_not_trained_on(when):
    """Four of ten labels of the digits are replaced; on clean labels nothing changes."""
    splits = load_digits()
    clean, test = splits.train, splits.test
    data = with_noise(clean, Noise(0.4, seed=1))
    wrong = (data.labels != clean.labels).numpy()

    def trained(data, noise):
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        training = Training(epochs=30, batch_size=16, optimizer=Optimizer("adamw", lr=0.003))
        gate = SelfRegulation(when=when, max_skip=2, label_noise=noise)
        return train_teacher(
            mlp, data, device="cpu", training=training, sampling=Sampling(gate), eval_dataset=test
        )

    off, auto = trained(data, "off"), trained(data, "auto")
    found = auto.ledger["disbelieved"] > 0
    assert auto.history[-1]["disbelieved"] == found.sum()
    assert found[wrong].mean() > 0.6
    assert wrong[found].mean() > 0.9
    used = [run.ledger["participations"][wrong].sum() for run in (auto, off)]
    assert used[0] < 0.5 * used[1]
    right = [(run.evaluation or {})["accuracy"] for run in (auto, off)]
    assert right[0] > right[1] + 0.04
    assert same_state(trained(clean, "off").model, trained(clean, "auto").model)


def test_forced_rows_do_not_change_the_training():
    training = TRAININGS["sgd"]
    runs = [
        train_teacher(
            net(),
            images(),
            sampling=Sampling(policy=policy),
            training=training,
            seed=2,
            device="cpu",
        )
        for policy in (All(), SelfRegulation(confidence=0.3, warmup=3))
    ]
    assert same_state(runs[0].model, runs[1].model)
    assert runs[1].ledger["participations"].sum() == 0
    assert runs[1].ledger["forced"].sum() == runs[1].meters.samples_backpropagated


def test_all_equal_weights_train_as_none():
    runs = [
        distill(
            net(),
            images(),
            teacher=net(seed=9),
            sampling=Sampling(policy=All(), weights=weights),
            training=TRAININGS["sgd"],
            device="cpu",
        )
        for weights in (None, np.ones(37, dtype=np.float32))
    ]
    assert same_state(runs[0].model, runs[1].model)


class Poisoned(IdsAndViews):
    """Random inputs; from ``view`` on, one sample's input is ``value``."""

    def __init__(self, samples, poisoned, view, value):
        super().__init__(np.arange(samples) % 4)
        self.inputs = torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        self.poisoned, self.at, self.value = poisoned, view, value

    def batch(self, ids, views):
        rows, labels = super().batch(ids, views)
        x = self.inputs[rows[:, 0]].clone()
        x[(rows[:, 0] == self.poisoned) & (rows[:, 1] >= self.at)] = self.value
        return x, labels

    def __getitem__(self, id):
        return self.inputs[id], int(self.labels[id])


def no_batchnorm(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)
        )


def same_parameters(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("policy", [All(), NONE_PASSES["last-visit"]], ids=["all", "gated"])
@pytest.mark.parametrize(
    ("value", "epoch", "step", "max_grad_norm"),
    [
        (math.nan, 0, 0, None),
        (math.inf, 0, 3, None),
        (math.nan, 2, 0, None),
        (math.nan, 2, 4, None),
        (math.nan, 0, 2, 1.0),
    ],
)
def test_a_bad_loss_stops_the_run_with_the_weights_before_it(
    value, epoch, step, max_grad_norm, policy, optimizer
):
    training = Training(epochs=4, batch_size=6, optimizer=optimizer, max_grad_norm=max_grad_norm)
    poisoned = int(order(40, 1, epoch)[6 * step + 2])
    data = Poisoned(40, poisoned, epoch, value)
    model, records = no_batchnorm(), []
    with pytest.raises(NonFiniteLoss) as raised:
        train_teacher(
            model,
            data,
            sampling=Sampling(policy=policy),
            training=training,
            seed=1,
            device="cpu",
            run=RunOptions(on_epoch_end=records.append),
        )
    error = raised.value
    assert (error.epoch, error.step, error.ids) == (epoch, step, [poisoned])
    assert "\n" not in str(error)
    assert len(records) == epoch
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    if max_grad_norm is None:
        good = plain(no_batchnorm(), data, training, seed=1, steps=7 * epoch + step)
        assert same_parameters(model, good)


def test_a_bad_loss_under_gate_now_names_the_sample():
    poisoned = int(order(40, 1, 1)[6 * 3 + 2])
    with pytest.raises(NonFiniteLoss) as raised:
        train_teacher(
            no_batchnorm(),
            Poisoned(40, poisoned, 1, math.nan),
            sampling=Sampling(policy=NONE_PASSES["now"]),
            training=Training(epochs=3, batch_size=6, optimizer=SGD),
            seed=1,
            device="cpu",
        )
    assert (raised.value.epoch, raised.value.step, raised.value.ids) == (1, 3, [poisoned])


@dataclass(frozen=True)
class Undefined(Objective):
    """Not finite for one class, whatever the logits."""

    label: int = 3
    needs_targets = False

    def __call__(self, logits, targets, labels):
        undefined = torch.where(labels.eq(self.label), math.nan, 0.0)
        return F.cross_entropy(logits, labels, reduction="none") + undefined


@pytest.mark.parametrize("when", WHENS)
def test_the_first_bad_step_is_named(when):
    """The bad step spoils BatchNorm's running statistics, and the screenings that follow."""

    class Spoiling(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(36, 4)
            self.register_buffer("spoiled", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.spoiled += (x.flatten(1)[:, 0] == 7).any()
            bad = self.spoiled.gt(0)
            logits = self.linear(x.flatten(1))
            return logits if self.training else torch.where(bad, math.nan, logits)

    data = Poisoned(40, poisoned=11, view=0, value=7.0)
    data.labels = torch.arange(40) % 3
    data.labels[11] = 3
    step = order(40, 1, 0).tolist().index(11) // 6
    assert step < 6
    with pytest.raises(NonFiniteLoss, match="the loss is not finite") as raised:
        train_teacher(
            Spoiling(),
            data,
            sampling=Sampling(policy=NONE_PASSES[when]),
            objective=Undefined(),
            training=Training(epochs=2, batch_size=6, optimizer=SGD),
            seed=1,
            device="cpu",
        )
    assert (raised.value.epoch, raised.value.step, raised.value.ids) == (0, step, [11])


def test_no_checkpoint_is_written_of_a_bad_epoch(tmp_path):
    poisoned = int(order(40, 1, 2)[3])
    data = Poisoned(40, poisoned, 2, math.nan)
    training = Training(epochs=4, batch_size=6, optimizer=SGD)
    common = {"policy": All(), "training": training, "seed": 1, "device": "cpu"}
    with pytest.raises(NonFiniteLoss):
        train_teacher(no_batchnorm(), data, **grouped(folder=tmp_path, **common))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"epoch-0000{n}-step-{7 * n:09d}.safetensors" for n in (1, 2)]


class BadBackward(nn.Module):
    """Its ``at``-th training forward, from 0, has a finite loss and a gradient of ``value``."""

    def __init__(self, at=None, value=math.nan):
        super().__init__()
        self.net, self.calls = no_batchnorm(), 0
        self.spoil = SimpleNamespace(at=at, value=value)  # no attribute of a checkpoint's model

    def forward(self, x):
        logits = self.net(x)
        if not self.training:
            return logits
        self.calls += 1
        bad = self.calls - 1 == self.spoil.at
        return Spoil.apply(logits, self.spoil.value) if bad else logits


def plain_inputs(samples=40):
    return Poisoned(samples, poisoned=-1, view=0, value=0.0)


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("optimizer", "gradient_accumulation_steps", "max_grad_norm", "value", "bad"),
    [
        (SGD, 1, None, math.nan, 6),  # an epoch's last step: 40 rows are 7 batches of 6
        (ADAMW, 1, 1.0, math.inf, 6),
        (ADAMW, 1, None, -math.inf, 20),  # the last step of all
        (SGD, 1, None, math.nan, 9),
        (SGD, 3, None, math.nan, 6),  # an epoch's last step, of one batch
        (ADAMW, 3, 1.0, math.nan, 8),  # the second of three batches
    ],
)
def test_a_bad_gradient_leaves_the_weights_before_it(
    optimizer, gradient_accumulation_steps, max_grad_norm, value, bad, tmp_path
):
    """And the checkpoint that stays is one that resumes to what a good run comes to."""
    training = Training(
        epochs=3,
        batch_size=6,
        gradient_accumulation_steps=gradient_accumulation_steps,
        optimizer=optimizer,
        max_grad_norm=max_grad_norm,
    )
    common = {"policy": All(), "training": training, "seed": 1, "device": "cpu"}
    whole = train_teacher(BadBackward(), plain_inputs(), **grouped(**common))
    model, records, good = BadBackward(bad, value), [], {}
    checkpointing = Checkpointing(steps=1, minutes=0, keep=99)
    with pytest.raises(NonFiniteLoss, match="a gradient is not finite") as raised:
        train_teacher(
            model,
            plain_inputs(),
            **grouped(
                folder=tmp_path, checkpointing=checkpointing, on_epoch_end=records.append, **common
            ),
        )
    epoch, batch = divmod(bad, 7)
    step = batch // gradient_accumulation_steps
    rows = order(40, 1, epoch)[
        step * gradient_accumulation_steps * 6 : (step + 1) * gradient_accumulation_steps * 6
    ]
    error = raised.value
    assert (error.epoch, error.step, sorted(error.ids)) == (epoch, step, sorted(rows.tolist()))
    assert len(records) == epoch
    done = epoch * math.ceil(7 / gradient_accumulation_steps) + step  # steps before it
    assert [int(name[-21:-12]) for name in kept(tmp_path)][-1] == done
    tree = Checkpoints(tmp_path, checkpointing).newest()
    good = {name[4:]: tensor for name, tensor in tree["model"].items()}
    assert all(torch.equal(good[name], its) for name, its in model.net.state_dict().items())
    resumed = train_teacher(
        BadBackward(), plain_inputs(), **grouped(folder=tmp_path, resume=True, **common)
    )
    check_equal(whole, resumed)


@dataclass(frozen=True)
class BadAdapter(FitNets):
    """From its 16th batch on what it trains has bad gradients, and the student has good ones."""

    calls: list[int] = field(default_factory=list)

    def transfer(self, seen, weights):
        self.calls.append(1)
        losses = super().transfer(seen, weights)
        adapter = next(seen.parts.parameters())
        return losses if len(self.calls) < 16 else losses + 0 * Spoil.apply(adapter, math.nan).sum()


def test_a_bad_gradient_of_an_adapter_is_not_averaged(tmp_path):
    student = no_batchnorm()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 4))
    with pytest.raises(NonFiniteLoss, match="a gradient is not finite") as raised:
        distill(
            student,
            plain_inputs(),
            teacher=teacher,
            seed=1,
            device="cpu",
            training=Training(epochs=4, batch_size=8, optimizer=SGD, ema=0.5),
            objective=BadAdapter("1", "1", soft=0.1),
            run=RunOptions(folder=tmp_path),
        )
    assert (raised.value.epoch, raised.value.step) == (3, 0)
    tree = Checkpoints(tmp_path, Checkpointing()).newest()
    assert tree["step"] == 15
    tensors = [*tree["averages"][0]["model"].values(), *tree["parts"].values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    assert all(torch.equal(its, tree["model"][name]) for name, its in student.state_dict().items())


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(
    ("epochs", "batch", "gradient_accumulation_steps"), [(1, 40, 1), (2, 20, 2), (3, 40, 1)]
)
def test_weights_that_overflow_are_in_no_checkpoint(
    epochs, batch, gradient_accumulation_steps, optimizer, tmp_path
):
    """The last step of all makes them so, of finite gradients."""
    training = Training(
        epochs=epochs,
        batch_size=batch,
        gradient_accumulation_steps=gradient_accumulation_steps,
        optimizer=optimizer,
    )
    with pytest.raises(NonFiniteLoss, match=r"^the weight \d.\w+ is not finite") as raised:
        train_teacher(
            no_batchnorm(),
            plain_inputs(),
            sampling=Sampling(policy=Wild(epochs - 1)),
            training=training,
            seed=1,
            device="cpu",
            run=RunOptions(folder=tmp_path),
        )
    error = raised.value
    assert (error.epoch, error.step, sorted(error.ids)) == (epochs - 1, 0, list(range(40)))
    assert "lower the learning rate" in str(error)
    written = [f"epoch-0000{n}-step-{n:09d}.safetensors" for n in range(1, epochs)]
    assert kept(tmp_path) == written[-2:]


def test_statistics_that_overflow_are_no_result():
    """Weights of 1e30 are finite, and the variance of what they give is not."""
    training = Training(epochs=2, batch_size=40, optimizer=SGD, recalibrate_bn=20)
    with pytest.raises(NonFiniteLoss, match=r"^the buffer 2.running_var is not .* epoch 1, step 0"):
        train_teacher(
            batchnorm(),
            plain_inputs(),
            sampling=Sampling(policy=Wild(1, 1e32)),
            training=training,
            device="cpu",
        )


def test_optimiser_states_that_overflow_are_not_saved(tmp_path):
    """AdamW would take squares of such gradients for infinite, and never move that weight again."""
    training = Training(epochs=2, batch_size=40, optimizer=ADAMW)
    with pytest.raises(NonFiniteLoss, match=r"^the optimizer's exp_avg_sq of net.1.weight is not"):
        train_teacher(
            BadBackward(at=1, value=1e30),
            plain_inputs(),
            sampling=Sampling(policy=All()),
            training=training,
            device="cpu",
            run=RunOptions(folder=tmp_path),
        )
    assert kept(tmp_path) == ["epoch-00001-step-000000001.safetensors"]


def test_checkpoints_of_a_run_that_is_not_resumed_are_deleted(tmp_path):
    def train(epochs, **more):
        training = Training(epochs=epochs, batch_size=6, optimizer=SGD)
        common = {"policy": All(), "training": training, "device": "cpu", "folder": tmp_path}
        return train_teacher(net(), images(), **grouped(**common, **more))

    train(5, seed=1)
    fresh = train(2, seed=2)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"epoch-0000{n}-step-{6 * n:09d}.safetensors" for n in (1, 2)]
    assert same_state(train(2, seed=2, resume=True).model, fresh.model)


RESUMED = {
    "teach": {"policy": SelfRegulation(confidence=0.5, max_skip=2), "dynamics": True},
    "teach-now": {"policy": SelfRegulation(confidence=0.5, when="now"), "dynamics": True},
    "teach-random": {"policy": RandomSubset(0.5)},
    "teach-budget": {"policy": SelfRegulation(confidence=0.5, budget=0.5, warmup=1)},
    "teach-cost": {"policy": SelfRegulation(0.3, cost=0.7, max_skip=1, budget_schedule="early")},
    "distill-cost": {"mode": "regulated", "regulation": SelfRegulation(0.3), "cost": 0.6},
    **{
        f"{mode}-{when}": {"mode": mode, "regulation": SelfRegulation(0.5, when=when, max_skip=2)}
        for mode in MODES
        for when in (WHENS if MODES[mode].gated else WHENS[1:])
    },
}


def significance_ledger(samples=37):
    ledger = Ledger.new(samples)
    ledger["participations"][:] = np.arange(samples) % 5
    ledger.epochs = 4
    return ledger


def start(settings, **more):
    data = images()
    common = {"training": TRAININGS["sgd"], "seed": 3, "device": "cpu"} | more
    if "policy" in settings:
        return train_teacher(net(), data, **grouped(**settings, **common))
    return distill(
        net(),
        data,
        **grouped(teacher=net(seed=9), ledger=significance_ledger(), **settings, **common),
    )


class Interrupted(Exception):
    pass


def check_equal(whole, resumed):
    """All that two runs leave, times apart."""
    assert same_state(whole.model, resumed.model)
    assert same_columns(whole.ledger, resumed.ledger)
    assert whole.ledger.epochs == resumed.ledger.epochs
    assert whole.ledger.about == resumed.ledger.about

    def timeless(history):
        return [{k: v for k, v in record.items() if k != "wall_seconds"} for record in history]

    assert timeless(whole.history) == timeless(resumed.history)
    counted = ["samples_backpropagated", "student_forwards", "teacher_queries", "flops"]
    one, other = whole.meters.summary(), resumed.meters.summary()
    assert {k: one[k] for k in counted} == {k: other[k] for k in counted}


class After:
    """Returns True from the ``times``-th call on."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    ("settings", "steps", "drop_last"),
    [
        pytest.param(settings, *((2, False), (3, True))[place // 2 % 2], id=name)
        for place, (name, settings) in enumerate(RESUMED.items())
    ],
)
def test_a_run_stopped_many_times_ends_like_the_whole_one(
    settings, drop_last, steps, tmp_path, steps_done
):
    training = replace(TRAININGS["adamw"], epochs=2.5, drop_last=drop_last)
    whole = start(settings, training=training)
    times = 0
    while True:
        steps_done.clear()
        try:
            resumed = start(
                settings, training=training, folder=tmp_path, resume=times > 0,
                should_stop=lambda: len(steps_done) >= steps,
            )  # fmt: skip
            break
        except Stopped:
            times += 1
            torch.rand(times)  # whatever else the process draws in between
    assert times == sum(record["steps"] for record in whole.history) // steps
    check_equal(whole, resumed)


@pytest.mark.parametrize(
    ("role", "when"),
    [({}, "last-visit"), ({"mode": "regulated"}, "now")],
    ids=["teach", "distill"],
)
@pytest.mark.heavy
def test_a_run_can_be_stopped_at_every_call(role, when, tmp_path):
    """At steps, in screening passes, in the recalibration, in the evaluation."""
    training = replace(TRAININGS["adamw"], epochs=2.5, recalibrate_bn=20, screen_batch=8)
    gate = SelfRegulation(confidence=0.3, when=when, max_skip=1)
    run = partial(start, {**role, "regulation": gate} if role else {"policy": gate})
    settings = {"training": training, "eval_dataset": images(12)}
    calls = []

    def never():
        calls.append(1)
        return False

    whole = run(**settings, should_stop=never)
    where = set()
    for times in range(1, len(calls) + 1):
        folder = tmp_path / str(times)
        with pytest.raises(Stopped) as raised:
            run(**settings, folder=folder, should_stop=After(times))
        where.add(" ".join(str(raised.value).split()[1:4]))
        if "two screening" in str(raised.value):  # none of them is made again
            state = Checkpoints(folder, Checkpointing()).newest()["selection"]["under_way"]
            assert state["read"] > 0
        resumed = run(**settings, folder=folder, resume=True)
        check_equal(whole, resumed)
        assert resumed.evaluation == whole.evaluation
    seen = "between two screening" if when == "now" else "in the screening"
    assert where >= {"at epoch 0,", "while BatchNorm's statistics", "in an evaluation", seen}


class Noisy(torch.utils.data.Dataset):
    """Samples that draw from torch's own stream each time they are read."""

    def __init__(self):
        self.inputs, self.labels = torch.randn(96, 6), torch.arange(96) % 4

    def __len__(self):
        return 96

    def __getitem__(self, index):
        return self.inputs[index] + 0.3 * torch.randn(6), int(self.labels[index])


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_rows_that_wait_under_gate_now_are_kept_as_drawn(steps, tmp_path):
    torch.manual_seed(0)
    data, first = Noisy(), nn.Linear(6, 4).state_dict()
    training = replace(TRAININGS["sgd"], epochs=2, batch_size=16)

    def run(**more):
        model = nn.Linear(6, 4)
        model.load_state_dict(first)
        policy = SelfRegulation(confidence=0.33, when="now")
        return train_teacher(
            model, data, **grouped(policy=policy, training=training, device="cpu", **more)
        )

    whole = run()
    assert 6 < sum(record["steps"] for record in whole.history) < 12
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=After(steps))
    check_equal(whole, run(folder=tmp_path, resume=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_channels_last_run_resumes_with_its_optimiser(optimizer, tmp_path):
    training = replace(TRAININGS[optimizer], epochs=3, channels_last=True)

    def run(**more):
        torch.manual_seed(0)
        convolutions = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)  # kernels of 4 x 3 x 3
        model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return train_teacher(model, images(), **grouped(training=training, device="cpu", **more))

    whole = run()
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=After(3))
    check_equal(whole, run(folder=tmp_path, resume=True))


@pytest.mark.parametrize("when", WHENS)
def test_a_run_resumes_from_its_last_checkpoint(when, tmp_path, steps_done):
    settings = {"policy": SelfRegulation(confidence=0.5, when=when, max_skip=2)}
    training = replace(TRAININGS["sgd"], epochs=3)
    whole = start(settings, training=training)

    class Killed(Exception):
        pass

    def dying():
        if len(steps_done) == 8:
            raise Killed
        return False

    steps_done.clear()
    with pytest.raises(Killed):
        start(
            settings, training=training, folder=tmp_path,
            checkpointing=Checkpointing(steps=2, keep=1), should_stop=dying,
        )  # fmt: skip
    steps_done.clear()
    resumed = start(
        settings, training=training, folder=tmp_path, resume=True,
        checkpointing=Checkpointing(steps=2),
    )  # fmt: skip
    check_equal(whole, resumed)
    assert len(steps_done) == sum(record["steps"] for record in whole.history) - 6


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(settings, tmp_path):
    def interrupt(record):
        if record["epoch"] == 1:
            raise Interrupted

    training = replace(TRAININGS["adamw"], epochs=4.5, recalibrate_bn=20)
    whole = start(settings, training=training)
    with pytest.raises(Interrupted):
        start(settings, training=training, folder=tmp_path, on_epoch_end=interrupt)
    torch.rand(7)  # whatever else the process draws in between
    resumed = start(settings, training=training, folder=tmp_path, resume=True)
    check_equal(whole, resumed)
    assert len(list(tmp_path.iterdir())) == 2
    again = start(settings, training=training, folder=tmp_path, resume=True)
    assert same_state(whole.model, again.model)


def test_the_same_seed_gives_the_same_run():
    runs = [start(RESUMED["regulated-last-visit"], seed=seed) for seed in (3, 3, 4)]
    assert same_state(runs[0].model, runs[1].model)
    assert same_columns(runs[0].ledger, runs[1].ledger)
    assert not same_state(runs[0].model, runs[2].model)


def parts(model) -> Any:
    return model


def test_recalibration_gives_the_statistics_of_the_data():
    data = images(24, augmented=False)
    training = Training(epochs=1, batch_size=24, optimizer=SGD, recalibrate_bn=24)
    run = train_teacher(
        net(), data, sampling=Sampling(policy=All()), training=training, device="cpu"
    )
    outputs = parts(run.model)[0](data.batch(range(24), [0] * 24)[0])
    mean, deviation = outputs.mean((0, 2, 3)), outputs.var((0, 2, 3))
    torch.testing.assert_close(parts(run.model)[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts(run.model)[1].running_var, deviation, rtol=1e-4, atol=1e-5)
    assert run.meters.student_forwards == 48
    assert not any(module.training for module in run.model.modules())


def test_recalibration_without_batchnorm_reads_nothing():
    training = Training(epochs=1, batch_size=8, optimizer=SGD, recalibrate_bn=20)
    run = train_teacher(
        no_batchnorm(), images(), sampling=Sampling(policy=All()), training=training, device="cpu"
    )
    assert run.meters.student_forwards == 37


def test_gradients_are_clipped():
    training = Training(
        epochs=1, batch_size=37, max_grad_norm=1e-6, optimizer=Optimizer("sgd", lr=1.0)
    )
    model, before = no_batchnorm(), no_batchnorm()
    train_teacher(model, images(), sampling=Sampling(policy=All()), training=training, device="cpu")
    with torch.no_grad():
        pairs = zip(model.parameters(), before.parameters(), strict=True)
        moved = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    assert 0 < float(moved) < 3e-6


def test_bf16_and_channels_last_train():
    training = Training(epochs=2, batch_size=8, optimizer=SGD, precision="bf16", channels_last=True)
    run = train_teacher(net(), images(), training=training, device="cpu")
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())
    assert parts(run.model)[0].weight.dtype == torch.float32


def trained(**settings):
    """A run of four epochs under ``settings``, and the trained model's logits.

    Without dropout: its draws go by the memory, so another format drops other values.
    """
    training = Training(epochs=4, batch_size=8, optimizer=SGD, **settings)
    data, model = images(64, augmented=False), net()
    model[3] = nn.Identity()
    run = train_teacher(model, data, training=training, device="cpu")
    x, _ = data.batch(np.arange(64), np.zeros(64, dtype=np.int64))
    with torch.no_grad():
        return run, run.model(x)


@pytest.mark.parametrize(
    "settings",
    [{"precision": "bf16"}, {"channels_last": True}, {"precision": "bf16", "channels_last": True}],
    ids=str,
)
def test_speed_options_train_the_same_model_within_rounding(settings):
    run, logits = trained()
    fast, fast_logits = trained(**settings)
    assert [record["samples"] for record in fast.history] == [
        record["samples"] for record in run.history
    ]
    # bf16 keeps 8 bits of a number: 64 steps apart, a few hundredths of the logits' spread.
    tolerance = 0.15 if "precision" in settings else 1e-3
    assert 0 < float((logits - fast_logits).abs().max() / logits.std()) < tolerance


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own import
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.heavy
def test_a_compiled_model_trains_as_the_eager_one_does(monkeypatch):
    def without_dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))

    runs, counter = [], CompileCounterWithBackend("inductor")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    # In this process: workers that compile would live on after the test.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    for compiled in (False, True):
        torch.manual_seed(3)
        training = Training(epochs=2, batch_size=8, optimizer=SGD, compile=compiled)
        policy = SelfRegulation(confidence=0.6)
        runs.append(
            train_teacher(
                without_dropout(),
                images(),
                sampling=Sampling(policy=policy),
                training=training,
                device="cpu",
            )
        )
        assert (counter.frame_count > 0) is compiled
    eager, compiled = (torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_every_training_of_a_process_is_compiled(monkeypatch):
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    calls = []
    for width in range(2, 9):
        before = counter.frame_count
        training = Training(epochs=2, batch_size=8, optimizer=SGD, compile=True, recalibrate_bn=9)
        train_teacher(net(width=width), images(), training=training, device="cpu")
        calls.append(counter.frame_count - before)
    assert min(calls) == max(calls) > 0


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("frugalkd.training.trainer.shutil.which", lambda name: None)
    training = Training(epochs=1, batch_size=8, compile=True)
    with pytest.raises(ModelError, match="there is no"):
        train_teacher(net(), images(), training=training, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", [True, False])
def test_an_epoch_waits_for_the_device_only_to_read_from_it(
    precision, stored, monkeypatch, tmp_path
):
    read = Observer.read
    readings = []

    def allowed(self, **given):
        torch.cuda.set_sync_debug_mode("default")
        readings.append(read(self, **given))
        torch.cuda.set_sync_debug_mode("error")

    def begin(self):
        torch.cuda.set_sync_debug_mode("error")
        yield from batches(self)
        torch.cuda.set_sync_debug_mode("default")

    batches = Epoch.__iter__
    monkeypatch.setattr(Observer, "read", allowed)
    monkeypatch.setattr(Epoch, "__iter__", begin)
    teacher, data = net(seed=9).cuda(), images()
    targets = StoredTargets.fill(teacher, data, tmp_path, views=3, device="cuda")
    try:
        distill(
            net().cuda(),
            data,
            teacher=targets if stored else teacher,
            sampling=Sampling(weights=np.linspace(0.1, 1.9, len(data), dtype=np.float32)),
            training=Training(epochs=2, batch_size=8, optimizer=ADAMW, precision=precision),
            device="cuda",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(readings) >= 2


def test_the_history_holds_what_each_epoch_did():
    heard = []
    run = start(RESUMED["regulated-last-visit"], on_epoch_end=heard.append)
    assert heard == run.history
    assert [record["epoch"] for record in run.history] == [0, 1, 2]
    for record in run.history:
        assert record["rows"] == sum(record[k] for k in ("participations", "idle", "forced"))
        assert record["steps"] == math.ceil(record["rows"] / 8)
    assert sum(r["rows"] for r in run.history) == run.meters.samples_backpropagated
    for count in ("participations", "forced"):
        assert sum(r[count] for r in run.history) == run.ledger[count].sum()
    assert [record["progress"] for record in run.history] == [0.4, 0.8, 1.0]


def test_progress_is_what_is_spent_of_a_cost():
    gate = SelfRegulation(confidence=1.0, when="last-visit", cost=0.5)  # nothing passes
    training = Training(epochs=4, batch_size=10, optimizer=SGD)
    run = train_teacher(
        no_batchnorm(), images(40), sampling=Sampling(policy=gate), training=training, seed=1,
        device="cpu",
    )  # fmt: skip
    assert [record["progress"] for record in run.history] == [0.5, 1.0]


def test_an_empty_epoch_is_an_epoch_without_steps():
    policy = SelfRegulation(confidence=1e-6, max_skip=1000)
    data = images(12)
    data.labels.zero_()
    data.classes = data.classes[:1]
    model = nn.Sequential(nn.Flatten(), linear := nn.Linear(36, 4))
    with torch.no_grad():
        linear.bias[0] = 1000.0
    training = Training(epochs=3, batch_size=6, optimizer=SGD)
    run = train_teacher(
        model, data, sampling=Sampling(policy=policy), training=training, device="cpu"
    )
    assert [record["steps"] for record in run.history] == [2, 0, 0]
    assert run.history[1]["loss"] is None


def test_all_errors_are_one_line_of_the_package():
    with pytest.raises(FrugalKDError, match=r"^(?!.*\n)"):
        distill(net(), images(), teacher=None, device="cpu")
    distill(
        net(), images(), teacher=None, objective=CrossEntropy(), device="cpu",
        training=Training(epochs=1, optimizer=SGD),
    )  # fmt: skip


def batchnorm(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)
        return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize(
    ("gradient_accumulation_steps", "drop_last"), [(1, False), (1, True), (2, False)]
)
def test_a_gate_and_batchnorm1d_train_on_any_seed(when, gradient_accumulation_steps, drop_last):
    """Also where all 33 samples are two batches of 16 and a row; and in the recalibration."""
    lone = 0
    for seed in range(6):
        training = Training(
            epochs=4, batch_size=16,
            gradient_accumulation_steps=gradient_accumulation_steps if when != "now" else 1,
            drop_last=drop_last, recalibrate_bn=17, optimizer=ADAMW,
        )  # fmt: skip
        policy = SelfRegulation(confidence=0.4, when=when, max_skip=2)
        run = train_teacher(
            batchnorm(seed),
            images(33),
            sampling=Sampling(policy=policy),
            training=training,
            seed=seed,
            device="cpu",
        )
        for record in run.history:
            lone += record["rows"] % 16 == 1
            trained = sum(record[name] for name in ("participations", "forced", "idle"))
            assert record["rows"] == trained != 1
    assert lone or drop_last


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("stop", [1, 2, 4, 7])
def test_a_run_with_lone_rows_resumes_bit_for_bit(when, stop, tmp_path):
    """Wherever it was stopped: the last batch, of training and of screening, has a row more."""
    policy = SelfRegulation(confidence=0.4, when=when, max_skip=2)
    training = Training(epochs=4, batch_size=8, optimizer=SGD, recalibrate_bn=1)

    def run(**more):
        common = {"policy": policy, "training": training, "seed": 3, "device": "cpu"}
        return train_teacher(batchnorm(), images(17), **grouped(**common, **more))

    whole = run()
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=After(stop))
    check_equal(whole, run(folder=tmp_path, resume=True))


@pytest.mark.heavy
def test_a_resnet_trains_on_batches_and_a_row():
    """Its last feature maps are of one pixel, and BatchNorm has one value a channel of one row."""
    resnet = pytest.importorskip("torchvision.models.resnet")
    torch.manual_seed(0)
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    stream = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(
        torch.randn(9, 3, 8, 8, generator=stream), torch.arange(9) % 4
    )
    training = Training(epochs=2, batch_size=4, optimizer=SGD)
    run = train_teacher(
        model, data, sampling=Sampling(policy=All()), training=training, device="cpu"
    )
    counted = [(record["rows"], record["steps"], record["deferred"]) for record in run.history]
    assert counted == [(9, 2, 0), (9, 2, 0)]
    gate = SelfRegulation(confidence=0.9, when="now")
    run = train_teacher(
        model, data, sampling=Sampling(policy=gate), training=training, device="cpu"
    )
    assert {record["rows"] for record in run.history} <= {2, 3, 4, 5, 6, 7, 8, 9}


def test_another_accelerator_changes_no_trainings_precision():
    """Accelerate keeps one state for the process; its autocast then takes the device's default."""
    forward = ForwardFn(net(), Training(precision="bf16"), accelerator_for("bf16", "cpu"))
    accelerator_for("fp32", "cpu")  # as an evaluation, or a scoring run, would
    default = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)  # what it is on CUDA
    try:
        assert forward(torch.zeros(2, 1, 6, 6)).dtype == torch.bfloat16
    finally:
        torch.set_autocast_dtype("cpu", default)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
@pytest.mark.parametrize("where", ["flops_of_data", "teacher_flops"])
def test_a_training_outlives_the_counting_of_its_operations(where, error, monkeypatch):
    def fail(*given, **more):
        raise error

    monkeypatch.setattr(api, where, fail)
    data = torch.utils.data.TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    with pytest.warns(FrugalKDWarning, match="not all operations are counted"):
        run = distill(
            nn.Linear(4, 3),
            data,
            teacher=nn.Linear(4, 3),
            training=Training(epochs=1),
            device="cpu",
        )
    assert run.history
    assert ("student_forward" in run.meters.flops) == (where == "teacher_flops")


class Frozen(nn.Module):
    """A backbone that is not trained, below a head that is."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Dropout(0.5))
        self.head = nn.Linear(36, 4)
        self.backbone.requires_grad_(False)

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_frozen_part_in_eval_mode_stays_in_it(mode):
    model = Frozen()
    getattr(model.backbone, mode)()
    modes = []
    model.backbone[1].register_forward_hook(lambda part, *_: modes.append(part.training))
    train_teacher(model, images(), training=Training(epochs=2, batch_size=8), device="cpu")
    changed = bool(model.backbone[1].num_batches_tracked)
    assert changed is (True in modes) is (mode == "train")


def test_the_statistics_of_a_frozen_part_are_not_refreshed():
    model = Frozen()
    model.backbone.eval()
    model.backbone[1].running_mean += 1  # pyright: ignore
    training = Training(epochs=1, batch_size=8, recalibrate_bn=16)
    train_teacher(model, images(), training=training, device="cpu")
    assert (model.backbone[1].running_mean == 1).all()


def test_a_pretrained_model_in_eval_mode_is_trained():
    """A pretrained model comes in eval mode: with adapters most of its parts are frozen."""
    pretrained = nn.Sequential(Frozen(), nn.Dropout(), nn.Linear(4, 4)).eval()
    assert fixed_parts(nn.Sequential(pretrained)) == []
    backbone = Frozen()
    backbone.backbone.eval()
    assert fixed_parts(nn.Sequential(backbone)) == [backbone.backbone]


@pytest.mark.parametrize(("epochs", "budget"), [(2.5, 1.0), (3, 1.0)])
def test_the_budget_of_a_run_is_of_the_given_epochs(epochs, budget):
    training = Training(epochs=epochs, batch_size=8)
    plain = train_teacher(net(), images(), training=training, **grouped(policy=All(), device="cpu"))
    assert plain.budget == pytest.approx(budget, abs=0.02)
    half = train_teacher(
        net(),
        images(),
        training=training,
        sampling=Sampling(mode="vanilla", cost=0.4),
        device="cpu",
    )
    assert half.budget == pytest.approx(0.4, abs=0.02)
