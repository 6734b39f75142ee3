"""A student that is sharded over ranks (FSDP2): what it learns is what DDP learns."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import barrier, get_rank

from frugalkd import Sampling
from frugalkd.errors import NonFiniteLoss, RankError, Stopped
from frugalkd.files.tensors import load_tree
from frugalkd.objectives import KD, FitNets
from frugalkd.policies import All, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import EMATeacher, FirstVisitTargets, LiveTeacher
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.settings import Optimizer, Training
from ranking import on_ranks
from toys import CLASSES, OneBadRow, grouped, images

TOLERANCE = 2e-6
"""Of a weight: float32 sums in another order, over some twenty steps."""


def plain(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def _learn(how, when):
    """A user's loop: the unsharded weights, the ledger's columns, the rows that it trained."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, teacher = plain(), plain(1)
    if how == "ddp":
        called = nn.parallel.DistributedDataParallel(model)
    else:
        for part in (teacher[1], teacher[3], teacher, model[1], model[3], model):
            fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
        called = model
        assert isinstance(next(model.parameters()), DTensor)
    optimizer = torch.optim.SGD(called.parameters(), lr=0.05, momentum=0.9)
    selection = Selection(
        images(64, augmented=False),
        epochs=4,
        batch_size=8,
        model=model,
        targets=LiveTeacher(teacher),
        sampling=Sampling(policy=SelfRegulation(confidence=0.4, when=when)),
    )
    objective = KD()
    for epoch in selection:
        for batch in epoch:
            pixels, labels = batch.data
            logits = called(pixels)
            batch.reduce(objective(logits, batch.targets, labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
            batch.observe(logits, labels)
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    weights = torch.cat([part.detach().flatten() for part in whole])
    columns = {name: column.copy() for name, column in selection.ledger.columns.items()}
    return weights, columns, selection.meters.samples_backpropagated


def _both():
    return [(_learn("ddp", when), _learn("fsdp2", when)) for when in ("last-visit", "now")]


@pytest.mark.heavy
def test_a_sharded_student_learns_what_a_replicated_one_learns():
    for one, other in zip(*on_ranks(2, _both), strict=True):
        (expected, columns, rows), (weights, others, other_rows) = one
        torch.testing.assert_close(weights, expected, rtol=0, atol=TOLERANCE)
        assert not torch.equal(weights, torch.cat([p.flatten() for p in plain().parameters()]))
        assert rows == other_rows > 0
        for name in ("visits", "participations", "forced", "streak", "due", "last_epoch"):
            assert columns[name].tolist() == others[name].tolist()
        assert torch.equal(weights, other[1][0])


def settings(**more):
    return Training(**{"epochs": 3, "batch_size": 8, "fsdp": True, **more})


CASES = {
    "adamw, clipped": {"optimizer": Optimizer(lr=0.01), "max_grad_norm": 0.3},
    "sgd, accumulated": {
        "optimizer": Optimizer("sgd", lr=0.05),
        "gradient_accumulation_steps": 2,
        "batch_size": 4,
    },
    "bf16": {"optimizer": Optimizer(lr=0.01), "precision": "bf16"},
}


def deep(seed=0):
    """Blocks within blocks, a list, BatchNorm, whose buffers are not cut, one number."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12))
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(2)
            )
            self.head = nn.Linear(12, CLASSES)
            self.scale = nn.Parameter(torch.ones(1))  # less than one for each rank

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = x + block(x)
            return self.scale * self.head(x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Deep()


def fit(training, *, make=plain, when: Any = "last-visit", policy=None, **more):
    """What ``distill`` makes of a student and a live teacher, and the model that was trained."""
    model = make()
    run = distill(
        model,
        images(64, augmented=False),
        **grouped(
            teacher=plain(1),
            policy=policy or SelfRegulation(confidence=0.4, when=when),
            training=training,
            eval_dataset=images(33, seed=1, augmented=False),
            device="cpu",
            **more,
        ),
    )
    assert run.model is model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return weights, run.meters.summary(), run.evaluation, run.ledger.columns, type(model).__name__


def _trained():
    made = {}
    for name, changed in CASES.items():
        when = "last-visit" if "gradient_accumulation_steps" in changed else "now"
        both = [fit(settings(**changed, fsdp=shard), when=when) for shard in (True, False)]
        made[name] = both
    made["blocks"] = [fit(settings(fsdp=shard), make=deep, policy=All()) for shard in (True, False)]
    return made


@pytest.mark.heavy
def test_distill_trains_a_sharded_student_as_a_replicated_one():
    first, second = on_ranks(2, _trained)
    for name, (cut, plainly) in first.items():
        tolerance = 2e-2 if name == "bf16" else TOLERANCE
        for key, tensor in plainly[0].items():
            torch.testing.assert_close(cut[0][key], tensor, rtol=0, atol=tolerance, msg=name)
            assert torch.equal(cut[0][key], second[name][0][0][key]), name
        for what in ("samples_backpropagated", "teacher_queries", "student_forwards", "flops"):
            assert cut[1][what] == plainly[1][what], (name, what)
        if name != "bf16":
            assert cut[2] == pytest.approx(plainly[2], abs=1e-6)
            for column in ("visits", "participations", "due"):
                assert cut[3][column].tolist() == plainly[3][column].tolist(), (name, column)
        assert cut[4] == plainly[4]  # the class is not torch's FSDP one


def _stopped(folder, stopped, resuming):
    """Stopped after eleven steps and resumed; undisturbed; the names in the checkpoint."""
    seen = itertools.count()
    model = plain(get_rank())  # the first rank's weights count
    try:
        fit(
            settings(fsdp=stopped),
            make=lambda: model,
            folder=folder,
            should_stop=lambda: next(seen) >= 11,
        )
    except Stopped:
        pass
    else:
        raise AssertionError("not stopped")
    barrier()  # the first rank writes it
    kept = load_tree(max(folder.glob("epoch-*")))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept["model"][name])
    resumed = fit(settings(fsdp=resuming), folder=folder, resume=True)
    return resumed[0], fit(settings(fsdp=resuming))[0], sorted(kept["model"])


def _stopped_each_way(folder):
    ways = [(True, True), (True, False), (False, True)]
    return [_stopped(folder / f"{one}-{other}", one, other) for one, other in ways]


@pytest.mark.heavy
def test_a_checkpoint_is_unsharded_and_resumes_either_way(tmp_path):
    for ways in on_ranks(2, _stopped_each_way, tmp_path):
        for resumed, undisturbed, names in ways:
            assert names == sorted(plain().state_dict())
            for key, tensor in undisturbed.items():
                torch.testing.assert_close(resumed[key], tensor, rtol=0, atol=TOLERANCE)


def _diverged(name):
    """The step of a bad row, and the weights then, finite and other than the first ones."""
    model = plain()
    try:
        training = settings(optimizer=Optimizer(name, lr=0.05), batch_size=4)
        train_teacher(
            model,
            OneBadRow(32, bad=21),
            sampling=Sampling(policy=All()),
            training=training,
            device="cpu",
        )
    except NonFiniteLoss as error:
        return error.step, error.ids, torch.cat([p.detach().flatten() for p in model.parameters()])
    return None


def _diverged_by_both():
    return [_diverged(name) for name in ("sgd", "adamw")]


@pytest.mark.heavy
def test_a_sharded_training_that_diverges_says_so():
    for (step, ids, weights), other in zip(*on_ranks(2, _diverged_by_both), strict=True):
        assert (step, ids) == other[:2] == (step, [21])
        assert torch.equal(weights, other[2])
        assert torch.isfinite(weights).all()
        first = torch.cat([p.detach().flatten() for p in plain().parameters()])
        assert torch.equal(weights, first) is (step == 0)


def _cut(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


HINTS = FitNets(student="1", teacher="1")
REFUSED = {
    "an average": "a sharded model has no moving average",
    "its own average": "a sharded model has no moving average",
    "adapters": "this objective trains adapters beside the student",
    "sharded before": "give the model unsharded, and set training.fsdp",
    "compiled": "training.compile is for unsharded models",
    "first visits": "a sharded teacher is run by all ranks at once",
    "tied": "a Sequential ties weights, which sharding would untie",
    "a single number": "torch cannot shard a Sequential: ",
}


def _refused(folder):
    """The error of each."""
    data, model = images(64, augmented=False), plain()
    visited = FirstVisitTargets(plain(1), data, folder / str(get_rank()))
    trainings = {
        "an average": (model, plain(1), {"training": settings(ema=0.9)}),
        "its own average": (model, EMATeacher(model), {}),
        "adapters": (model, wide(), {"objective": HINTS}),
        "sharded before": (_cut(plain()), plain(1), {}),
        "compiled": (model, plain(1), {"training": settings(compile=True)}),
        "first visits": (model, visited, {}),
        "tied": (tied(), plain(1), {}),
        "a single number": (scaled(), plain(1), {}),
    }
    errors = {}
    for what, (student, teacher, more) in trainings.items():
        try:
            more = {"training": settings(), **more}
            distill(student, data, **grouped(teacher=teacher, device="cpu", **more))
        except RankError as error:
            errors[what] = str(error)
    return errors


def tied():
    inner = [nn.Linear(36, 36), nn.Linear(36, 36)]
    inner[1].weight = inner[0].weight
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(36, CLASSES))


def scaled():
    model = plain()
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    return model


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, CLASSES))


def test_what_a_sharded_training_cannot_have_is_refused(tmp_path):
    for errors in on_ranks(2, _refused, tmp_path):
        assert errors.keys() == REFUSED.keys()
        for what, said in REFUSED.items():
            assert errors[what].startswith(said)


def test_alone_nothing_is_sharded():
    cut, plainly = (fit(settings(fsdp=shard)) for shard in (True, False))
    assert all(torch.equal(cut[0][key], tensor) for key, tensor in plainly[0].items())
