"""Features' values, as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import TargetsError
from frugalkd.teachers.encodings._encoding import Encoding, Ids, Logits
from frugalkd.teachers.fidelity import Fidelity

_LARGEST = float(np.finfo(np.float16).max)


@final
@dataclass(frozen=True)
class Values(Encoding):
    """A feature's values in float16, off by at most 1/2048 of each (and 3e-8); what stands for
    classes is their number. No logits: a recipe cannot name it."""

    knows_top = False
    temperature = None

    @property
    def keeps(self) -> Fidelity:
        return Fidelity.DIFFERENCES

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": "values"}

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("values", "<f2", (classes,))])

    def encode(self, logits: Logits, ids: Ids, views: Ids) -> NDArray[np.void]:
        largest = float(np.abs(logits).max(initial=0.0))
        if largest > _LARGEST:
            raise TargetsError(
                f"a feature reaches {largest:.3g}, beyond float16: name another module in "
                "targets.features, or set targets.kind to live"
            )
        records = np.empty(len(logits), self.record(logits.shape[1]))
        records["values"] = logits.astype(np.float16)
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Logits:
        return records["values"].astype(np.float32)
