"""What soft targets are bound to."""

from __future__ import annotations

from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.source import data_digest
from frugalkd.errors import TargetsError
from frugalkd.looking import model_digest
from frugalkd.teachers.live import LiveTeacher


def describe(teacher: nn.Module | None, dataset: Dataset) -> dict[str, str]:
    """Digests of the teacher, the data and the augmentation."""
    augmentation = getattr(dataset, "augmentation", None)
    return {
        **({} if teacher is None else {"teacher": model_digest(teacher)}),
        "data set": data_digest(dataset),
        "augmentation": f"{augmentation} seed {getattr(dataset, 'seed', None)}",
    }


def describe_asking(live: LiveTeacher, dataset: Dataset) -> dict[str, str]:
    """:func:`describe`, and how the teacher is asked, which decides the last digits."""
    layout = " channels-last" if live.channels_last else ""
    return {**describe(live.teacher, dataset), "precision": f"{live.precision}{layout}"}


def check_about(about: dict[str, str], teacher: nn.Module | None, dataset: Dataset) -> None:
    """Refuse targets that belong to another teacher, other data or another augmentation.

    Without a ``teacher`` at hand, data and augmentation alone are checked.

    Raises:
        TargetsError: naming which of them differ.
    """
    expected = describe(teacher, dataset)
    differing = [name for name in expected if about.get(name) != expected[name]]
    if differing:
        raise TargetsError(
            f"the stored soft targets belong to another {' and another '.join(differing)}: "
            "delete them, or name the ones that belong to this run"
        )
