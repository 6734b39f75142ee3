"""RHO-Loss: of each batch, what is not yet learned and can be."""

from __future__ import annotations

from dataclasses import dataclass, replace

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts
from frugalkd.policies._scored import check_scoring
from frugalkd.policies.keeping import cross_entropy, lowest_rows, share
from frugalkd.policies.policy import EpochContext, GateNow, Ids, Mask, Scoring


@dataclass(frozen=True)
class RhoLoss(GateNow):
    """RHO-Loss (Mindermann et al., ICML 2022).

    *Rule:* the student looks at each batch first; the ``keep`` of its rows whose cross-entropy lies
    farthest above their irreducible loss, that of a model which never trained on them, go into the
    backward pass. Noise costs both models much, and what is learned already costs neither.

    *What we chose:* the irreducible loss comes from the variant without a holdout set: two models,
    each trained on a random half, score the other's. They are the student's own architecture, with
    its settings. The kept rows wait until a full batch is there. Where the part is no whole number
    of rows, the odd row is kept by a draw.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept; and a scoring
    run of ``seeds`` pairs of trainings of ``epochs`` epochs on a half each, with one look at all
    samples, stated apart, since all students share it.

    Attributes:
        keep: the part of each look, in (0, 1].
        epochs: of each training of the scoring run.
        seeds: pairs of trainings of the scoring run.
    """

    keep: float = 0.1
    epochs: float = 5.0
    seeds: int = 1

    def __post_init__(self) -> None:
        check_parts(keep=self.keep)
        check_scoring(self.epochs, self.seeds)

    @property
    def scoring(self) -> Scoring:
        return Scoring("holdout-loss", self.epochs, self.seeds)

    def at_budget(self, budget: float) -> RhoLoss:
        return replace(self, keep=budget)

    def needs_training(self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        reducible = cross_entropy(look) - ledger["score"][ids]
        return lowest_rows(-reducible, share(self.keep, ids, "rho-loss-rows", at))
