"""What a policy is: pure functions from the ledger to one epoch's plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import ClassVar, Literal, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalkd.errors import SelectionMisuse, SettingError, few
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.runtime import draws
from frugalkd.runtime.failures import blame
from frugalkd.runtime.settings import Settings, check_number, check_types

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_WEIGHT = 2.0**32
"""The largest weight of a sample. Adam squares weighted gradients in float32, whose largest value
is about 2 ** 128: with weights up to 2 ** 32, gradients up to 2 ** 32 do not overflow."""

_NO_IDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Plan:
    """The samples of one epoch. The order of ``ids`` does not matter: the selection shuffles them.

    Attributes:
        ids: int64, without duplicates, to train on (under gate-now: to read).
        weights: float32 (len(ids),), importance weights, not normalised; None: all are 1.
        forced: bool (len(ids),), rows that the gate did not choose; None: no row.
        screen: int64 ids to evaluate before the epoch; the policy then plans again.
        lr_factor: multiplies the epoch's learning rate.
        stop: the training ends before this epoch; ``ids`` are ignored.
        disbelieved: int64 ids that are left out because their labels are disbelieved, which are
            entered, with the first epoch, into a policy's column of that name.
    """

    ids: Ids
    weights: NDArray[np.float32] | None = None
    forced: Mask | None = None
    screen: Ids = field(default_factory=lambda: _NO_IDS)
    lr_factor: float = 1.0
    stop: bool = False
    disbelieved: Ids = field(default_factory=lambda: _NO_IDS)

    def where(self, rows: slice | Ids) -> Plan:
        """The plan of the ids at these places."""
        weights = None if self.weights is None else self.weights[rows]
        forced = None if self.forced is None else self.forced[rows]
        return replace(self, ids=self.ids[rows], weights=weights, forced=forced)


def check_plan(plan: Plan, samples: int, pool: Ids, policy: Policy) -> None:
    """Check the plan of a user's own ``policy`` for a data set of ``samples``.

    Raises SelectionMisuse.
    """
    whose = f"{type(policy).__name__}.plan"
    if not isinstance(plan, Plan):
        raise SelectionMisuse(f"{whose} returns a {type(plan).__name__}: return a Plan")
    for name, ids in (("ids", plan.ids), ("screen", plan.screen)):
        if not isinstance(ids, np.ndarray) or ids.dtype != np.int64 or ids.ndim != 1:
            raise SelectionMisuse(f"{whose}: {name} must be a numpy array int64 (rows,)")
        if len(ids) and (ids.min() < 0 or ids.max() >= samples):
            raise SelectionMisuse(
                f"{whose}: {name} reach from {ids.min()} to {ids.max()}, and the data set has 0 .. "
                f"{samples - 1}"
            )
        found, times = np.unique(ids, return_counts=True)
        if len(found) < len(ids):
            twice = few(found[times > 1].tolist())
            raise SelectionMisuse(f"{whose}: {name} name samples {twice} twice: plan each id once")
        if len(pool) < samples and len(outside := np.setdiff1d(found, pool)):
            raise SelectionMisuse(
                f"{whose}: {name} name samples {few(outside.tolist())}, which have weight 0: plan "
                "ids of the pool only"
            )
    for name, values, kind in (("weights", plan.weights, "f"), ("forced", plan.forced, "b")):
        if values is not None:
            check_rows(values, len(plan.ids), kind, f"{whose}: {name} are")
    if plan.weights is not None and (problem := why_not_weights(plan.weights, plan.ids)):
        raise SelectionMisuse(f"{whose}: {problem}")
    try:
        check_number("lr_factor", plan.lr_factor, 0)
    except SettingError as error:
        raise SelectionMisuse(f"{whose}: {error}") from None


def why_not_weights(weights: NDArray, ids: Ids | None = None) -> str | None:
    """What is wrong with float32 weights of the samples ``ids`` (default: all), or None."""
    strange = np.flatnonzero(~((weights >= 0) & (weights <= MOST_WEIGHT)))
    if len(strange):
        first = strange[0]
        of = first if ids is None else ids[first]
        return f"sample {of} weighs {weights[first]:g}: weights must be in [0, 2**32]; 1 is typical"
    if len(weights) and 0 < weights.max() < 1 / MOST_WEIGHT:
        return f"the largest is {weights.max():g}: nothing would be learned, make their mean 1"
    return None


def check_rows(values: object, rows: int, kinds: str, said: str) -> None:
    """Raises SelectionMisuse, which begins with ``said``, unless ``values``, of a user's own
    policy, are a numpy array (rows,) of one of numpy's ``kinds``."""
    found = f"a {type(values).__name__}"
    if isinstance(values, np.ndarray):
        if values.dtype.kind in kinds and values.shape == (rows,):
            return
        found = f"{values.dtype} {values.shape}"
    wanted = {"b": "booleans", "f": "floating-point numbers", "iu": "whole numbers"}[kinds]
    raise SelectionMisuse(f"{said} {found}: return a numpy array of {rows} {wanted}")


