"""What an encoding is: a teacher's logits as records of a fixed size, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from frugalkd.runtime.settings import Settings
from frugalkd.teachers.fidelity import Fidelity

_LOWEST = float(np.finfo(np.float16).min)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


class Encoding(Settings, ABC):
    """How one row of logits is kept. Pure: the same logits of the same (id, view), the same bytes.

    What :meth:`decode` gives always goes to an objective as logits. Where :attr:`temperature` is
    None they are the teacher's, good at every temperature; where it is a number, only their
    softmax at that temperature speaks for the teacher.
    """

    knows_top: ClassVar[bool]
    """Whether the decoded row's largest logit is always the teacher's top class."""

    temperature: float | None
    """The one temperature at which the decoded softmax is the teacher's; None: any."""

    @property
    @abstractmethod
    def keeps(self) -> Fidelity:
        """How much of the teacher's logits the decoded ones say."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """``name`` and settings as JSON values, from which ``make_encoding`` makes it again."""

    @abstractmethod
    def record(self, classes: int) -> np.dtype[np.void]:
        """The dtype of one row's record, little-endian, without padding.

        Raises:
            TargetsError: this encoding is none for so many classes.
        """

    @abstractmethod
    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        """Records (rows,) of finite ``logits`` (rows, classes) of the samples ``ids`` in ``views``,
        both (rows,)."""

    @abstractmethod
    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        """Logits (rows, classes), all finite, of ``records`` (rows,).

        Raises:
            TargetsError: a record names a class that there is not.
        """


def halved(logits: Logits, top: NDArray[np.int64]) -> NDArray[np.float16]:
    """``logits`` (rows, classes) in float16, less their largest, which is in the columns ``top``
    (rows,): no softmax sees the shift, the error is smallest where the probability is, and no other
    class is rounded up to the top one."""
    largest = np.take_along_axis(logits, top[:, None], axis=1).astype(np.float64)
    half = (logits - largest).clip(_LOWEST, -_SMALLEST).astype(np.float16)
    np.put_along_axis(half, top[:, None], 0, axis=1)
    return half


def class_dtype(classes: int) -> str:
    """The smallest dtype that holds a class."""
    return "<u2" if classes <= 1 << 16 else "<u4"
