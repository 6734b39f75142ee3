"""The four distillations of Mishra and Sundaram (arXiv 2102.07125) as one table, and what a
training may be given in their place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError, SettingError
from frugalkd.ledger.ledger import ASIDE, Ledger
from frugalkd.policies.policy import Policy, check_kind
from frugalkd.policies.self_regulation import SelfRegulation
from frugalkd.policies.subsets import All
from frugalkd.runtime.settings import NotNegative, Positive, Settings, check_number

HORIZON = 4.0
"""Epochs over which a cost may be spent, for each epoch that it pays for in full training. Chosen
on validation data, one seed of Fashion-MNIST and two of Banking77: 8 was not better."""

_MOST = 10.0  # of a cost, more is likely meant in percent

CEILING = 0.9
"""Of a gate that is limited to a cost, where the teacher's probabilities are known."""

PROBE = 0.02
"""Of a gate that is limited to a cost: see :class:`SelfRegulation`."""

ModeName = Literal["vanilla", "significance", "regulated", "hybrid"]

OutputName = Literal[
    "one-class", "several-labels", "regression", "embeddings", "tokens", "distances"
]
"""Kinds of output: the keys of :data:`frugalkd.outputs.OUTPUTS`."""

_WITHOUT_PROBE: tuple[OutputName, ...] = ("tokens", "distances")
"""Kinds of output without right answers that a probe could count."""


@dataclass(frozen=True)
class Mode:
    """``gated``: the student's own gate selects. ``weighted``: by significance."""

    gated: bool
    weighted: bool

    def policy(self, regulation: SelfRegulation) -> Policy:
        return regulation if self.gated else All()


MODES: dict[str, Mode] = {
    "vanilla": Mode(gated=False, weighted=False),
    "significance": Mode(gated=False, weighted=True),
    "regulated": Mode(gated=True, weighted=False),
    "hybrid": Mode(gated=True, weighted=True),
}


@dataclass(frozen=True, eq=False)
class Sampling(Settings):
    """Which samples are used, and what each of them weighs.

    ``Sampling()`` is mode ``regulated`` without a budget.

    Attributes:
        policy: which samples are used, in place of a mode.
        mode: ``vanilla``, ``significance``, ``regulated`` or ``hybrid``: short for a policy and
            weights.
        ledger: the teacher's; *significance* and *hybrid* need it.
        regulation: the student's own gate, for *regulated* and *hybrid*.
        cost: what the training may cost, as a fraction of full training over the epochs that it is
            given, screening included; a mode's gate then spends it over up to :data:`HORIZON` times
            as many epochs as it pays for in full, with a ceiling and a probe (see
            :class:`SelfRegulation`), and without a gate the epochs are fewer. The learning rate
            decays with what is spent.
        gamma: *significance* and *hybrid* weigh a sample by significance ** gamma.
        weights: float32 (samples,), in place of a mode; a sample of weight 0 is never used.
        class_weights: what the samples of each class weigh, scaled to a mean of 1 over all samples
            and multiplied with other weights: ``balanced``, the inverse of a class's samples, or
            one number a class. Data list their classes as ``labels``.
        scores: float32 (samples,), for a policy that needs them:
            :func:`frugalkd.experiments.scoring.score` makes them.
        label_free: read no label of the data, even where there are some: the teacher's top class
            stands in, in the loss and in gates.
        output: the kind of the model's outputs, in your own loop; elsewhere it is that of what the
            objective learns.
        dynamics: also record training dynamics in the ledger, 20 bytes a sample: margins, data maps
            and forgetting, from the same forward passes (docs/noise.md). The training itself stays
            the same, bit for bit.

    Raises:
        SettingError: a value of another type; a mode together with a policy or weights; or a
            policy together with ``regulation``.
        LedgerError: the mode weighs, and there is no ledger.
    """

    policy: Policy | None = None
    mode: ModeName | None = None
    ledger: Ledger | None = None
    regulation: SelfRegulation | None = None
    cost: Positive | None = None
    gamma: NotNegative = 1.0
    weights: NDArray[np.float32] | None = None
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    scores: NDArray[np.float32] | None = None
    label_free: bool = False
    output: OutputName = "one-class"
    dynamics: bool = False

    def __post_init__(self) -> None:
        if self.policy is not None:
            check_kind(self.policy)
            if self.regulation is not None:
                raise SettingError("regulation is the gate of a mode: give it, or a policy")
        if self.class_weights is not None and (self.label_free or self.output != "one-class"):
            raise SettingError("class_weights are of labels of one class, which this does not read")
        if isinstance(self.class_weights, tuple) and not (
            self.class_weights and all(0 <= each < math.inf for each in self.class_weights)
        ):
            raise SettingError("class_weights must be 0 or more, one number a class")
        if self.cost is not None:
            check_cost(self.cost)
            _ = self.chosen_policy
        if self.mode is None and (self.ledger is not None or self.gamma != 1):
            raise SettingError(
                f"{'gamma' if self.ledger is None else 'ledger'} is for the modes significance and "
                "hybrid: name one of them, or leave it out"
            )
        if self.scores is not None and (self.policy is None or self.policy.scoring is None):
            raise SettingError("scores are for a policy that needs them: name one, or leave them")
        if self.mode is None:
            return
        if self.policy is not None or self.weights is not None:
            raise SettingError("mode stands for a policy and weights: give either one or the other")
        if MODES[self.mode].weighted and self.ledger is None:
            raise LedgerError(
                f"mode {self.mode} needs a significance ledger: train the teacher under "
                "self-regulation (frugalkd teach, or train_teacher) and pass its ledger; vanilla "
                "and regulated do not"
            )

    @property
    def chosen_policy(self) -> Policy:
        """The policy, or that of the mode, limited to the cost."""
        gate = self.regulation or SelfRegulation()
        chosen = choose(self.policy, self.mode or "regulated", gate, self.cost)
        if self.output in _WITHOUT_PROBE and self.cost and isinstance(chosen, SelfRegulation):
            chosen = replace(chosen, probe=0.0)
        return chosen

    def at_cost(self, cost: float | None) -> Sampling:
        """The same, limited to ``cost``, or itself for None. Raises SettingError where it has a
        cost already, or cannot have one."""
        if cost is None:
            return self
        if self.cost is not None:
            raise SettingError(f"cost={cost!r}, and sampling has a cost of {self.cost:g}: give one")
        return replace(self, cost=cost)

    def fitted(self, targets: Any) -> Sampling:
        """As a training with these soft ``targets``, or None, needs it. A mode's gate has a ceiling
        under a cost, where targets know the teacher's probabilities of classes and it has none of
        its own. A gate with ``label_noise`` goes by the teacher's top class, where targets know it,
        and by training dynamics."""
        made, gate = self, self.regulation or SelfRegulation()
        knows_truth = targets is not None and targets.knows_truth and self.output == "one-class"
        if knows_truth and self.cost is not None and self.policy is None and not gate.ceiling:
            made = replace(self, regulation=replace(gate, ceiling=CEILING))
        name = "regulation" if made.policy is None else "policy"
        gate = getattr(made, name)
        if isinstance(gate, SelfRegulation) and gate.label_noise != "off":
            by_teacher = targets is not None and targets.knows_top
            gate = replace(gate, label_source="teacher") if by_teacher else gate
            made = replace(made, dynamics=True, **{name: gate})
        return made

    def epochs_of(self, epochs: float) -> float:
        """Over how many epochs, at most, a training goes that was given ``epochs``."""
        return spread(epochs, self.cost, self.chosen_policy)

    @property
    def weighing_ledger(self) -> Ledger | None:
        """The ledger whose significance weighs the samples; None: the mode does not weigh."""
        return self.ledger if self.mode is not None and MODES[self.mode].weighted else None


