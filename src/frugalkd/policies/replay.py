"""The plans of a training, as files, and a policy that follows them again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError
from frugalkd.files.arrays import load_arrays, save_arrays
from frugalkd.files.writing import make_folder
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated
from frugalkd.runtime import draws

_KIND, _SCHEMA = "plan", 1
_AGAIN = "run the training again that recorded it"


@dataclass(frozen=True)
class Replay(Ungated):
    """The recorded plans of another training of the same data, or *permuted* ones.

    *Rule:* each epoch uses the rows, the weights and the factor of the learning rate that were
    recorded for it. With ``permuted`` another sample of the same class (where outputs have no
    classes, any other one) stands in each sample's place, the same one in all epochs: how many rows
    an epoch has, how often samples return, the balance of classes and the weights stay; only
    *which* samples they are changes.

    *Cost:* none but the plan.

    Attributes:
        folder: ``plans/`` of a run that recorded them.
        digest: SHA-256 of its files, as :func:`plans_digest` gives it.
        permuted: draw one permutation of each class's samples, by the training's seed.
        rows: what the policy that is followed had planned in all, see :meth:`planned_rows`, so that
            the learning rate is the same.
        screened: by epoch, how many samples it had screened, where that was limited too.
        extra: by epoch, how many more samples to draw at random of those that are not planned.

    Raises:
        LedgerError: while planning, the files are missing or damaged, or are of another digest.
    """

    folder: str
    digest: str
    permuted: bool = False
    rows: float | None = None
    screened: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()

    labels_optional = True

    @property
    def needs_labels(self) -> bool:
        return self.permuted

    def planned_rows(self, samples: int, epochs: float) -> float | None:
        return None if self.rows is None else self.rows + sum(self.extra)

    def paid(self, at: EpochContext) -> float:
        return at.spent + sum(self.screened[: at.epoch + 1]) / 3

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        plans = read_plans(Path(self.folder), self.digest)
        if at.epoch >= len(plans):
            return Plan(pool[:0], stop=True)
        plan = plans[at.epoch]
        if self.permuted:
            labels = np.zeros(len(ledger)) if ledger.labels is None else ledger.labels
            plan = replace(plan, ids=_permutation(labels, pool, at)[plan.ids])
        more = self.extra[at.epoch] if at.epoch < len(self.extra) else 0
        if not more:
            return plan
        others = np.setdiff1d(pool, plan.ids, assume_unique=True)
        ids = draws.subset(others, more, at.seed, draws.stream("replay-extra"), at.epoch)
        weights = plan.weights
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(ids), dtype=np.float32)])
        return replace(plan, ids=np.concatenate([plan.ids, ids]), weights=weights)


def _permutation(labels: NDArray, pool: Ids, at: EpochContext) -> Ids:
    """For each sample another one of its class, from ``pool``."""
    drawn = draws.uniform(at.seed, draws.stream("permuted"), pool)
    other = np.arange(len(labels))
    classes = labels[pool]
    other[pool[np.lexsort((pool, classes))]] = pool[np.lexsort((drawn, classes))]
    return other


def save_plan(folder: Path, epoch: int, plan: Plan) -> None:
    """Write an epoch's ids, weights and factor of the learning rate into ``folder``. Raises
    WriteFailed."""
    arrays: dict[str, NDArray] = {"ids": plan.ids}
    if plan.weights is not None:
        arrays["weights"] = plan.weights
    about = {"schema": _SCHEMA, "lr_factor": plan.lr_factor}
    make_folder(folder)
    save_arrays(_file(folder, epoch), _KIND, arrays, about)


def plans_digest(folder: Path) -> str | None:
    """SHA-256 (hex) of the plans in ``folder``; None where there are none."""
    found = hashlib.sha256()
    epochs = 0
    while (file := _file(folder, epochs)).is_file():
        found.update(file.read_bytes())
        epochs += 1
    return found.hexdigest() if epochs else None


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.safetensors"


@cache
def read_plans(folder: Path, digest: str) -> tuple[Plan, ...]:
    """The plans in ``folder``. Raises LedgerError: they are damaged, or others than ``digest``
    says."""
    if plans_digest(folder) != digest:
        raise LedgerError(f"{folder} does not hold the plans of digest {digest[:12]}: {_AGAIN}")
    plans = []
    while (file := _file(folder, len(plans))).is_file():
        arrays, about = load_arrays(
            file, _KIND, what="plan", schema=_SCHEMA, error=LedgerError, again=_AGAIN
        )
        weights, factor = arrays.get("weights"), about["lr_factor"]
        plans.append(Plan(arrays["ids"], weights, lr_factor=factor))
    return tuple(plans)
