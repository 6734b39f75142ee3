"""How much of a teacher's logits soft targets keep, and how much of them an objective reads."""

from __future__ import annotations

from enum import IntEnum


class Fidelity(IntEnum):
    """From the least to the most: soft targets that keep more serve an objective that reads less.

    ``DRAWS``: classes drawn from the softmax at one temperature; on average they say what is linear
    in that softmax. ``SOFTMAX``: the softmax at one temperature, where the less likely classes may
    share theirs evenly. ``DIFFERENCES``: each logit less a number of the row's own, good for every
    softmax. ``LOGITS``: the logits themselves.
    """

    DRAWS = 0
    SOFTMAX = 1
    DIFFERENCES = 2
    LOGITS = 3


_WHAT = {
    Fidelity.DRAWS: "draws from the teacher's softmax",
    Fidelity.SOFTMAX: "the teacher's softmax at one temperature",
    Fidelity.DIFFERENCES: "the differences of the teacher's logits",
    Fidelity.LOGITS: "the teacher's logits themselves",
}
_ENOUGH = {
    Fidelity.DRAWS: "sampled",
    Fidelity.SOFTMAX: "top-k or float16",
    Fidelity.DIFFERENCES: "float16",
    Fidelity.LOGITS: "float32",
}


def too_little(objective: str, reads: Fidelity, keeps: Fidelity) -> str:
    """What is wrong where ``keeps`` is less than ``reads``, and what to do, in one line."""
    return (
        f"{objective} reads {_WHAT[reads]}, and these soft targets keep {_WHAT[keeps]}: set "
        f"targets.encoding to {_ENOUGH[reads]}, or targets.kind to live"
    )
