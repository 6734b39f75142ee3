"""Trees come back as they were; damaged files are refused; nothing needs pickle."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from frugalkd.errors import RunFolderError, WriteFailed
from frugalkd.files.checkpoint import load_tree, save_tree
from frugalkd.training.checkpoints import Checkpoints, random_state, set_random_state
from frugalkd.training.settings import Checkpointing

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text()
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_plain_trees_come_back(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    save_tree(path, tree)
    assert load_tree(path) == tree


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.tensor(3).expand(1),
        torch.tensor(3.0).expand(4),
        torch.arange(6).reshape(2, 3).T,
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([math.nan, math.inf]),
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.tensor([True, False]),
    ],
    ids=str,
)
def test_tensors_come_back_of_any_kind(tensor, tmp_path):
    save_tree(tmp_path / "t", {"a": [tensor, {7: tensor}]})
    loaded = load_tree(tmp_path / "t")
    for got in (loaded["a"][0], loaded["a"][1][7]):
        assert got.dtype == tensor.dtype
        assert got.shape == tensor.shape
        torch.testing.assert_close(got, tensor, rtol=0, atol=0, equal_nan=True)


def test_an_optimisers_state_comes_back(tmp_path):
    model = torch.nn.Linear(3, 2)

    def train(optimizer):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()

    one = torch.optim.AdamW(model.parameters(), fused=True)
    train(one)
    save_tree(tmp_path / "o", one.state_dict())
    other = torch.optim.AdamW(model.parameters(), fused=True)
    other.load_state_dict(load_tree(tmp_path / "o"))
    for key, state in one.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(other.state_dict()["state"][key][name], value)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"a": torch.zeros(3)})
    whole = path.read_bytes()
    for damage in (b"", whole[:20], whole[:-1]):
        path.write_bytes(damage)
        with pytest.raises(RunFolderError, match=r"^(?!.*\n).*not a readable checkpoint"):
            load_tree(path)
    with pytest.raises(RunFolderError):
        load_tree(tmp_path / "missing")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(RunFolderError, match="not a checkpoint"):
        load_tree(path)
    meta = {"format": "frugalkd-checkpoint", "schema": "2"}
    for text in ("5", "[]", "{}", '{"tensor": "9"}', '{"dict": [1]}', "{", '{"list": 3}'):
        save_file({"0": torch.zeros(1)}, path, metadata={**meta, "tree": text})
        with pytest.raises(RunFolderError, match="damaged"):
            load_tree(path)


def test_no_flipped_bit_is_trained_on(tmp_path):
    path = tmp_path / "c.safetensors"
    save_tree(path, {"step": 7, "x": torch.arange(40.0), "text": "seven"})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(RunFolderError):
            load_tree(path)


def test_what_json_cannot_hold_is_an_error_at_once(tmp_path):
    with pytest.raises(TypeError):
        save_tree(tmp_path / "t", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_another_version_is_told_from_damage(tmp_path):
    path = tmp_path / "c.safetensors"
    for schema in ("1", "3"):
        meta = {"format": "frugalkd-checkpoint", "schema": schema, "tree": "{}"}
        save_file({"0": torch.zeros(1)}, path, metadata=meta)
        with pytest.raises(RunFolderError, match="another version of frugalkd"):
            load_tree(path)


def test_all_random_streams_go_on_where_they_were(tmp_path):
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


def test_the_last_checkpoints_are_kept_and_those_of_another_run_go(tmp_path):
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
def test_as_many_are_kept_as_were_asked_for(keep, tmp_path):
    kept = Checkpoints(tmp_path, Checkpointing(keep=keep))
    for step in range(1, 10):
        kept.save(0, step, {})
        last = range(max(1, step + 1 - keep), step + 1)
        assert names(tmp_path) == [f"epoch-00000-step-{n:09d}.safetensors" for n in last]


@pytest.mark.parametrize("damage", [0, 20, -1])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    kept = Checkpoints(tmp_path, Checkpointing(keep=3))
    for step in (1, 2, 3):
        kept.save(0, step, {"step": step, "x": torch.zeros(9)})
    for name in names(tmp_path)[1:]:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:damage])
    with pytest.warns(UserWarning, match="going on from the one before it"):
        assert kept.newest()["step"] == 1
    (tmp_path / names(tmp_path)[0]).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="going on"),
        pytest.raises(RunFolderError, match=r"; there is no other: delete .* start anew$"),
    ):
        kept.newest()


def test_checkpoints_are_due_by_steps_and_by_minutes(tmp_path, monkeypatch):
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


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, read_only):
    keeper = Checkpoints(tmp_path / "run" / "checkpoints", Checkpointing(keep=1))
    keeper.save(0, 1, {"a": 1})
    read_only(tmp_path)
    with pytest.raises(WriteFailed, match=r"^cannot write .*epoch-00000-step-000000002"):
        keeper.save(0, 2, {"a": 2})
    assert keeper.newest() == {"a": 1}
    with pytest.raises(WriteFailed, match=r"^cannot write .*other: .*: "):
        Checkpoints(tmp_path / "other", Checkpointing()).save(0, 1, {"a": 1})
