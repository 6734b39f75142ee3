"""How soft targets are stored: a row of logits as a record of a fixed size, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError, TargetsError, UnknownName
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.settings import Count, Positive, Settings, check_integer, check_number

Logits = NDArray[np.float32]

_HALF = np.finfo(np.float16)
_LOWEST, _LARGEST = float(_HALF.min), float(_HALF.max)
_SMALLEST = float(_HALF.smallest_subnormal)
_NOTHING = 1e-30  # stands for the probability 0, so that logarithms stay finite
_STREAM = draws.stream("sampled soft targets")


class Fidelity(IntEnum):
    """How much of a teacher's logits soft targets keep, or an objective reads, from the least to
    the most: soft targets that keep more serve an objective that reads less."""

    DRAWS = 0  # of classes from the softmax at one temperature: right in expectation
    SOFTMAX = 1  # at one temperature, where the less likely classes may share theirs evenly
    DIFFERENCES = 2  # each logit minus a number of its row, good for every softmax
    VALUES = 3  # each output itself, but for rounding
    LOGITS = 4


_KEPT = {  # what is kept, and by which encodings
    Fidelity.DRAWS: ("draws from the teacher's softmax", "sampled"),
    Fidelity.SOFTMAX: ("the teacher's softmax at one temperature", "top-k or float16"),
    Fidelity.DIFFERENCES: ("the differences of the teacher's logits", "float16"),
    Fidelity.VALUES: ("the teacher's outputs themselves", "float32"),
    Fidelity.LOGITS: ("the teacher's logits themselves", "float32"),
}


def too_little(objective: str, reads: Fidelity, keeps: Fidelity) -> str:
    """The error where ``keeps`` is less than ``reads``, and what to do, in one line."""
    return (
        f"{objective} reads {_KEPT[reads][0]}, and these soft targets keep {_KEPT[keeps][0]}: set "
        f"targets.encoding to {_KEPT[reads][1]}, or targets.kind to live"
    )


class Format(Settings, ABC):
    """How one row of a store is kept. ``name`` is that of the registry; the other attributes are as
    of :class:`frugalkd.Targets`."""

    name: str
    knows_top: ClassVar[bool]
    temperature: float | None
    keeps: Fidelity

    @property
    def settings(self) -> dict[str, Any]:
        """``name`` and settings as JSON values, from which the registry makes it again."""
        return {"name": self.name, **asdict(self)}  # pyright: ignore[reportArgumentType]

    @abstractmethod
    def record(self, classes: int) -> np.dtype[np.void]:
        """The dtype of one row's record, little-endian, without padding. Raises TargetsError: so
        many classes cannot be encoded."""


class Encoding(Format):
    """How one row of logits is stored: a pure function of the logits and of (id, view)."""

    @abstractmethod
    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        """Records (rows,) of finite ``logits`` (rows, classes) of the samples ``ids`` in ``views``,
        both (rows,)."""

    @abstractmethod
    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        """Logits (rows, classes), all finite, of ``records`` (rows,). Raises TargetsError: a record
        names a class that does not exist."""


@final
@dataclass(frozen=True)
class Dense(Encoding):
    """The logits of all classes. float32: the teacher's exact bits. float16: half the space, each
    logit minus the row's largest, which does not change the softmax, and off by at most 1/2048 of
    that difference (and 6e-8)."""

    name: Literal["float16", "float32"] = "float16"

    knows_top = True
    temperature = None

    @property
    def keeps(self) -> Fidelity:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Fidelity.LOGITS if self.name == "float32" else Fidelity.DIFFERENCES

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("logits", np.dtype(self.name).newbyteorder("<"), (classes,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        records = np.empty(len(logits), self.record(logits.shape[1]))
        half = self.name == "float16"
        records["logits"] = halved(logits, logits.argmax(axis=1)) if half else logits
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        return records["logits"].astype(np.float32)


@final
@dataclass(frozen=True)
class TopK(Encoding):
    """Decodes to the ``k`` largest logits (in float16, minus the largest) and one logit for each
    other class, such that at the objective's ``temperature`` the others' total probability is the
    teacher's and each receives the same part of it. Biased within these, and at any other one."""

    k: Count
    temperature: Positive = 4.0

    name = "top-k"
    knows_top = True
    keeps = Fidelity.SOFTMAX

    def record(self, classes: int) -> np.dtype[np.void]:
        if self.k >= classes:
            raise TargetsError(
                f"top-k with k = {self.k} of {classes} classes leaves nothing out: lower "
                "targets.k, or set targets.encoding to float16"
            )
        kind = _class_dtype(classes)
        return np.dtype(
            [("classes", kind, (self.k,)), ("logits", "<f2", (self.k,)), ("rest", "<f4")]
        )

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        records = np.empty(len(logits), self.record(logits.shape[1]))
        # Stable: of equal logits the lowest class comes first, as in an argmax.
        top = np.argsort(-logits, axis=1, kind="stable")[:, : self.k]
        weights = np.exp((logits - logits.max(axis=1, keepdims=True)) / float(self.temperature))
        whole = weights.sum(axis=1, dtype=np.float64)
        np.put_along_axis(weights, top, 0, axis=1)
        records["classes"] = top
        kept = np.take_along_axis(logits, top, axis=1)
        records["logits"] = halved(kept, np.zeros(len(kept), dtype=np.int64))
        records["rest"] = weights.sum(axis=1, dtype=np.float64) / whole
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        chosen = _checked_classes(records, classes)
        top, others = records["logits"].astype(np.float64), classes - self.k
        most = top.max(axis=1, keepdims=True)
        kept = np.exp((top - most) / self.temperature).sum(axis=1, keepdims=True)
        rest = records["rest"].astype(np.float64)[:, None].clip(_NOTHING, 1 - 1e-7)
        odds = np.log(kept) + np.log(rest) - np.log1p(-rest) - np.log(others)
        other = (most + self.temperature * odds).astype(np.float32)
        # Rounding must not lift the others to the top class.
        other = np.minimum(other, np.nextafter(most.astype(np.float32), np.float32(-np.inf)))
        logits = np.repeat(other, classes, axis=1)
        np.put_along_axis(logits, chosen, records["logits"], axis=1)
        return logits


