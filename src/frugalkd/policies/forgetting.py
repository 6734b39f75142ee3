"""Forgetting: train on the samples that a training keeps unlearning."""

from __future__ import annotations

from dataclasses import dataclass

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies._budget import check_parts
from frugalkd.policies._scored import check_scoring, highest
from frugalkd.policies.policy import EpochContext, Ids, Plan, Scoring, Ungated


@dataclass(frozen=True)
class Forgetting(Ungated):
    """Forgetting events (Toneva et al., ICLR 2019).

    *Rule:* a sample's score is how often it goes from correct to wrong between one visit of a whole
    training and the next; one that was never correct counts as forgotten most. Those of the highest
    score are trained on, the same in all epochs.

    *What we chose:* the scoring model is the student's own, trained on labels with the student's
    settings, by default for far fewer epochs than the paper's 200. The verdict is that of the
    training forward, before the step. Ties, which are many, are drawn.

    *Cost:* a scoring run of ``seeds`` trainings of ``epochs`` epochs on everything; stated apart,
    since all students share it.

    Attributes:
        budget: the part of all samples that is trained on, in (0, 1].
        epochs: of each training of the scoring run.
        seeds: trainings of the scoring run.
    """

    budget: float = 0.5
    epochs: float = 10.0
    seeds: int = 1

    def __post_init__(self) -> None:
        check_parts(budget=self.budget)
        check_scoring(self.epochs, self.seeds)

    @property
    def scoring(self) -> Scoring:
        return Scoring("forgetting", self.epochs, self.seeds)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return highest(ledger, pool, self.budget, at)
