"""EL2N: train on the samples that a short training leaves farthest from their labels."""

from __future__ import annotations

from dataclasses import dataclass

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies._budget import check_parts
from frugalkd.policies._scored import check_scoring, highest
from frugalkd.policies.policy import EpochContext, Ids, Plan, Scoring, Ungated


@dataclass(frozen=True)
class EL2N(Ungated):
    """EL2N (Paul, Ganguli and Dziugaite, NeurIPS 2021).

    *Rule:* a sample's score is the norm of softmax - onehot early in a training, a mean over
    several trainings; those of the highest score are trained on, the same in all epochs.

    *What we chose:* the scoring model is the student's own, trained on labels with the student's
    settings; its learning rate goes through the whole schedule in the few epochs that it has. The
    paper's scores are of the first tenth of a training, over ten of them; ours are of fewer, which
    is noisier and cheaper. Ties are drawn.

    *Cost:* a scoring run of ``seeds`` trainings of ``epochs`` epochs on everything, and one look at
    all samples after each; stated apart, since all students share it.

    Attributes:
        budget: the part of all samples that is trained on, in (0, 1].
        epochs: of each training of the scoring run.
        seeds: trainings of the scoring run.
    """

    budget: float = 0.5
    epochs: float = 3.0
    seeds: int = 3

    def __post_init__(self) -> None:
        check_parts(budget=self.budget)
        check_scoring(self.epochs, self.seeds)

    @property
    def scoring(self) -> Scoring:
        return Scoring("el2n", self.epochs, self.seeds)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return highest(ledger, pool, self.budget, at)