@final
@dataclass(frozen=True)
class Sampled(Encoding):
    """``k`` draws from softmax(logits / temperature); decodes to ``temperature * log(share)`` of
    each class's share of the draws, so that an objective at this temperature receives these shares.

    Over the draws the expected share of a class is the teacher's probability of it at
    ``temperature``, and at no other; so the expected gradient of KL(teacher || student) is the
    teacher's own, while the loss is higher, since the shares have less entropy. After Sparse Logit
    Sampling (Anshumann et al., ACL 2025), with systematic draws (one random number places k equal
    steps on the distribution) in place of independent ones: the same expectation, and no share is
    off by 1/k or more.
    """

    k: Count
    temperature: Positive = 4.0

    name = "sampled"
    knows_top = False
    keeps = Fidelity.DRAWS

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("classes", _class_dtype(classes), (self.k,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        rows, classes = logits.shape
        records = np.empty(rows, self.record(classes))
        scaled = logits.astype(np.float64) / self.temperature
        below = np.exp(scaled - scaled.max(axis=1, keepdims=True)).cumsum(axis=1)
        below /= below[:, -1:]
        first = draws.uniform(0, _STREAM, ids, views)[:, None]
        places = (first + np.arange(self.k)) / self.k
        # All rows in one search: row r has the interval [r, r + 1).
        offset = np.arange(rows)[:, None]
        found = np.searchsorted((below + offset).ravel(), (places + offset).ravel(), side="right")
        chosen = found.reshape(rows, self.k) - classes * offset
        records["classes"] = chosen.clip(0, classes - 1)
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        chosen = _checked_classes(records, classes)
        flat = (chosen + classes * np.arange(len(records))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(records) * classes)
        shares = np.maximum(np.arange(self.k + 1) / self.k, _NOTHING)
        of_count = (self.temperature * np.log(shares)).astype(np.float32)
        return of_count[counts].reshape(len(records), classes)


@final
@dataclass(frozen=True)
class Values(Encoding):
    """Values in float16, off by at most 1/2048 of each (and 3e-8): of a feature, or of outputs that
    are not logits, as a recipe's float16 means for these; ``classes`` is their number."""

    name = "values"
    knows_top = False
    temperature = None
    keeps = Fidelity.VALUES

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("values", "<f2", (classes,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        largest = float(np.abs(logits).max(initial=0.0))
        if largest > _LARGEST:
            raise TargetsError(
                f"a value reaches {largest:.3g}, beyond float16: of a feature name another module "
                "in targets.features, or set targets.kind to live; of outputs set targets.encoding "
                "to float32"
            )
        records = np.empty(len(logits), self.record(logits.shape[1]))
        records["values"] = logits.astype(np.float16)
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        return records["values"].astype(np.float32)


@final
@dataclass(frozen=True)
class Int8(Encoding):
    """Values as whole numbers of -127 .. 127 times a number of the row, in half the space of
    float16: off by at most 1/254 of the row's largest value. For embeddings; a run states by how
    much it changes them."""

    name = "int8"
    knows_top = False
    temperature = None
    keeps = Fidelity.VALUES

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("scale", "<f4"), ("values", "i1", (classes,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        records = np.empty(len(logits), self.record(logits.shape[1]))
        records["scale"] = np.abs(logits).max(axis=1) / np.float32(127)
        scale = np.where(records["scale"] > 0, records["scale"], 1)[:, None]
        records["values"] = np.rint(logits / scale).clip(-127, 127)
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        return records["values"].astype(np.float32) * records["scale"][:, None]


def halved(logits: Logits, top: Ids) -> NDArray[np.float16]:
    """``logits`` (rows, classes) in float16, minus their largest, in the columns ``top`` (rows,):
    the error is smallest where the probability is largest, and no other class is rounded up to the
    top one."""
    largest = np.take_along_axis(logits, top[:, None], axis=1).astype(np.float64)
    half = (logits - largest).clip(_LOWEST, -_SMALLEST).astype(np.float16)
    np.put_along_axis(half, top[:, None], 0, axis=1)
    return half


def _class_dtype(classes: int) -> str:
    return "<u2" if classes <= 1 << 16 else "<u4"


def _checked_classes(records: NDArray[np.void], classes: int) -> Ids:
    chosen = records["classes"].astype(np.int64)
    if len(records) and chosen.max() >= classes:
        raise TargetsError(f"a stored row names a class beyond the {classes} that there are")
    return chosen


ENCODINGS: dict[str, Callable[[int, float], Encoding]] = {
    "float16": lambda k, temperature: Dense("float16"),
    "float32": lambda k, temperature: Dense("float32"),
    "top-k": TopK,
    "sampled": Sampled,
    "int8": lambda k, temperature: Int8(),
}


def encoding_for(output: str, name: str, k: int = 32, temperature: float = 4.0) -> Encoding:
    """The encoding that ``name`` means for a kind of output (a key of
    :data:`frugalkd.outputs.OUTPUTS`): float16 keeps the differences of logits, and of all else the
    values. Raises as :func:`make_encoding`; SettingError where it is for another kind."""
    if output != "embeddings" and name == Int8.name:
        raise SettingError("encoding int8 is for embeddings: set targets.encoding to float16")
    if output != "one-class" and name == "float16":
        name = Values.name
    return make_encoding(name, k, temperature)


def make_encoding(name: str, k: Any = 32, temperature: Any = 4.0) -> Encoding:
    """An encoding by its name; ``k`` and ``temperature`` where it has them.

    Raises:
        UnknownName: there is none of this name.
        SettingError: ``k`` is not an integer in 1 .. 65536, or ``temperature`` not above 0.
    """
    if name == Values.name:
        return Values()
    if name not in ENCODINGS:
        raise UnknownName("encoding", str(name), ENCODINGS)
    check_integer("k", k, 1, 1 << 16)
    check_number("temperature", temperature, 0)
    return ENCODINGS[name](k, float(temperature))
