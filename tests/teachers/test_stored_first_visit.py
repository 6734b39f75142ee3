"""Filled at first visits: the teacher runs once on what is used, and on nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from frugalkd import Sampling
from frugalkd.errors import TargetsError
from frugalkd.objectives import KD
from frugalkd.policies import SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, StoredTargets
from frugalkd.teachers.encodings import Dense, Sampled
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Training
from toys import CLASSES, images, net, same_state

EXACT = Dense("float32")


def counted(teacher):
    """Rows that go through a teacher, by a hook on it."""
    rows = []
    teacher.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


def visit(selection, student):
    """Run a selection; how often each sample was used, each with finite targets."""
    visits: Counter = Counter()
    views = Counter()
    for epoch in selection:
        for batch in epoch:
            for id, row in zip(batch.ids.tolist(), batch.targets, strict=True):
                assert torch.isfinite(row).all()
                visits[id] += 1
            views[epoch.index] += len(batch.ids)
            with torch.no_grad():
                batch.observe(student(batch.data[0]))
    return visits


@pytest.mark.parametrize("views", [1, 2, 6])
@pytest.mark.parametrize("part", ["all", "weights", "gate"])
def test_the_teacher_runs_on_exactly_what_is_used(tmp_path, views, part):
    data, teacher, student = images(), net(1), net(2).eval()
    rows = counted(teacher)
    weights = np.ones(37, np.float32)
    weights[::3] = 0
    with FirstVisitTargets(teacher, data, tmp_path / "t", views=views) as targets:
        selection = Selection(
            data,
            epochs=6,
            batch_size=8,
            targets=targets,
            model=student,
            sampling=Sampling(
                policy=SelfRegulation(confidence=0.3, max_skip=4) if part == "gate" else None,
                weights=weights if part == "weights" else None,
            ),
        )
        visits = visit(selection, student)
        store = targets.store
        assert store is not None
        # Screenings are visits as well, so that a trained view may be any; the store knows which.
        if part != "gate":
            assert sum(rows) == sum(min(views, count) for count in visits.values())
        assert sum(rows) == targets.queries == selection.meters.teacher_queries == store.count()
        never = np.setdiff1d(np.arange(37), list(visits))
        for view in range(views):
            assert not store.present(never, np.full(len(never), view)).any()
    if part == "weights":
        assert sorted(visits) == np.flatnonzero(weights).tolist()
    if part == "gate":
        assert store.count() < 37 * 6
    assert StoredTargets(tmp_path / "t").store.count() == sum(rows)


def test_the_first_visit_gets_what_the_later_ones_read(tmp_path):
    data, teacher = images(), net(1)
    ids, views = np.array([30, 2, 17]), np.array([0, 1, 5])
    with FirstVisitTargets(teacher, data, tmp_path / "t", views=6, encoding=Sampled(5)) as targets:
        batch = data.batch(ids, views)
        first = targets.fetch(ids, views, batch)
        assert targets.queries == 3
        assert torch.equal(targets.fetch(ids, views, batch), first)
        assert targets.queries == 3
        # Half stored: only the others are computed.
        more = np.array([2, 30, 9]), np.array([1, 1, 0])
        mixed = targets.fetch(*more, data.batch(*more))
        assert targets.queries == 5
        assert torch.equal(mixed[0], first[1])
    assert torch.equal(StoredTargets(tmp_path / "t").fetch(ids, views, batch), first)


def test_a_student_is_that_of_the_live_teacher(tmp_path):
    training = Training(epochs=3, batch_size=8, optimizer=Optimizer("sgd", lr=0.02))
    data, teacher = images(), net(1)
    runs = []
    targets = FirstVisitTargets(teacher, data, tmp_path / "t", views=3, encoding=EXACT)
    for source in (teacher, targets):
        student = net(2)
        distill(student, data, teacher=source, training=training, device="cpu", objective=KD(4.0))
        runs.append(student)
    # On the same batches, the teacher gives the same bits.
    assert same_state(*runs)
    assert targets.queries == 3 * 37
    targets.close()


def test_a_later_student_goes_on_with_the_store(tmp_path):
    data, teacher = images(), net(1)
    some, view = np.arange(20), np.zeros(20, np.int64)
    with FirstVisitTargets(teacher, data, tmp_path / "t", encoding=EXACT) as targets:
        before = targets.fetch(some, view, data.batch(some, view))
        other = FirstVisitTargets(teacher, data, tmp_path / "t", encoding=EXACT)
        with pytest.raises(TargetsError, match="another process is filling"):
            other.fetch(some + 10, view, data.batch(some + 10, view))
    rows = counted(teacher)
    with FirstVisitTargets(teacher, data, tmp_path / "t", encoding=EXACT) as targets:
        assert torch.equal(targets.fetch(some, view, data.batch(some, view)), before)
        assert rows == []
        everyone, view = np.arange(37), np.zeros(37, np.int64)
        got = targets.fetch(everyone, view, data.batch(everyone, view))
        assert rows == [17]
    live = LiveTeacher(teacher).fetch(everyone, view, data.batch(everyone, view))
    assert got.shape == (37, CLASSES)
    torch.testing.assert_close(got, live, rtol=1e-5, atol=1e-5)


def test_other_data_are_refused(tmp_path):
    data, teacher = images(), net(1)
    targets = FirstVisitTargets(teacher, data, tmp_path / "t")
    with pytest.raises(TargetsError, match="another data set"):
        distill(net(2), images(seed=1), teacher=targets, device="cpu")
    assert targets.truth(None) is None, "not known before the teacher has run"
    assert not (tmp_path / "t").exists()
