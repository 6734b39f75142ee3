"""Training dynamics: what the visits of a training say about each given label.

The columns are entered from the forward passes that a training does anyway. Sources: the margin is
that of AUM (Pleiss et al., NeurIPS 2020), mean and spread of the label's probability are those of
data maps (Swayamdipta et al., EMNLP 2020), first learned and forgotten those of Toneva et al. (ICLR
2019).

*What we chose*, because a gate thins the visits. An epoch counts once for a sample, by the first
forward pass in it (a screening pass in eval mode, or a training forward). ``margin``,
``probability`` and ``variability`` are means over a sample's own visits, and ``counted`` says over
how many. They take in the first half of the epochs: there nearly every sample is visited, and a
network has not yet memorised the labels that are wrong (AUM stops at the first drop of the learning
rate for that reason, half of the epochs in its authors' code). A skipped sample has passed its
gate: its mean lacks values that are at least as high, so that thinning never makes a label
suspect.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.outcome import Outcome

NEVER = np.uint16(65535)
"""An epoch number that stands for never, and a class that is not known."""

COLUMNS: dict[str, tuple[str, float]] = {
    "margin": ("float32", np.nan),
    "probability": ("float32", np.nan),
    "variability": ("float32", np.nan),
    "counted": ("uint16", 0),
    "first_learned": ("uint16", float(NEVER)),
    "forgotten": ("uint8", 0),
    "other": ("uint16", float(NEVER)),
    "other_votes": ("uint8", 0),
}
"""Of a ledger with training dynamics: dtypes and first values, 20 bytes a sample."""

LEARNED = np.uint8(4)
"""Bit of a ledger's ``flags``: the given label had the largest logit in the last epoch counted."""


def counts_early(epoch: int, epochs: float) -> bool:
    """Whether the means of a training of ``epochs`` take in ``epoch``: those of its first half,
    and the first one in any case."""
    return epoch < max(1.0, epochs / 2)


def enter(
    columns: Mapping[str, NDArray],
    ids: NDArray[np.int64],
    seen: Outcome,
    *,
    epoch: int,
    early: bool,
) -> NDArray[np.uint8]:
    """Enter one outcome (arrays) of each of ``ids``, without duplicates, before the verdicts are.

    Args:
        columns: of the ledger, changed in place; those of this module among them.
        ids: int64 (rows,).
        seen: with ``margin``, ``given`` and ``other``.
        epoch: an epoch that a sample was visited in before is not counted again.
        early: whether the means take it in.

    Returns:
        uint8 (rows,), the bit ``LEARNED`` of each row's flags.
    """
    bits = columns["flags"].take(ids) & LEARNED
    new = np.flatnonzero(columns["last_epoch"].take(ids) != epoch)
    ids = ids if len(new) == len(ids) else ids[new]
    margin, given, other = (part[new] for part in (seen.margin, seen.given, seen.other))
    learned = margin >= 0
    lost = ids[(bits[new] != 0) & ~learned]
    forgotten = columns["forgotten"]
    forgotten[lost] = np.minimum(forgotten.take(lost), 254) + 1
    bits[new] = learned * LEARNED
    gained = ids[learned]
    columns["first_learned"][gained] = np.minimum(columns["first_learned"].take(gained), epoch)
    _vote(columns, ids, np.minimum(other, int(NEVER)).astype(np.uint16))
    if early:
        _average(columns, ids, margin, given)
    return bits


def _average(
    columns: Mapping[str, NDArray], ids: NDArray[np.int64], margin: NDArray, given: NDArray
) -> None:
    """Running means, and the standard deviation over the values so far (Welford)."""
    count = columns["counted"].take(ids) + np.float32(1)
    columns["counted"][ids] = count
    begun = count > 1
    for name, values in (("margin", margin), ("probability", given)):
        before = np.where(begun, columns[name].take(ids), np.float32(0))
        mean = before + (values - before) / count
        columns[name][ids] = mean
        if name == "probability":
            spread = np.where(begun, columns["variability"].take(ids), np.float32(0))
            squares = spread * spread * (count - 1) + (values - before) * (values - mean)
            columns["variability"][ids] = np.sqrt(np.maximum(squares, 0) / count)


def _vote(
    columns: Mapping[str, NDArray], ids: NDArray[np.int64], other: NDArray[np.uint16]
) -> None:
    """The majority vote of Boyer and Moore (1981), which needs one candidate and its lead."""
    votes = columns["other_votes"].take(ids)
    same = columns["other"].take(ids) == other
    new = votes == 0
    columns["other"][ids[new]] = other[new]
    columns["other_votes"][ids] = np.where(new | same, np.minimum(votes, 254) + 1, votes - 1)
