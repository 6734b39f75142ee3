"""What can be learned of a data set by reading a few samples: its digest, its randomness."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.protocols import is_view_indexed
from frugalkd.data.samples import Samples

_DIGEST_SAMPLES = 64
_RANDOM_SAMPLES = 8
_RANDOM_DRAWS = 4


def data_digest(dataset: Any) -> str:
    """SHA-256 (hex) that tells data sets apart: what Samples say of themselves (ImageData: of
    everything), else of the length and of up to 64 evenly spaced samples, read with fixed random
    streams (view 0 where the data set takes views). Parts of a sample that are no numbers or text
    count by their type only.
    """
    if isinstance(dataset, Samples):
        return dataset.digest()
    digest = hashlib.sha256(f"{len(dataset)}".encode())
    with streams_restored():
        for id in _spaced(len(dataset), _DIGEST_SAMPLES):
            _seed_streams(0)
            _feed(digest, _sample(dataset, id))
    return digest.hexdigest()


def randomness(dataset: Any) -> bool:
    """Whether reading a sample again gives something else: the data set draws by itself.

    Reads up to 8 samples 4 times (view 0 where the data set takes views); a rarer randomness is
    not seen. The random streams of torch, numpy and Python are put back.
    """
    with streams_restored():
        for id in _spaced(len(dataset), _RANDOM_SAMPLES):
            seen = set()
            for draw in range(_RANDOM_DRAWS):
                _seed_streams(draw)
                digest = hashlib.sha256()
                _feed(digest, _sample(dataset, id))
                seen.add(digest.digest())
            if len(seen) > 1:
                return True
    return False


def _spaced(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(count, length)).astype(int).tolist()))


def _sample(dataset: Any, id: int) -> Any:
    return dataset.view(id, 0) if is_view_indexed(dataset) else dataset[id]


def _feed(digest: Any, value: Any) -> None:
    """Adds ``value`` to the digest, each part with its type, so that no two parts run together."""
    digest.update(f"<{type(value).__name__}>".encode())
    if isinstance(value, Mapping):
        for key in value:
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        digest.update(repr(value).encode())
    else:
        array = _array(value)
        if array.dtype != object:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())


def _array(value: Any) -> NDArray[Any]:
    """``value`` as an array; images offer themselves as one, and numpy knows no bfloat16."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray(value.float() if value.dtype == torch.bfloat16 else value)
    return np.asarray(value)


def _seed_streams(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def streams_restored() -> Iterator[None]:
    """What is drawn inside from the random streams of torch, numpy and Python leaves no trace."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
