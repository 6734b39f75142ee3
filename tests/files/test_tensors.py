"""Weights and checkpoints in files: what is written is read, everything else is refused."""

from __future__ import annotations

import json
import math
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from frugalkd.errors import ModelError, RunFolderError
from frugalkd.files.tensors import load_tree, load_weights, save_tree, save_weights
from frugalkd.models import build_model
from toys import same_state

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


@settings(max_examples=25, deadline=None)
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
    for text in ("5", "[]", "{}", '{"tensor": "9"}', '{"dict": [1]}', "{", '{"list": 3}'):
        meta = {"frugalkd-checkpoint": f'{{"schema": 4, "tree": {text}}}'}
        save_file({"0": torch.zeros(1)}, path, metadata=meta)
        with pytest.raises(RunFolderError, match="damaged"):
            load_tree(path)


def test_each_flipped_bit_is_found(tmp_path):
    path = tmp_path / "c.safetensors"
    save_tree(path, {"step": 7, "x": torch.arange(40.0), "text": "seven"})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 11):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(RunFolderError):
            load_tree(path)


def test_what_json_cannot_hold_is_an_error_at_once(tmp_path):
    with pytest.raises(TypeError):
        save_tree(tmp_path / "t", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_another_version_is_not_called_damaged(tmp_path):
    path = tmp_path / "c.safetensors"
    for schema in (3, 5):
        meta = {"frugalkd-checkpoint": json.dumps({"schema": schema, "tree": {}})}
        save_file({"0": torch.zeros(1)}, path, metadata=meta)
        with pytest.raises(RunFolderError, match=r"of schema [35], .* this one reads schema 4"):
            load_tree(path)


def _model() -> nn.Module:
    return build_model("mlp", num_classes=3, in_channels=3, image_size=(6, 5), hidden=[4])


def test_weights_are_saved_whatever_their_layout(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
            self.last.weight = self.first.weight  # two names of one tensor
            kernel = torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last)
            self.kernel = nn.Parameter(kernel)
            self.short = nn.Parameter(torch.randn(4, 2, dtype=torch.bfloat16).t())
            self.register_buffer("none", torch.zeros(0, 3))
            self.register_buffer("count", torch.tensor(7))
            self.register_buffer("mask", torch.tensor([True, False]))

    model, other = Odd(), Odd()
    save_weights(tmp_path / "w.safetensors", model)
    first = (tmp_path / "w.safetensors").read_bytes()
    save_weights(tmp_path / "w.safetensors", model)
    assert (tmp_path / "w.safetensors").read_bytes() == first
    load_weights(other, tmp_path / "w.safetensors")
    assert same_state(other, model)
    state = {name: t.clone().contiguous() for name, t in model.state_dict().items()}
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert first == safetensors.torch.save(state, file.metadata())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_weights_from_a_pt_file(tmp_path, wrap):
    source, model = _model(), _model()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    for ours, theirs in zip(model.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pickled_model_is_refused(tmp_path):
    torch.save(_model(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="would need pickle"):
        load_weights(_model(), tmp_path / "w.pt")


def test_a_compressed_file_is_refused_unread(tmp_path):
    """A megabyte of it could become a gigabyte."""
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for each in plain.infolist():
            packed.writestr(each.filename, plain.read(each))
    assert (tmp_path / "w.pt").stat().st_size < 1 << 14
    with pytest.raises(ModelError, match="is compressed"):
        load_weights(_model(), tmp_path / "w.pt")


def test_weights_that_do_not_fit_name_the_keys(tmp_path):
    state = _model().state_dict()
    state["layers.1.weigth"] = state.pop("layers.1.weight")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"lacks layers.1.weight \(did you mean layers.1.weigth"):
        load_weights(_model(), tmp_path / "w.pt")
    state = {name: tensor[:1] for name, tensor in _model().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"layers.1.weight is \(1, 90\) there and \(4, 90\)"):
        load_weights(_model(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.txt", "w.pt", "w.safetensors", "none.pt"])
def test_what_is_no_weights_file_is_refused(tmp_path, name):
    if name != "none.pt":
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(ModelError) as caught:
        load_weights(_model(), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_tensors_of_a_checkpoint_begin_where_new_ones_do(tmp_path):
    """Else the last bits of a resumed training may be others."""
    tree = {"odd": [torch.rand(size) for size in (1, 5, 7, 3)], "text": "x" * 5}
    for length in range(8):
        path = tmp_path / str(length)
        save_tree(path, {**tree, "text": "x" * length})
        found = load_tree(path)["odd"]
        assert all(map(torch.equal, found, tree["odd"]))
        assert {tensor.data_ptr() % 64 for tensor in found} == {0}
