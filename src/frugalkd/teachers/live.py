"""A teacher that is asked for each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.batches import call, inputs_of
from frugalkd.errors import TargetsError
from frugalkd.looking import looking
from frugalkd.policies._policy import Ids
from frugalkd.teachers._targets import Targets


class LiveTeacher(Targets):
    """Runs the teacher in eval mode, without gradients, on the pixels that the student sees.

    Args:
        teacher: any module that returns logits (rows, classes).
        forward: how to call it on a batch; by default on the batch's inputs.
    """

    def __init__(self, teacher: nn.Module, forward: Callable[[Any], Tensor] | None = None):
        self.teacher = teacher
        self.views = None
        self.queries = 0
        self._forward = forward or (lambda data: call(teacher, inputs_of(data)))

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        self.queries += len(ids)
        with looking(self.teacher):
            return self._forward(data).float()

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        raise TargetsError(
            "a live teacher is not asked for all samples beforehand: a ceiling needs stored "
            "targets (targets.kind: stored)"
        )
