"""A student that is sharded over ranks (FSDP2): what it learns is what DDP learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frugalkd.api import train_teacher
from frugalkd.errors import RankError
from frugalkd.objectives import KD
from frugalkd.policies import SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher
from frugalkd.training import Training
from ranking import on_ranks
from toys import CLASSES, images

TOLERANCE = 2e-6
"""Of a weight: float32 sums in another order, over some twenty steps."""


def plain(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def _learn(how, when):
    """A loop of one's own: the whole weights, the ledger's columns, how often it took part."""
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
        images(64, augmented=False), policy=SelfRegulation(confidence=0.4, when=when), epochs=4,
        batch_size=8, model=model, targets=LiveTeacher(teacher),
    )  # fmt: skip
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


def _both(when):
    return _learn("ddp", when), _learn("fsdp2", when)


@pytest.mark.parametrize("when", ["last-visit", "now"])
def test_a_sharded_student_learns_what_a_replicated_one_learns(when):
    told = on_ranks(2, _both, when)
    (expected, columns, rows), (weights, others, other_rows) = told[0]
    torch.testing.assert_close(weights, expected, rtol=0, atol=TOLERANCE)
    assert not torch.equal(weights, torch.cat([p.flatten() for p in plain().parameters()]))
    assert rows == other_rows > 0
    for name in ("visits", "participations", "forced", "streak", "due", "last_epoch"):
        assert columns[name].tolist() == others[name].tolist()
    assert torch.equal(weights, told[1][1][0])


def _trained_by_the_engine():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = plain()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    try:
        training = Training(epochs=1, batch_size=8)
        train_teacher(model, images(64, augmented=False), training=training, device="cpu")
    except RankError as error:
        return str(error)
    return None


def test_the_engine_refuses_a_sharded_model():
    for said in on_ranks(2, _trained_by_the_engine):
        assert said is not None
        assert said.startswith("a sharded model (fully_shard) is for a loop of your own")
