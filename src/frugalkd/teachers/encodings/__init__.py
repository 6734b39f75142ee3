"""How soft targets are kept: one file an encoding, one line in the registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from frugalkd.errors import TargetsError, UnknownName
from frugalkd.teachers.encodings._encoding import Encoding
from frugalkd.teachers.encodings.dense import Dense
from frugalkd.teachers.encodings.sampled import Sampled
from frugalkd.teachers.encodings.top_k import TopK
from frugalkd.teachers.encodings.values import Values

ENCODINGS: dict[str, Callable[[int, float], Encoding]] = {
    "float16": lambda k, temperature: Dense("float16"),
    "float32": lambda k, temperature: Dense("float32"),
    "top-k": TopK,
    "sampled": Sampled,
}


_KNOWN = {**ENCODINGS, "values": lambda k, temperature: Values()}


def make_encoding(name: str, k: Any = 32, temperature: Any = 4.0) -> Encoding:
    """An encoding by its name; ``k`` and ``temperature`` where it has them.

    Raises:
        UnknownName: there is none of this name.
        TargetsError: ``k`` is no integer in 1 .. 65536, or ``temperature`` not above 0.
    """
    if name not in _KNOWN:
        raise UnknownName("encoding", str(name), ENCODINGS)
    if type(k) is not int or not 1 <= k <= 1 << 16:
        raise TargetsError(f"k of encoding {name} is {str(k)[:20]}: give 1 .. 65536")
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise TargetsError(
            f"temperature of encoding {name} is {str(temperature)[:20]}: give one above 0"
        )
    return _KNOWN[name](k, float(temperature))


__all__ = ["ENCODINGS", "Dense", "Encoding", "Sampled", "TopK", "Values", "make_encoding"]
