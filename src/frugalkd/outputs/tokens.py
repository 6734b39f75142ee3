"""Sequences of tokens: the mean loss of their learned tokens is all that is observed of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import TargetsError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import ScoredOutput

IGNORED = -100
"""The label of a token that is not learned, as in torch."""


@final
class Tokens(ScoredOutput):
    """The outputs of a sequence are one number, the mean loss of its learned tokens under the
    training's objective, in nats: its distance d. ``exp(-d)`` stands for its confidence and its
    ``truth``, and a finite one is ``correct``: the gate's threshold alone decides. Labels are
    reduced to how many tokens are learned.

    From labels alone, exp(-d) is the geometric mean of the probabilities of the right tokens. Under
    forward KL alone, of a live teacher, it is 1 where the student says what its teacher does, and
    at most the mean of 1 - TV^2 over the tokens, TV being the total variation between the two
    (Bretagnolle and Huber, Séminaire de probabilités XIII, 1979, and Jensen's inequality). Of
    stored tokens d is an estimate, which may be below 0. The choice is ours.
    """

    name, plural = "tokens", "tokens"
    by_loss = True
    label_form = f"token numbers (rows, length) are needed, {IGNORED} where nothing is learned"

    def as_labels(self, labels: Tensor) -> Tensor | None:
        whole = torch.can_cast(labels.dtype, torch.int64) and labels.dtype != torch.bool
        if not whole or labels.ndim not in (1, 2):
            return None
        # The first token of a row is predicted by nothing.
        return labels if labels.ndim == 1 else (labels[:, 1:] != IGNORED).sum(dim=1)

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Token numbers were compared with the vocabulary when the corpus was made."""

    def from_teacher(self, targets: Tensor) -> Tensor:
        raise TargetsError("a teacher's tokens do not stand in for labels: give a Corpus")

    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        losses = self.losses(outputs, right)
        score = torch.exp(-losses)
        return Outcome(score, losses.isfinite(), score, distance=losses)

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        return outputs[:, 0].float()

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.float()
