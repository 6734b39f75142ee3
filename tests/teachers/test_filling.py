"""A stopped filling resumes; one that does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from frugalkd.errors import TargetsError
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.teachers.encodings import Dense
from frugalkd.teachers.filling import Filler
from frugalkd.teachers.store import Store
from toys import images, net

EXACT = {"views": 2, "encoding": Dense("float32")}


def stopping(rows):
    """A listener that stops the filling, as a kill would, once ``rows`` are done."""

    def listen(done, total):
        if done >= rows:
            raise KeyboardInterrupt

    return listen


def tanh(model):
    """The same weights, in another model."""
    model[2] = nn.Tanh()
    return model


def normalised(data):
    data.mean = (0.4,)
    return data


def named(data):
    data.classes = tuple("wxyz")
    return data


@pytest.mark.parametrize("closed", [True, False])
def test_a_half_filled_store_is_gone_on_with(tmp_path, closed):
    data, teacher = images(37), net(1)
    filler = Filler(LiveTeacher(teacher), data, tmp_path / "t", **EXACT)
    with pytest.raises(KeyboardInterrupt):
        filler.fill(batch_size=8, on_progress=stopping(40))
    if closed:
        filler.close()
    else:  # killed: what was not synced is not there
        assert filler.store is not None
        filler.store.close()
    kept = 40 + 5 if closed else 0  # 8 8 8 8 5 of the first view, 8 of the second
    assert Store(tmp_path / "t").count() == kept
    again = StoredTargets.fill(
        teacher, data, tmp_path / "t", views=2, encoding=Dense("float32"), batch_size=8
    )
    assert again.queries == 74 - kept
    whole = StoredTargets.fill(teacher, data, views=2, encoding=Dense("float32"), batch_size=8)
    for view in range(2):
        assert np.array_equal(again.all_logits(view), whole.all_logits(view))


def test_each_process_queries_its_shard_alone(tmp_path):
    data, teacher = images(37), net(1)
    for shard, samples in ((2, 13), (0, 12), (1, 12)):
        live = LiveTeacher(teacher)
        filler = Filler(live, data, tmp_path / "t", 2, shards=3, write=[shard])
        filler.fill()
        filler.close()
        assert live.queries == 2 * samples
    assert Store(tmp_path / "t").count() == 74
    assert StoredTargets.fill(teacher, data, tmp_path / "t", views=2).queries == 0


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: (net(2), images(37), {}), "differ in teacher:"),
        (lambda: (net(1), images(36), {}), "samples .37 there, 36 here. and data set"),
        (lambda: (net(1), images(37, augmented=False), {}), "differ in augmentation:"),
        (lambda: (tanh(net(1)), images(37), {}), "differ in teacher's model:"),
        (lambda: (net(1), normalised(images(37)), {}), "differ in normalisation:"),
        (lambda: (net(1), named(images(37)), {}), "classes"),
        (lambda: (net(1), images(37), {"views": 3}), "views .2 there, 3 here."),
        (lambda: (net(1), images(37), {"encoding": Dense("float32")}), "encoding"),
        (lambda: (net(1), images(37), {"shards": 4}), "shards .1 there, 4 here."),
    ],
)
def test_a_store_of_other_targets_is_refused_by_what_differs(tmp_path, made, named):
    StoredTargets.fill(net(1), images(37), tmp_path / "t", views=2)
    teacher, data, layout = made()
    with pytest.raises(TargetsError, match=rf"^(?!.*\n).*{named}"):
        Filler(LiveTeacher(teacher), data, tmp_path / "t", **{"views": 2, **layout})
    live = LiveTeacher(net(1), precision="bf16")
    with pytest.raises(TargetsError, match="differ in precision"):
        Filler(live, images(37), tmp_path / "t", 2)
