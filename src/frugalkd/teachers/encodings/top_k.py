"""The k largest logits, and the probability of all other classes together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import TargetsError
from frugalkd.teachers.encodings._encoding import Encoding, Ids, Logits, class_dtype, halved
from frugalkd.teachers.fidelity import Fidelity

_NOTHING = 1e-30  # stands for the probability 0, so that logarithms stay finite


@final
@dataclass(frozen=True)
class TopK(Encoding):
    """Decodes to the k largest logits (in float16, less the largest) and one logit for each other
    class, such that at ``temperature`` the others' probability together is the teacher's and each
    has the same part of it. Biased within the rest, and at any other temperature.

    Attributes:
        k: how many logits are kept; fewer than there are classes.
        temperature: of the objective.
    """

    k: int
    temperature: float = 4.0

    knows_top = True

    @property
    def keeps(self) -> Fidelity:
        return Fidelity.SOFTMAX

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": "top-k", "k": self.k, "temperature": self.temperature}

    def record(self, classes: int) -> np.dtype[np.void]:
        if self.k >= classes:
            raise TargetsError(
                f"top-k with k = {self.k} of {classes} classes leaves nothing out: lower "
                "targets.k, or set targets.encoding to float16"
            )
        return np.dtype(
            [("classes", class_dtype(classes), (self.k,)), ("logits", "<f2", (self.k,)),
             ("rest", "<f4")]
        )  # fmt: skip

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
        top, others = records["logits"].astype(np.float64), classes - self.k
        if len(records) and records["classes"].max() >= classes:
            raise TargetsError(f"a stored row names a class beyond the {classes} that there are")
        most = top.max(axis=1, keepdims=True)
        kept = np.exp((top - most) / self.temperature).sum(axis=1, keepdims=True)
        rest = records["rest"].astype(np.float64)[:, None].clip(_NOTHING, 1 - 1e-7)
        odds = np.log(kept) + np.log(rest) - np.log1p(-rest) - np.log(others)
        other = (most + self.temperature * odds).astype(np.float32)
        # Rounding must not lift the others to the top class.
        other = np.minimum(other, np.nextafter(most.astype(np.float32), np.float32(-np.inf)))
        logits = np.repeat(other, classes, axis=1)
        np.put_along_axis(logits, records["classes"].astype(np.int64), records["logits"], axis=1)
        return logits
