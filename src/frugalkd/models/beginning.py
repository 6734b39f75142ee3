"""Weights that a model begins with, where they are not drawn: a pretrained model's, from a file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from frugalkd.files import StrPath
from frugalkd.files.tensors import read_state, refuse_misfit
from frugalkd.runtime.imports import inside_package

PRETRAINED = "pretrained"
"""In place of a file: what the library that has the model offers for it."""


def begin(model: nn.Module, start: StrPath) -> None:
    """Fill ``model`` in place with the weights of a file, to train on from there.

    The head, the model's last ``nn.Linear``, keeps what was drawn for it where the file has none or
    one of another shape: that is the head of other classes.

    Args:
        model: any module.
        start: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` read without pickle; a file inside
            an installed package may be named as ``package/folder/file.pth``.

    Raises:
        ModelError: there is no such file, it cannot be read, or it does not fit the model.
    """
    path = weights_file(start)
    state, own = read_state(path), model.state_dict()
    head = head_of_name(model)
    if head is not None:
        names = [name for name in own if name.startswith(f"{head}.")]
        if any(name not in state or state[name].shape != own[name].shape for name in names):
            state |= {name: own[name] for name in names}
    refuse_misfit(own, state, path)
    model.load_state_dict(state)


def weights_file(start: StrPath) -> Path:
    """Where the file ``start`` is: as it is named, or inside an installed package."""
    path = Path(start)
    return path if path.is_file() else inside_package(str(start)) or path


def head_of_name(model: nn.Module) -> str | None:
    """The module path of the last ``nn.Linear``, in the order in which modules were made."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None
