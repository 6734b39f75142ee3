"""Trees come back as they were; damaged files are refused; nothing needs pickle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from frugalkd.checkpoint import load_tree, random_state, save_tree, set_random_state
from frugalkd.errors import RunFolderError

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
    meta = {"format": "frugalkd-checkpoint", "schema": "1"}
    for text in ("5", "[]", "{}", '{"tensor": "9"}', '{"dict": [1]}', "{", '{"list": 3}'):
        save_file({"0": torch.zeros(1)}, path, metadata={**meta, "tree": text})
        with pytest.raises(RunFolderError, match="damaged"):
            load_tree(path)


def test_what_json_cannot_hold_is_an_error_at_once(tmp_path):
    with pytest.raises(TypeError):
        save_tree(tmp_path / "t", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_the_random_stream_goes_on_where_it_was():
    cpu = torch.device("cpu")
    state = random_state(cpu)
    drawn = torch.rand(5)
    set_random_state(state, cpu)
    assert torch.equal(torch.rand(5), drawn)
