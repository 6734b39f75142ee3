"""Features that have places: maps, and tokens."""

from __future__ import annotations

from torch import Tensor

from frugalkd.errors import SettingError
from frugalkd.models.features.adapters import resized
from frugalkd.objectives.seen import Shapes


def check_places(shapes: Shapes) -> None:
    """Raises SettingError where a pair of features has none, or one of them is of another kind."""
    for given, wanted in zip(shapes.student, shapes.teacher, strict=True):
        if len(given) != len(wanted) or len(given) not in (2, 3):
            raise SettingError(
                f"features of shape {given} and {wanted} have no places in common: name modules "
                "that return maps (channels, height, width), or both of them tokens"
            )


def check_maps(shapes: Shapes) -> None:
    """Raises SettingError where a feature is no map."""
    for shape in (*shapes.student, *shapes.teacher):
        if len(shape) != 3:
            raise SettingError(
                f"a feature of shape {shape} is no map: name modules that return (channels, "
                "height, width)"
            )


def by_place(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as (rows, channels, places), the larger one averaged down to the places of the
    other, side by side."""
    if one.ndim == 3:  # tokens
        length = min(one.shape[1], other.shape[1])
        pair = (resized(feature, (length, 1)).transpose(1, 2) for feature in (one, other))
    else:
        sizes = [min(pair) for pair in zip(one.shape[2:], other.shape[2:], strict=True)]
        pair = (resized(feature, (1, *sizes)).flatten(2) for feature in (one, other))
    student, teacher = pair
    return student, teacher
