"""Initial weights: from a file, or the teacher's classifier (SimKD)."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from frugalkd.errors import ModelError
from frugalkd.files import StrPath
from frugalkd.files.tensors import read_state, refuse_misfit
from frugalkd.models.origin import Reordered
from frugalkd.runtime.imports import inside_package

PRETRAINED = "pretrained"
"""In place of a file: the weights that the model's library offers."""


def init_from(model: nn.Module, weights: StrPath) -> None:
    """Fill ``model`` in place with the ``weights`` of a file: ``.safetensors``, or ``.pt``,
    ``.pth``, ``.bin`` read without pickle; one inside an installed package is
    ``package/folder/file.pth``.

    The head, the model's last ``nn.Linear``, keeps its drawn weights where the file has none for
    it, or of another shape. Raises ModelError: there is no such file, it cannot be read, or it does
    not fit the model.
    """
    path = weights_file(weights)
    state, own = read_state(path), model.state_dict()
    head = head_of_name(model)
    names = [] if head is None else [name for name in own if name.startswith(f"{head}.")]
    if any(name not in state or state[name].shape != own[name].shape for name in names):
        state |= {name: own[name] for name in names}
    refuse_misfit(own, state, path)
    model.load_state_dict(state)


def weights_file(weights: StrPath) -> Path:
    """The file ``weights``, which may be inside an installed package."""
    path = Path(weights)
    return path if path.is_file() else inside_package(str(weights)) or path


def head_of_name(model: nn.Module) -> str | None:
    """The module path of the last ``nn.Linear``, in the order in which modules were made."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


@final
class ReusedClassifier(nn.Module):
    """In place of a student's last linear layer: ``projector``, a linear layer to ``width`` values,
    and ``classifier``, the teacher's, which is not trained (SimKD, Chen et al., CVPR 2022)."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.projector = nn.Linear(inputs, width)
        self.classifier = nn.Linear(width, classes).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.projector(x))


def reuse_classifier(student: nn.Module, teacher: nn.Module) -> str:
    """Replace the student's last ``nn.Linear``, in place, by a linear layer to as many values as
    the teacher's takes, with weights from torch's random stream, and the teacher's, frozen.

    Returns:
        The path of the new layer in the student, which :class:`frugalkd.objectives.SimKD` compares
        with the teacher's feature.

    Raises:
        ModelError: one of them has no linear layer, or they have other classes.
    """
    path = put_projector(student, head_of(teacher, "the teacher")[1].in_features)
    take_classifier(student, teacher)
    return path


def put_projector(student: nn.Module, width: int) -> str:
    """As :func:`reuse_classifier` for a teacher that is known later, whose classifier takes
    ``width`` values."""
    path, head = head_of(student, "the student")
    reused = ReusedClassifier(head.in_features, width, head.out_features)
    reused.to(head.weight.device, head.weight.dtype)
    student.set_submodule(path, reused)
    return f"{path}.projector"


def take_classifier(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's classifier, in the order of its outputs, to a student that
    :func:`put_projector` prepared. Raises ModelError where it has another shape."""
    (path, given), (_, own) = head_of(teacher, "the teacher"), head_of(student, "the student")
    if given.weight.shape != own.weight.shape:
        raise ModelError(
            f"the teacher's classifier {path} makes {given.out_features} classes of "
            f"{given.in_features} values, the student's {own.out_features} of {own.in_features}: "
            f"set student.model.reuse_classifier_dim to {given.in_features}"
        )
    weight = given.weight
    bias = torch.zeros_like(own.bias) if given.bias is None else given.bias
    for hook in teacher._forward_hooks.values():
        if isinstance(hook, Reordered):
            weight, bias = hook.reordered(weight, 0), hook.reordered(bias, 0)
    with torch.no_grad():
        own.weight.copy_(weight)
        own.bias.copy_(bias)


def head_of(model: nn.Module, whose: str = "the model") -> tuple[str, nn.Linear]:
    """The last ``nn.Linear`` with its module path. Raises ModelError where there is none."""
    path = head_of_name(model)
    if path is None:
        raise ModelError(f"{whose} has no linear layer: its head has to be an nn.Linear")
    head = model.get_submodule(path)
    assert isinstance(head, nn.Linear)
    return path, head
