"""Counter-based randomness: every draw is a pure function of a seed and of integer counters.

The order of an epoch depends on ``(seed, epoch)``, a sample's augmentation on ``(seed, id, view)``,
and a subset keeps the order that the whole set has. The mixer is the finaliser of SplitMix64
(Steele, Lea and Flood, 2014), applied once a counter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_UNMIX_1, _UNMIX_2 = (np.uint64(pow(int(mix), -1, 2**64)) for mix in (_MIX_1, _MIX_2))
_BLOCK = 1 << 14
"""Elements that are mixed at a time: they stay in the processor's cache."""


def mix(state: NDArray[np.uint64]) -> None:
    """The finaliser, in place; a bijection of 64 bits."""
    state ^= state >> np.uint64(30)
    state *= _MIX_1
    state ^= state >> np.uint64(27)
    state *= _MIX_2
    state ^= state >> np.uint64(31)


def _unmix(state: NDArray[np.uint64]) -> None:
    """Undo :func:`mix`, in place."""
    state ^= (state >> np.uint64(31)) ^ (state >> np.uint64(62))
    state *= _UNMIX_2
    state ^= (state >> np.uint64(27)) ^ (state >> np.uint64(54))
    state *= _UNMIX_1
    state ^= (state >> np.uint64(30)) ^ (state >> np.uint64(60))


def blocks(state: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """Views of all elements of a C-contiguous array, to be changed in place."""
    flat = state.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        yield flat[start : start + _BLOCK]


def stream(name: str) -> int:
    """A counter for a named purpose, so that two purposes never share draws."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def hash64(seed: int, *counters: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each element of the broadcast ``counters`` (integers >= 0)."""
    state = np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    state += _GOLDEN
    mix(state)
    for counter in counters:
        bits = np.asarray(counter)
        bits = bits.view(np.uint64) if bits.dtype == np.int64 else bits.astype(np.uint64)
        state = np.bitwise_xor(state, bits, order="C")
        for block in blocks(state):
            block += _GOLDEN
            mix(block)
    return state


def uniform(seed: int, *counters: ArrayLike) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) with 53 random bits, one for each element of ``counters``."""
    keys = hash64(seed, *counters)
    keys >>= np.uint64(11)
    drawn = keys.astype(np.float64)
    drawn *= 2.0**-53
    return drawn


def order(ids: NDArray[np.int64], seed: int, *counters: int) -> NDArray[np.int64]:
    """``ids`` in a random order; a subset comes in the order that it has within the whole."""
    # The hash of different ids is never the same, and can be undone: no permutation is needed.
    keys = hash64(seed, *counters, ids)
    keys.sort()
    before = hash64(seed, *counters)
    for block in blocks(keys):
        _unmix(block)
        block -= _GOLDEN
        block ^= before
    return keys.view(np.int64)


def subset(ids: NDArray[np.int64], wanted: int, seed: int, *counters: int) -> NDArray[np.int64]:
    """The first ``wanted`` of ``ids`` in their random :func:`order`, as they stand in ``ids``."""
    if wanted >= len(ids):
        return ids
    if wanted <= 0:
        return ids[:0]
    keys = hash64(seed, *counters, ids)
    return ids[keys <= np.partition(keys, wanted - 1)[wanted - 1]]
