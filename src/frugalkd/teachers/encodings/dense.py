"""All classes' logits, as they are: float32 to the last bit, float16 rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from frugalkd.teachers.encodings._encoding import Encoding, Ids, Logits, halved
from frugalkd.teachers.fidelity import Fidelity


@final
@dataclass(frozen=True)
class Dense(Encoding):
    """The logits of all classes. float32: the teacher's own bits. float16: half the space, each
    logit less the row's largest, which no softmax notices, and off by at most 1/2048 of that
    difference (and 6e-8)."""

    precision: Literal["float16", "float32"] = "float16"

    knows_top = True
    temperature = None

    @property
    def keeps(self) -> Fidelity:
        return Fidelity.LOGITS if self.precision == "float32" else Fidelity.DIFFERENCES

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.precision}

    def record(self, classes: int) -> np.dtype[np.void]:
        kind = {"float16": "<f2", "float32": "<f4"}[self.precision]
        return np.dtype([("logits", kind, (classes,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        records = np.empty(len(logits), self.record(logits.shape[1]))
        kept = halved(logits, logits.argmax(axis=1)) if self.precision == "float16" else logits
        records["logits"] = kept
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        return records["logits"].astype(np.float32)
