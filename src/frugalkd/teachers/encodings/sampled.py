"""k classes drawn from the teacher's distribution: unbiased, and two bytes a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import TargetsError
from frugalkd.runtime import draws
from frugalkd.teachers.encodings._encoding import Encoding, Ids, Logits, class_dtype
from frugalkd.teachers.fidelity import Fidelity

_NOTHING = 1e-30  # stands for the probability 0: e**-69 times its logarithm is nothing
_STREAM = draws.stream("sampled soft targets")


@final
@dataclass(frozen=True)
class Sampled(Encoding):
    """``k`` draws from softmax(logits / temperature); decodes to the share of the draws that each
    class got, as ``temperature * log(share)``, so that an objective at this temperature receives
    exactly these shares.

    Over the draws the expected share of a class is the teacher's probability of it at
    ``temperature``, and at no other; so the expected gradient of KL(teacher || student) is the
    teacher's own, while the loss itself lies higher by what the shares' entropy lacks. After Sparse
    Logit Sampling (Anshumann et al., ACL 2025), with systematic draws (one random number places k
    equal steps on the distribution) in place of independent ones: the same expectation, and no
    share is off by 1/k or more. A draw is a function of (id, view).

    Attributes:
        k: how many draws.
        temperature: of the objective.
    """

    k: int
    temperature: float = 4.0

    knows_top = False

    @property
    def keeps(self) -> Fidelity:
        return Fidelity.DRAWS

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": "sampled", "k": self.k, "temperature": self.temperature}

    def record(self, classes: int) -> np.dtype[np.void]:
        return np.dtype([("classes", class_dtype(classes), (self.k,))])

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
        chosen = records["classes"].astype(np.int64)
        if len(records) and chosen.max() >= classes:
            raise TargetsError(f"a stored row names a class beyond the {classes} that there are")
        flat = (chosen + classes * np.arange(len(records))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(records) * classes)
        shares = np.maximum(np.arange(self.k + 1) / self.k, _NOTHING)
        of_count = (self.temperature * np.log(shares)).astype(np.float32)
        return of_count[counts].reshape(len(records), classes)
