"""Names of the classes 0, 1, ... of a data set or a model, and how two orders match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset

from frugalkd.errors import DataError, TargetsError
from frugalkd.runtime.failures import blame

Match = Literal["same", "by-name", "by-position"]
"""How a teacher's classes match the data's where both have names: ``same``, they must be the same
in the same order; ``by-name``, the teacher's outputs are reordered; ``by-position``, class i of the
one is class i of the other, whatever their names."""

_SHOWN, _LONGEST = 3, 40
_LONGEST_TEXT = 1 << 20


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names of a data set's classes in their order, as its ``classes`` or the label feature
    of a Hugging Face data set say; () where they are not known. torch's Subset has those of
    its data set, ConcatDataset those of its parts. Raises DataError."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if isinstance(dataset, ConcatDataset):
        found = {names for part in dataset.datasets if (names := class_names(part))}
        if len(found) > 1:
            raise DataError(
                "the parts of this ConcatDataset have different class names, or another order: "
                "class i must be the same in all of them"
            )
        return next(iter(found), ())
    names = attribute_of(dataset, "classes")
    if names is None:
        features = attribute_of(dataset, "features")
        features = features if isinstance(features, Mapping) else {}
        names = getattr(features.get("label") or features.get("labels"), "names", None)
    return tuple(map(str, names)) if isinstance(names, tuple | list | np.ndarray) else ()


def attribute_of(dataset: Any, name: str) -> Any:
    """An attribute of a data set, None where there is none. Raises DataError where it fails."""
    try:
        return getattr(dataset, name, None)
    except Exception as error:
        blame(error, DataError, f"data.{name} cannot be read")


def class_order(
    own: Sequence[str],
    wanted: Sequence[str],
    match: Match,
    what: str = "the teacher",
    of: str = "the data",
) -> NDArray[np.int64] | None:
    """Where each of the classes ``wanted`` (those ``of`` the data) is among ``own``, int64
    (classes,); None where all are in their places, or one side has no names.

    ``own`` are those of ``what``, as the error calls it. ``by-name`` reorders; ``by-position``
    never does, and requires as many names. Raises TargetsError where the names do not match.
    """
    own, wanted = tuple(own), tuple(wanted)
    by_position = match == "by-position" and len(own) == len(wanted)
    if not own or not wanted or own == wanted or by_position:
        return None
    same = sorted(own) == sorted(wanted) and len(set(own)) == len(own)
    if same and match == "by-name":
        places = {name: place for place, name in enumerate(own)}
        return np.array([places[name] for name in wanted], dtype=np.int64)
    if same:
        first = next(place for place, name in enumerate(own) if name != wanted[place])
        raise TargetsError(
            f"{what} has {of}'s classes in another order (class {first} is "
            f"{_shown(own[first : first + 1])} there and {_shown(wanted[first : first + 1])} in "
            f"{of}): set student.targets.classes to by-name, which reorders its outputs (in "
            "Python frugalkd.models.reorder_classes, or match_classes of a store)"
        )
    raise TargetsError(
        f"{what} has other classes than {of} ({_difference(own, wanted, of)}): train a teacher on "
        "these data; or, where only the names differ and class i is the same class, set "
        "student.targets.classes to by-position (in Python frugalkd.models.name_classes)"
    )


def labels_by_name(
    labels: NDArray[np.int64],
    of_data: Sequence[str],
    of_model: Sequence[str],
    what: str,
    whose: str = "the model",
    advice: str = "give data of the classes that it was trained on",
) -> NDArray[np.int64]:
    """``labels`` int64 (samples,) of the data ``what`` with the classes ``of_data``, as indices
    into the classes ``of_model`` of ``whose``; unchanged where one side has no names, or both the
    same. Raises DataError for a label outside the data's classes, and, with ``advice``, for one
    whose class ``whose`` does not have."""
    if not of_data or not of_model or tuple(of_data) == tuple(of_model):
        return labels
    outside = labels[(labels < 0) | (labels >= len(of_data))]
    if len(outside):
        raise DataError(
            f"{what} has a label {outside[0]}, and its classes are 0 .. {len(of_data) - 1}: leave "
            "out samples without a class"
        )
    places = {name: place for place, name in enumerate(of_model)}
    order = np.array([places.get(name, -1) for name in of_data], dtype=np.int64)
    matched = order[labels]
    if len(places) < len(of_model) or (matched < 0).any():
        raise DataError(
            f"{what} has other classes than {whose} ({_difference(of_model, of_data)}): {advice}"
        )
    return matched


def names_text(names: Sequence[str]) -> str:
    """``names`` as one text, which :func:`names_from` reads; of very many names, a digest."""
    text = json.dumps(list(names))
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def names_from(text: str) -> tuple[str, ...]:
    """The names of :func:`names_text`; () for anything else."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if strings else ()


def _difference(own: Sequence[str], wanted: Sequence[str], of: str = "the data") -> str:
    if len(own) != len(wanted):
        return f"{len(own)} there, {len(wanted)} in {of}"
    alone = [name for name in own if name not in wanted]
    lacking = [name for name in wanted if name not in own]
    return f"{_shown(alone or own)} there, {_shown(lacking or wanted)} in {of}"


def _shown(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(repr(name[:_LONGEST]) for name in names[:_SHOWN]) + more
