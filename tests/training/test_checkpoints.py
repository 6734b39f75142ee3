"""When checkpoints are saved, which are kept, and resuming where some are damaged."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from frugalkd.errors import RunFolderError, WriteFailed
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.training.checkpoints import Checkpoints, random_state, set_random_state
from frugalkd.training.settings import Checkpointing


def test_all_random_streams_are_restored(tmp_path):
    cpu = torch.device("cpu")

    def draw():
        return [*torch.rand(5).tolist(), random.gauss(0, 1), *np.random.normal(size=3)]

    draw()  # leaves a cached normal value in numpy's and Python's streams
    save_tree(tmp_path / "r", random_state(cpu))
    drawn = draw()
    draw()
    set_random_state(load_tree(tmp_path / "r"), cpu)
    assert draw() == drawn


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_are_kept_and_those_of_another_run_removed(tmp_path):
    kept = Checkpoints(tmp_path / "c", Checkpointing(keep=2))
    assert kept.newest() is None
    for epoch, step in ((0, 5), (1, 8), (1, 12)):
        kept.save(epoch, step, {"step": step})
    assert names(kept.folder) == [
        "epoch-00001-step-000000008.safetensors",
        "epoch-00001-step-000000012.safetensors",
    ]
    assert kept.newest() == {"step": 12}
    fresh = Checkpoints(tmp_path / "c", Checkpointing(keep=1))
    fresh.save(0, 3, {"step": 3})
    assert names(kept.folder) == ["epoch-00000-step-000000003.safetensors"]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 7])
def test_keep_is_how_many_are_kept(keep, tmp_path):
    kept = Checkpoints(tmp_path, Checkpointing(keep=keep))
    for step in range(1, 10):
        kept.save(0, step, {})
        last = range(max(1, step + 1 - keep), step + 1)
        assert names(tmp_path) == [f"epoch-00000-step-{n:09d}.safetensors" for n in last]


@pytest.mark.parametrize("damage", [0, 20, -1])
def test_a_torn_one_is_skipped_with_a_warning(tmp_path, damage):
    kept = Checkpoints(tmp_path, Checkpointing(keep=3))
    for step in (1, 2, 3):
        kept.save(0, step, {"step": step, "x": torch.zeros(9)})
    for name in names(tmp_path)[1:]:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:damage])
    with pytest.warns(UserWarning, match="resuming from the one before it"):
        assert kept.newest()["step"] == 1
    (tmp_path / names(tmp_path)[0]).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="resuming from"),
        pytest.raises(RunFolderError, match=r"; there is no other: delete .* start again$"),
    ):
        kept.newest()


def test_due_by_steps_and_by_minutes(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("frugalkd.training.checkpoints.time.monotonic", lambda: now[0])
    by_steps = Checkpoints(tmp_path / "s", Checkpointing(steps=4, minutes=0))
    assert [step for step in range(1, 10) if by_steps.due(step)] == [4, 8]
    by_minutes = Checkpoints(tmp_path / "m", Checkpointing(minutes=2))
    now[0] += 119
    assert not by_minutes.due(7)
    now[0] += 1
    assert by_minutes.due(8)
    by_minutes.save(0, 8, {})
    assert not by_minutes.due(9)


def test_a_place_that_cannot_be_written(tmp_path, read_only):
    keeper = Checkpoints(tmp_path / "run" / "checkpoints", Checkpointing(keep=1))
    keeper.save(0, 1, {"a": 1})
    read_only(tmp_path)
    with pytest.raises(WriteFailed, match=r"^cannot write .*epoch-00000-step-000000002"):
        keeper.save(0, 2, {"a": 2})
    assert keeper.newest() == {"a": 1}
    with pytest.raises(WriteFailed, match=r"^cannot write .*other: .*: "):
        Checkpoints(tmp_path / "other", Checkpointing()).save(0, 1, {"a": 1})
