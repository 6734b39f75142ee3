"""Weights in files: what is written is read, and what is not weights is refused unread."""

import zipfile

import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError
from frugalkd.files.weights import load_weights, save_weights
from frugalkd.models import build_model
from toys import same_state


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
