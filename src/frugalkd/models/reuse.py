"""The teacher's classifier as the student's (SimKD, Chen et al., CVPR 2022)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from frugalkd.errors import ModelError
from frugalkd.models.beginning import head_of_name
from frugalkd.models.origin import reordering


@final
class ReusedClassifier(nn.Module):
    """In the place of a student's last linear layer: ``projector``, a linear layer to ``width``
    values, and ``classifier``, one that is the teacher's and is not trained."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.projector = nn.Linear(inputs, width)
        self.classifier = nn.Linear(width, classes).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.projector(x))


def reuse_classifier(student: nn.Module, teacher: nn.Module) -> str:
    """Put the teacher's last ``nn.Linear``, frozen, in the place of the student's, behind a linear
    layer to as many values as it takes. Both stay parts of the student, which is exported so.

    Args:
        student: changed in place; the new layer's weights come from torch's random stream.
        teacher: stays as it is.

    Returns:
        The path of the new layer in the student: what :class:`frugalkd.objectives.SimKD` makes the
        teacher's feature of.

    Raises:
        ModelError: one of them has no linear layer, or they have other classes.
    """
    path = put_projector(student, _head(teacher, "the teacher")[1].in_features)
    take_classifier(student, teacher)
    return path


def put_projector(student: nn.Module, width: int) -> str:
    """As :func:`reuse_classifier` for a teacher that comes later, with a classifier of drawn
    weights; ``width`` is how many values the teacher's takes."""
    path, head = _head(student, "the student")
    reused = ReusedClassifier(head.in_features, width, head.out_features)
    reused.to(head.weight.device, head.weight.dtype)
    above, _, name = path.rpartition(".")
    setattr(student.get_submodule(above), name, reused)
    return f"{path}.projector"


def take_classifier(student: nn.Module, teacher: nn.Module) -> None:
    """Give the teacher's classifier, its classes in the order of its outputs, to a student that
    :func:`put_projector` made ready. Raises ModelError where it is of another shape."""
    (path, given), (_, own) = _head(teacher, "the teacher"), _head(student, "the student")
    if given.weight.shape != own.weight.shape:
        raise ModelError(
            f"the teacher's classifier {path} makes {given.out_features} classes of "
            f"{given.in_features} values, the student's {own.out_features} of {own.in_features}: "
            f"set student.model.reuse_classifier_dim to {given.in_features}"
        )
    weight, bias = given.weight, given.bias
    bias = torch.zeros_like(own.bias) if bias is None else bias
    for hook in reordering(teacher):
        weight, bias = hook.reordered(weight, 0), hook.reordered(bias, 0)
    with torch.no_grad():
        own.weight.copy_(weight)
        own.bias.copy_(bias)


def _head(model: nn.Module, whose: str) -> tuple[str, nn.Linear]:
    path = head_of_name(model)
    if path is None:
        raise ModelError(f"{whose} has no linear layer: a classifier to reuse has to be one")
    head = model.get_submodule(path)
    assert isinstance(head, nn.Linear)
    return path, head
