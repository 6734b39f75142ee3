"""What an objective that reads features sees of a step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from frugalkd.models.features import Shape


class Seen(NamedTuple):
    """One step's features, for one objective.

    ``student`` and ``teacher``: (rows, ...) each, of the modules that it names, in their order.
    ``parts``: what its ``parts`` made. ``ids``: int64 (rows,) on their device.
    """

    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    parts: nn.Module
    ids: Tensor


class Shapes(NamedTuple):
    """What is known of features before a training.

    ``student`` and ``teacher``: their shapes without the rows. ``samples``: of the data set.
    ``labels``: int64 (samples,), or None where they are not known beforehand.
    """

    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    samples: int
    labels: Tensor | None
