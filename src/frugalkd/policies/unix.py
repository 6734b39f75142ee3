"""UNIX, without its mixup: of each batch, what the student is least sure of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts
from frugalkd.policies.keeping import lowest_rows, share
from frugalkd.policies.policy import EpochContext, GateNow, Ids, Mask


@dataclass(frozen=True)
class Unix(GateNow):
    """The selection rule of UNIX (Xu et al., arXiv 2012.09413), without its mixup.

    *Rule:* the student looks at each batch first; the ``keep`` of its rows whose softmax has the
    highest entropy go to the teacher and into the backward pass.

    *What we chose:* the name stands for this rule only: the method itself then mixes the uncertain
    rows with others, which is left out, since a mixed row has no sample of its own. The kept rows
    wait until a full batch is there. Where the part is no whole number of rows, the odd row is kept
    by a draw.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept.

    Attributes:
        keep: the part of each look, in (0, 1]. The default is the method's 48 of 64.
    """

    needs_entropy: ClassVar[bool] = True

    keep: float = 0.75

    def __post_init__(self) -> None:
        check_parts(keep=self.keep)

    def at_budget(self, budget: float) -> Unix:
        return replace(self, keep=budget)

    def needs_training(self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        return lowest_rows(-look.entropy, share(self.keep, ids, "unix-rows", at))
