"""Rows of like length side by side, so that little is padding; who takes part stays the plan's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import UnsupportedData
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws

_STREAM = draws.stream("buckets")


def bucketed(
    ids: Ids, lengths: NDArray[np.int64], batch_size: int, window: int, seed: int, epoch: int
) -> Ids:
    """``ids`` grouped anew into batches of like length, within each ``window`` batches of theirs.

    A window's rows are sorted by length (those of one length stay in their order), cut into
    batches, and the batches come in a random order. The result is a function of its arguments: the
    epoch's ids stay the same ones, each window holds the rows that it held, and there are as many
    steps. A last batch that is short stays as it is, so that the same rows are left out where it
    is dropped.

    Args:
        ids: int64 (rows,), the epoch's plan in its random order.
        lengths: int64 (samples,), of every sample of the data set.
        batch_size: rows of a batch.
        window: batches that are sorted together; 1 or less changes nothing.
        seed, epoch: of the order of batches.
    """
    if window <= 1:
        return ids
    full = len(ids) // batch_size * batch_size
    parts = []
    for start in range(0, full, window * batch_size):
        rows = ids[start : min(start + window * batch_size, full)]
        batches = by_length(rows, lengths).reshape(-1, batch_size)
        turn = draws.order(np.arange(len(batches)), seed, _STREAM, epoch, start // batch_size)
        parts.append(batches[turn].reshape(-1))
    return np.concatenate([*parts, ids[full:]])


def by_length(ids: Ids, lengths: NDArray[np.int64]) -> Ids:
    """``ids`` from the shortest to the longest; those of one length stay in their order."""
    return ids[np.argsort(lengths[ids], kind="stable")]


def lengths_of(dataset: object) -> NDArray[np.int64] | None:
    """``dataset.lengths`` int64 (samples,), where the data set says how long its samples are.

    Raises:
        UnsupportedData: it says something else there.
    """
    given = getattr(dataset, "lengths", None)
    if given is None or callable(given):
        return None
    lengths, samples = np.asarray(given), len(dataset)  # pyright: ignore[reportArgumentType]
    if lengths.dtype.kind not in "iu" or lengths.shape != (samples,):
        raise UnsupportedData(
            f"the data set's lengths are {lengths.dtype} {lengths.shape} for {samples} samples: "
            "one integer a sample is needed"
        )
    return lengths.astype(np.int64, copy=False)