def check_kind(policy: Policy) -> None:
    """Raises SettingError unless the attributes of ``policy`` can be used."""
    name = type(policy).__name__
    kinds = get_type_hints(Policy)
    for attribute in ("when", "label_source"):
        check_types(**{f"{name}.{attribute}": (getattr(policy, attribute), kinds[attribute])})
    try:
        dict(policy.columns)
    except Exception as error:
        blame(error, SettingError, f"{name}.columns is not a mapping of names to numpy types")


@dataclass(frozen=True)
class EpochContext:
    """The epoch that is planned, the number of epochs, and this epoch's random draws.

    ``spent``: samples that went through a backward pass before this epoch; ``screened``: those
    that were screened, for this epoch too; ``least``: the fewest that an epoch can train.
    """

    epoch: int
    epochs: float
    seed: int
    spent: int = 0
    screened: int = 0
    least: int = 1

    @property
    def part(self) -> float:
        """The fraction of the epoch that is trained: 1, or less in the last one."""
        return min(1.0, self.epochs - self.epoch)

    def uniform(self, purpose: str, ids: ArrayLike) -> NDArray[np.float64]:
        """A uniform draw in [0, 1) for each id, a function of (seed, purpose, epoch, id)."""
        return draws.uniform(self.seed, draws.stream(purpose), self.epoch, ids)


def at_sorted(column: NDArray, ids: Ids) -> NDArray:
    """``column[ids]`` for sorted, distinct ``ids``; do not write to it: it may be ``column``."""
    return column if len(ids) == len(column) else column.take(ids)


@dataclass(frozen=True)
class Scoring:
    """A scoring run: trainings before the training, that give each sample a score.

    Attributes:
        kind: a key of :data:`frugalkd.experiments.scoring.SCORINGS`.
        epochs: of each training.
        seeds: trainings, whose scores are averaged.
    """

    kind: str
    epochs: float
    seeds: int = 1


class Policy(Settings, ABC):
    """Chooses which samples are used. A policy has settings and no state: that is in the ledger."""

    when: Literal["now", "last-visit"]
    """Whether the gate judges a batch before it is trained on, or by its training forward."""

    needs_screening: bool = True
    """Whether it ever needs a forward pass that does not train."""

    label_source: Literal["label", "teacher"] = "label"
    """What counts as correct: the label, or the teacher's top class."""

    labels_optional: ClassVar[bool] = False
    """Whether it does without the labels that it needs where outputs have no classes."""

    needs_entropy: ClassVar[bool] = False
    """Whether outcomes include the entropy."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The policy's own ledger columns: name -> numpy dtype, zero at first."""
        return {} if self.scoring is None else {"score": "float32"}

    @property
    def scoring(self) -> Scoring | None:
        """The scoring run that it needs; its scores are the ledger's column ``score``."""
        return None

    @property
    def needs_labels(self) -> bool:
        """Whether plans read ``ledger.labels``, int32 (samples,), none of them below 0."""
        return False

    def set_aside(self, samples: int, seed: int) -> Mask | None:
        """Which of so many samples, bool (samples,), are never trained on; None: no sample."""
        return None

    def at_budget(self, budget: float) -> Policy | None:
        """The same policy with ``budget``, in (0, 1], of full training over the same epochs; None
        if it cannot be limited to one."""
        if not is_dataclass(self) or not any(field.name == "budget" for field in fields(self)):
            return None
        return replace(self, budget=budget)  # pyright: ignore

    def planned_rows(self, samples: int, epochs: float) -> float | None:
        """How many rows all epochs together are to train, of so many ``samples``: the learning rate
        then follows what is spent of them. None where that is not known beforehand, and in policies
        with ``when: now``: it follows the epochs."""
        budget = getattr(self, "budget", None)
        return None if budget is None or self.when == "now" else budget * samples * epochs

    def paid(self, at: EpochContext) -> float:
        """What of the planned rows is spent before the epoch ``at`` trains."""
        return at.spent

    @abstractmethod
    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        """The plan of epoch ``at.epoch`` from ``pool``, the ids that may be used, sorted."""

    @abstractmethod
    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        """Which rows fail the gate, so that they are still trained on; ``seen``: their outcome, as
        arrays."""

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        """What to enter into its own columns, before the verdict is entered: column -> values
        (rows,)."""
        return {}

    def skip_epochs(self, streak: NDArray[np.uint8]) -> NDArray[np.int64]:
        """For how many epochs a sample is skipped after ``streak`` passes in a row; by default it
        never is."""
        return np.zeros(len(streak), dtype=np.int64)


class Ungated(Policy):
    """A policy without a gate: every row fails, no sample is skipped."""

    when = "last-visit"
    needs_screening = False

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        return np.ones(len(ids), dtype=bool)


class GateNow(Policy):
    """A policy that judges each batch as it is read; no sample is skipped before that."""

    when = "now"

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return Plan(pool)
