"""Objectives on features on the same tensors as torchdistill's losses, where it has them.

Similarity preserving is left out: torchdistill 1.1.5 divides a row of similarities by the sum of
their absolute values, where the paper has the norm.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from feature_cases import LABELS, SAMPLES, parts_of
from torch import nn

from frugalkd.objectives import CRD, RKD, AttentionTransfer, FitNets, StepFeatures

pytestmark = pytest.mark.heavy
pytest.importorskip("torchdistill", reason="torchdistill is not installed: pip install '.[bench]'")

MAPS = ((3, 4, 4), (5, 4, 4))


def batch(objective, rows=8, shapes=MAPS) -> Any:
    """What ``objective`` sees, the student's feature with a gradient."""
    stream = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(rows, *shape, generator=stream, dtype=torch.float64) for shape in shapes
    )
    parts = parts_of(objective, [shapes[0]], [shapes[1]])
    return StepFeatures((student.requires_grad_(),), (teacher,), parts, torch.arange(rows))


def mine(objective, seen):
    """The batch's loss of the features alone."""
    logits = torch.zeros(len(seen.ids), 2, dtype=torch.float64)
    labels = torch.zeros(len(seen.ids), dtype=torch.int64)
    return objective(logits, None, labels, None, seen).mean()


def theirs(loss, student, teacher, **more):
    of_student = {"a": {"output": student}, **more}
    return loss(of_student, {"b": {"output": teacher}}, targets=None)


def same(objective, seen, other):
    ours = mine(objective, seen)
    torch.testing.assert_close(ours, other, rtol=1e-7, atol=1e-12)  # CRD's T is float32 there
    (student,) = seen.student
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, other)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


def test_fitnets():
    """Their hints are torch's squared error behind a regressor of the user's."""
    from torchdistill.losses.mid_level import SimpleLossWrapper

    objective = FitNets("a", "b", soft=1.0, hard=0.0)
    seen = batch(objective)
    where = {
        "input": {"is_from_teacher": False, "module_path": "a", "io": "output"},
        "target": {"is_from_teacher": True, "module_path": "b", "io": "output"},
    }
    loss = SimpleLossWrapper(nn.MSELoss(), **where)
    same(objective, seen, theirs(loss, seen.parts[0](seen.student[0]), seen.teacher[0]))


def test_attention_transfer():
    from torchdistill.losses.mid_level import ATLoss

    objective = AttentionTransfer("a", "b", soft=1.0, hard=0.0)
    seen = batch(objective)
    pair = {"teacher": {"io": "output", "path": "b"}, "student": {"io": "output", "path": "a"}}
    same(objective, seen, theirs(ATLoss({"pair": pair}), seen.student[0], seen.teacher[0]))


@pytest.mark.parametrize("weights", [(1.0, 0.0), (25.0, 50.0)])
def test_relational(weights):
    from torchdistill.losses.mid_level import RKDLoss

    objective = RKD("a", "b", *weights, hard=0.0)
    seen = batch(objective)
    loss = RKDLoss("a", "b", *weights, reduction="mean")
    same(objective, seen, theirs(loss, seen.student[0], seen.teacher[0]))


def test_contrastive_with_its_memory():
    """Theirs starts from the embeddings, and receives the ids to contrast with."""
    from torchdistill.losses.mid_level import CRDLoss

    objective = CRD("a", "b", dim=6, negatives=9, soft=1.0, hard=0.0)
    seen = batch(objective, shapes=((3,), (5,)))
    memory = seen.parts[0]
    loss = CRDLoss("a", "ids", "b", 6, SAMPLES, 9, SAMPLES).double()
    for place, theirs_at in enumerate(("memory_v1", "memory_v2")):
        loss.get_buffer(theirs_at).copy_(memory.vectors[place])
    for step in range(3):
        torch.manual_seed(step)
        drawn = torch.cat([seen.ids[:, None], memory.others(seen.ids, 9)], dim=1)
        given = {"ids": {"input": {"pos_idx": seen.ids, "contrast_idx": drawn}}}
        embedded = memory.embed(*seen.student, *seen.teacher)
        other = theirs(loss, *embedded, **given).squeeze()
        torch.manual_seed(step)
        same(objective, seen, other)
        for place, vectors in enumerate((loss.memory_v1, loss.memory_v2)):
            torch.testing.assert_close(memory.vectors[place], vectors, rtol=1e-9, atol=1e-12)
    assert LABELS[drawn[:, 1:]].ne(LABELS[seen.ids, None]).all()
