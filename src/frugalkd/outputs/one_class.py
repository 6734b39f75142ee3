"""One class a sample: softmax and argmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import DataError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import NOTHING, Output

MOST_MARGIN = 1e6
"""The largest absolute margin that is recorded."""


@final
class OneClass(Output):
    """Logits (rows, classes), labels int64 (rows,), or the teacher's top class in their place. The
    confidence is the top softmax probability; nothing refers to the teacher."""

    name = "one-class"
    plural = "classes"
    by_top_class = True
    dynamics = True
    label_form = (
        "class indices (int64) are needed, one a sample; regression and multi-label targets "
        "need an objective that learns them, such as RegressionKD"
    )

    def as_labels(self, labels: Tensor) -> Tensor | None:
        whole = torch.can_cast(labels.dtype, torch.int64)
        if not whole or labels.dtype == torch.bool or labels.ndim != 1:
            return None
        return labels.long()

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Labels in main memory have to be of a class of the model: on a device such a label would
        end the process, so it has to be found before."""
        if right.device.type != "cpu" or not len(right):
            return
        low, high = torch.aminmax(right)
        if low >= 0 and high < width:
            return
        hint = f"labels 0 .. {width - 1} are possible"
        if low == 1 and high == width:
            hint += "; these seem to count from 1"
        first = torch.nonzero((right < 0) | (right >= width))[0, 0]
        raise DataError(
            f"sample {ids[first]} has label {right[first]}, and the model {width} classes: {hint}"
        )

    def from_teacher(self, targets: Tensor) -> Tensor:
        return targets.argmax(dim=1)

    @torch.no_grad()
    def outcome(
        self,
        outputs: Tensor,
        right: Tensor,
        reference: Mapping[str, Tensor] = NOTHING,
        *,
        entropy: bool = False,
        given: Tensor | None = None,
    ) -> Outcome:
        with torch.autocast(outputs.device.type, enabled=False):
            exact = outputs.detach().float()
            probabilities = torch.softmax(exact, dim=1)
        # The logits' own argmax: the softmax rounds close logits to a tie.
        truth = probabilities.gather(1, right.unsqueeze(1)).squeeze(1)
        spread = torch.special.entr(probabilities).sum(dim=1) if entropy else None
        seen = Outcome(probabilities.amax(dim=1), outputs.argmax(dim=1) == right, truth, spread)
        if given is None:
            return seen
        place = given.unsqueeze(1)
        largest, other = exact.scatter(1, place, -torch.inf).max(dim=1)
        # A class that the model rules out (a logit of -inf) leaves the mean a number.
        margin = (exact.gather(1, place).squeeze(1) - largest).clamp(-MOST_MARGIN, MOST_MARGIN)
        own = truth if given is right else probabilities.gather(1, place).squeeze(1)
        return seen._replace(margin=margin, given=own, other=other.int())

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float(), right, reduction="none")

    def predictions(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs.float(), dim=1)

    def not_finite(self, outputs: Tensor) -> Tensor:
        """Rows without probabilities. A class may have none alone, by a logit of -inf."""
        return ~torch.isfinite(torch.softmax(outputs.float(), dim=1)).all(dim=1)
