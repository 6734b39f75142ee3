"""Labels that differ from those of the files: corrections by sample id, and injected noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.probe import data_digest
from frugalkd.data.samples import Samples, located
from frugalkd.errors import DataError, few, nearest
from frugalkd.files import StrPath
from frugalkd.files.parsing import LARGEST_JSON, one_line, parse_json, read_bounded
from frugalkd.files.writing import write_json
from frugalkd.runtime.draws import hash64, stream, uniform
from frugalkd.runtime.settings import MOST_SEED, Fraction, Settings, check_integer

SCHEMA = 1

_Samples = TypeVar("_Samples", bound=Samples)


@dataclass(frozen=True)
class Noise(Settings):
    """Wrong labels, injected into a training set for experiments: each label is replaced with
    chance ``rate``, a function of (seed, sample id).

    Attributes:
        rate: the chance of a wrong label.
        kind: ``symmetric``, by any other class with the same chance; ``next-class``, by the class
            after its own, the first after the last.
        seed: of the draws.

    Raises:
        SettingError: a value is impossible.
    """

    rate: Fraction
    kind: Literal["symmetric", "next-class"] = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0, MOST_SEED)


def with_labels(data: _Samples, labels: NDArray[np.int64]) -> _Samples:
    """``data`` with other ``labels`` int64 (N,), all else shared. Raises DataError for labels of
    another length, or that are not classes."""
    if labels.shape != (len(data),):
        raise DataError(f"{labels.shape} labels for {len(data)} samples: give one for each")
    if len(labels) and not 0 <= labels.min() <= labels.max() < data.num_classes:
        raise DataError(
            f"labels lie in {labels.min()} .. {labels.max()}: the {data.num_classes} classes allow "
            f"0 .. {data.num_classes - 1}"
        )
    return data._with(labels=torch.from_numpy(labels.astype(np.int64)))


def _check_classes(data: Samples) -> None:
    if data.labels is None or data.labels.ndim != 1:
        raise DataError("these samples have no class each: leave this out")


def with_noise(data: _Samples, noise: Noise) -> _Samples:
    """``data`` with injected wrong labels. Raises DataError where there is one class only."""
    _check_classes(data)
    classes, labels, ids = data.num_classes, data.labels.numpy(), np.arange(len(data))
    if classes < 2:
        raise DataError(f"noise needs two classes, and there are {classes}")
    flipped = uniform(noise.seed, stream("noise"), ids) < noise.rate
    step = np.ones(len(data), dtype=np.int64)
    if noise.kind == "symmetric":
        drawn = hash64(noise.seed, stream("noise to"), ids) % np.uint64(classes - 1)
        step += drawn.astype(np.int64)
    return with_labels(data, np.where(flipped, (labels + step) % classes, labels))


@dataclass(frozen=True)
class Corrections:
    """What is changed in a training set.

    Attributes:
        data: digest of the data to which they belong.
        exclude: ids that are left out.
        relabel: id -> name of its class.
    """

    data: str
    exclude: frozenset[int] = frozenset()
    relabel: Mapping[int, str] = field(default_factory=dict)

    def apply(self, data: _Samples) -> _Samples:
        """The corrected samples, renumbered 0, 1, ... in their order. Raises DataError where they
        are not of ``data``, name no sample of it or no class, or leave nothing."""
        if data_digest(data) != self.data:
            raise DataError(
                "made for other data, or these have changed: make it again with 'frugalkd ledger "
                "audit' on a run on these data"
            )
        strange = [id for id in (*self.exclude, *self.relabel) if not 0 <= id < len(data)]
        if strange:
            raise DataError(f"no samples {few(strange)}: the data have 0 .. {len(data) - 1}")
        kept = self.kept(len(data))
        if not len(kept):
            raise DataError("it excludes all samples: nothing is left to train on")
        if not self.relabel:
            return data.subset(kept)
        _check_classes(data)
        places = {name: place for place, name in enumerate(data.classes)}
        labels = data.labels.numpy().copy()
        for id, name in self.relabel.items():
            if name not in places:
                said = one_line(repr(name), 60)
                raise DataError(f"sample {id}: {said} is not a class; {nearest(name, places)}")
            labels[id] = places[name]
        return with_labels(data, labels).subset(kept)

    def kept(self, samples: int) -> NDArray[np.int64]:
        """The ids, of so many ``samples``, that are not excluded; sorted."""
        left = np.ones(samples, dtype=bool)
        left[list(self.exclude)] = False
        return np.flatnonzero(left)


def corrections(exclude: StrPath | None, relabel: StrPath | None) -> Corrections | None:
    """What two files say, or one, or none. Raises DataError, which names the file: it cannot be
    read, or is damaged; or both are of different data."""
    parts = [
        _read(path, key)
        for path, key in ((exclude, "exclude"), (relabel, "relabel"))
        if path is not None
    ]
    if not parts:
        return None
    if len({part.data for part in parts}) > 1:
        raise DataError(f"{relabel} and {exclude} were made for different data: make both again")
    found = {"exclude": parts[0].exclude, "relabel": parts[-1].relabel}
    return Corrections(parts[0].data, **found)


def _read(path: StrPath, key: str) -> Corrections:
    with located(path):
        try:
            said = parse_json(read_bounded(Path(path), LARGEST_JSON))
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or one_line(error)}") from None
        except ValueError as error:
            raise DataError(f"is not JSON ({one_line(error, 100)})") from None
        said = said if isinstance(said, dict) else {}
        if said.get("schema") != SCHEMA or not isinstance(said.get("data"), str):
            raise DataError(f"needs schema: {SCHEMA}, and data: the digest of the data")
        content = said.get(key)
        if key == "exclude":
            if not isinstance(content, list) or not all(type(id) is int for id in content):
                raise DataError("needs exclude: a list of sample ids")
            return Corrections(said["data"], exclude=frozenset(content))
        names: dict[str, Any] = content if isinstance(content, dict) else {"": None}
        texts = all(isinstance(name, str) for name in names.values())
        if not texts or not all(id.isascii() and id.isdigit() for id in names):
            raise DataError("needs relabel: sample ids, and for each the name of a class")
        return Corrections(said["data"], relabel={int(id): names[id] for id in names})


def save_corrections(made: Corrections, folder: Path) -> dict[str, Path]:
    """Write what ``made`` excludes and relabels into ``folder``: the file of each key of a recipe's
    ``data`` that has anything. Raises WriteFailed; DataError where a file is there already."""
    content: dict[str, Any] = {
        "exclude": sorted(made.exclude),
        "relabel": {str(id): made.relabel[id] for id in sorted(made.relabel)},
    }
    files = {key: folder / f"{key}.json" for key, value in content.items() if value}
    if there := [str(path) for path in files.values() if path.exists()]:
        raise DataError(f"{few(there)} would be overwritten: name another folder")
    for key, path in files.items():
        write_json(path, {"schema": SCHEMA, "data": made.data, key: content[key]})
    return files