def choose(
    policy: Policy | None, mode: ModeName, gate: SelfRegulation, cost: float | None
) -> Policy:
    """``policy``, or where it is None that of ``mode`` with its ``gate``, limited where there is a
    ``cost``. Raises SettingError where it cannot be."""
    chosen = MODES[mode].policy(gate) if policy is None else policy
    return chosen if cost is None else limited(chosen)


def check_cost(cost: float) -> None:
    """Raises SettingError for one that is more likely meant in percent."""
    if cost > _MOST:
        raise SettingError(
            f"cost {cost:g} is {cost:g} times full training: give a fraction, such as 0.5 for half"
        )


def limited(policy: Policy) -> Policy:
    """``policy`` such that it spends a cost over :data:`HORIZON` times as many epochs as that pays
    for, or itself where it uses everything. Raises SettingError where it cannot."""
    if isinstance(policy, All):
        return policy
    if not isinstance(policy, SelfRegulation):
        raise SettingError(
            f"cost limits a mode, and {type(policy).__name__} has settings of its own for that"
        )
    if policy.budget is not None or policy.cost is not None:
        raise SettingError("the gate has a limit of its own: leave it out, or the cost")
    return replace(policy, cost=1 / HORIZON, probe=policy.probe or PROBE)


def spread(epochs: float, cost: float | None, policy: Policy) -> float:
    """Over how many epochs, at most, a training goes that was given ``epochs``, at a ``cost``."""
    if cost is None:
        return epochs
    return round(epochs * cost * (1 if isinstance(policy, All) else HORIZON), 9)


def significance_weights(ledger: Ledger, gamma: float = 1.0) -> NDArray[np.float32]:
    """Weights (samples,) float32: significance ** gamma, with mean 1 over the samples above zero.

    ``gamma = 1`` is our reading of the paper; 0 keeps the subset and drops the weights. A sample
    that never participated weighs 0, whatever gamma is; one that a probe set aside, which could
    not, weighs 1.

    Raises:
        SettingError: ``gamma`` is negative or not finite.
        LedgerError: no sample was used, or every one in every epoch (a conventional teacher); or
            a used sample would weigh less than float32 holds.
    """
    check_number("gamma", gamma, 0)
    significance = ledger.significance
    kept, aside = significance > 0, np.zeros(len(ledger), dtype=bool)
    if ASIDE in ledger.columns:
        aside = ledger[ASIDE] > 0
    if not kept.any():
        raise LedgerError("no sample of this ledger participated: there is nothing to distil from")
    if (significance[~aside] == 1).all():
        raise LedgerError(
            "every sample of this ledger participated in every epoch: train the teacher with "
            "policy self-regulation, long enough that some samples pass ('frugalkd teach')"
        )
    weights = np.zeros(len(ledger), dtype=np.float64)
    weights[kept] = significance[kept].astype(np.float64) ** gamma
    made = (weights / max(weights[kept].mean(), np.finfo(np.float64).tiny)).astype(np.float32)
    made[aside] = 1
    if not made[kept].all():
        least = significance[kept].min()
        raise LedgerError(
            f"gamma {gamma:g} makes a weight of 0 of the significance {least:g}, which leaves a "
            "sample out: set gamma to less"
        )
    return made
