"""Counter-based randomness: every draw is a pure function of a seed and of integer counters.

Nothing here has a state. The order of an epoch depends on ``(seed, epoch)`` and not on what was
drawn before, a sample's augmentation on ``(seed, id, view)`` and not on its place in a batch, and
a subset keeps the order that the whole set has.

The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), applied once a counter.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def stream(name: str) -> int:
    """A counter for a named purpose, so that two purposes never share draws."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def hash64(seed: int, *counters: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each element of the broadcast ``counters`` (integers >= 0)."""
    state = np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(state + _GOLDEN)
        for counter in counters:
            state = _mix((state ^ np.asarray(counter).astype(np.uint64)) + _GOLDEN)
    return state


def uniform(seed: int, *counters: ArrayLike) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) with 53 random bits, one for each element of ``counters``."""
    return (hash64(seed, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(ids: NDArray[np.int64], seed: int, *counters: int) -> NDArray[np.int64]:
    """``ids`` in a random order; a subset comes in the order that it has within the whole."""
    return ids[np.argsort(hash64(seed, *counters, ids), kind="stable")]
