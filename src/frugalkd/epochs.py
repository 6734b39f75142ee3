"""An epoch under way, and its batches: what a training loop holds in its hands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.errors import NonFiniteLoss, SelectionMisuse, Stopped
from frugalkd.policies import Plan
from frugalkd.policies._policy import Ids, Mask
from frugalkd.reading import Rows, joined
from frugalkd.verdict import Look, joined_looks

if TYPE_CHECKING:
    from frugalkd.selection import Selection

CHECK_EVERY = 50
"""Steps between two readings of what the device has observed (a reading waits for the device)."""

KEEP_LOGITS = 1 << 22
"""Logits that may wait for a look at many batches at once; more of them are looked at before."""


class _Trained(NamedTuple):
    """A batch that was trained on, as it waits to be read from the device."""

    ids: Ids
    forced: Mask
    losses: Tensor


class _Observed(NamedTuple):
    """Rows that were read from the device, as they wait to be told to the other ranks."""

    ids: Ids
    forced: Mask
    losses: NDArray[np.float32]
    seen: Look


class Epoch:
    """One epoch's batches, to be gone through once.

    Attributes:
        index: from 0.
        planned: ids that train (under gate-now: that are read).
        screened: sleepers that were looked at before the epoch.
        counts: rows by what they were: participations, idle, forced, and ``deferred`` (planned,
            but in a last batch that was dropped, or above what comes out even on all ranks).
        begun: its batches have been asked for.
        finished: every batch was trained on and observed.
    """

    def __init__(self, selection: Selection, plan: Plan, screened: int, deferred: int = 0):
        self.index = selection.epoch
        self.planned, self.screened = len(plan.ids), screened
        self.counts = {"participations": 0, "idle": 0, "forced": 0, "deferred": deferred}
        self.begun = self.finished = False
        self.lr_factor = plan.lr_factor
        self._selection, self._plan = selection, plan
        self._gated_now = selection.gates_now(plan)
        self._pending: list[_Trained] = []
        self._observed: list[_Observed] = []
        self._looks: list[Look] = []
        self._unseen: list[tuple[Tensor, Tensor]] = []
        self._kept = 0
        self._batches = self._first_pending = 0
        self._read = 0  # rows of the plan that batches were made of, or that were looked at
        self._waiting: list[Rows] = []  # under gate-now: rows that failed, not yet a batch
        self._waiting_ids = plan.ids[:0]  # the same of several ranks, which all know of all of them
        self._batch: Batch | None = None
        self._sums = np.zeros(3)  # rows, weights, squared weights of this rank's batches
        self._totals = self._sums  # the same of all ranks, as of when they were last told

    def __len__(self) -> int:
        """Batches; under gate-now the most that there can be."""
        rows, size = self.planned, self._selection.batch_size * self._selection.ranks.world
        short = self._selection.drop_last or not self._selection.ranks.alone
        return rows // size if short else math.ceil(rows / size)

    def __iter__(self) -> Iterator[Batch]:
        if self.begun:
            raise SelectionMisuse(f"epoch {self.index} has begun already: an epoch runs once")
        self.begun = True
        for batch in self._batches_to_come():
            self._batch = batch
            yield batch
            if not batch.observed:
                raise SelectionMisuse(
                    f"the batch at epoch {self.index}, step {self._batches} was not observed: call "
                    "batch.observe(logits, labels) once for each batch"
                )
            if self._batches % CHECK_EVERY == 0:
                self._read_device()
        self._merge()
        part = self._selection.part
        self._selection.ledger.epochs += part
        self.finished = True

    def _batches_to_come(self) -> Iterator[Batch]:
        if not self._gated_now:
            return self._as_planned()
        return self._gate_now() if self._selection.ranks.alone else self._gate_now_together()

    @property
    def step(self) -> int:
        """The optimiser step, from 0, that the batch to come belongs to."""
        return self._batches // self._selection.accumulate

    @property
    def summary(self) -> dict[str, float]:
        """The epoch in numbers; ``mean_weight`` and ``effective_samples`` of the rows trained."""
        rows, weights, squares = self._totals.tolist()
        return {
            "planned": self.planned,
            "screened": self.screened,
            "rows": int(rows),
            "steps": math.ceil(self._batches / self._selection.accumulate),
            **self.counts,
            "mean_weight": weights / rows if rows else 0.0,
            "effective_samples": weights**2 / squares if squares else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch is, between two batches. Reads what is pending from the device, and of
        several ranks what each has observed.

        Raises:
            SelectionMisuse: a batch was not observed yet.
            NonFiniteLoss: as when an epoch goes on.
        """
        if self._batch is not None and not self._batch.observed:
            raise SelectionMisuse(
                f"a batch of epoch {self.index} is under way: take the state once it is observed"
            )
        if self._batch is not None and not self._batch.ends_step and not self.finished:
            raise SelectionMisuse(
                f"a step of epoch {self.index} is under way: take the state after its last batch"
            )
        self._merge()
        plan = self._plan
        waiting = joined(self._waiting, self._selection.join) if self._waiting else None
        columns = {
            "ids": plan.ids,
            "weights": plan.weights,
            "forced": plan.forced,
            "waiting_ids": self._waiting_ids if waiting is None else waiting.ids,
            "waiting_views": None if waiting is None else waiting.views,
        }
        return {
            **{k: None if v is None else torch.from_numpy(v.copy()) for k, v in columns.items()},
            "waiting_targets": None if waiting is None else waiting.targets,
            "waiting_features": None if waiting is None else waiting.features,
            "waiting_data": None if waiting is None else self._selection.kept_data(waiting),
            "lr_factor": self.lr_factor,
            "screened": self.screened,
            "counts": dict(self.counts),
            "steps": self._batches,
            "read": self._read,
            "rows": int(self._totals[0]),
            "weight_sum": float(self._totals[1]),
            "weight_squares": float(self._totals[2]),
        }

    @classmethod
    def from_state(cls, selection: Selection, state: dict[str, Any]) -> Epoch:
        """The rest of the epoch that :meth:`state_dict` was taken of."""
        found: dict[str, Any] = {
            key: v.numpy() if isinstance(v, Tensor) else v for key, v in state.items()
        }
        plan = Plan(found["ids"], found["weights"], found["forced"], lr_factor=found["lr_factor"])
        epoch = cls(selection, plan, found["screened"])
        epoch.counts = dict(found["counts"])
        epoch._batches = epoch._first_pending = found["steps"]
        epoch._read = found["read"]
        epoch._totals = np.array([found[name] for name in ("rows", "weight_sum", "weight_squares")])
        epoch._sums = epoch._totals if selection.ranks.first else np.zeros(3)
        if not (selection.ranks.alone or epoch._gated_now):
            epoch._come_out_even()
        ids, views = found["waiting_ids"], found["waiting_views"]
        if not selection.ranks.alone:
            epoch._waiting_ids = epoch._waiting_ids if ids is None else ids
        elif ids is not None and len(ids):
            views = selection.views(ids) if views is None else views
            rows = selection.read_again(ids, views, state.get("waiting_data"))
            known = {"targets": state["waiting_targets"], "features": state.get("waiting_features")}
            epoch._waiting = [rows._replace(**known)]
        return epoch

    def _come_out_even(self) -> None:
        """Defer what is left of the plan above whole steps: there were other ranks when it was
        made."""
        over = (self.planned - self._read) % self._selection.step_rows
        self.counts["deferred"] += over
        self.planned -= over
        self._plan = self._plan.where(slice(0, self.planned))

    def _as_planned(self) -> Iterator[Batch]:
        """The plan's own batches, in their order: of each this rank's rows."""
        selection, ranks = self._selection, self._selection.ranks
        rows, together = selection.batch_size, selection.accumulate
        keep = self.planned
        if selection.drop_last and ranks.alone:
            keep = len(self) * rows
            self.counts["deferred"] = self.planned - keep
        plan = ranks.part_of(self._plan.where(slice(self._read, keep)), rows)
        forced = np.zeros(len(plan.ids), dtype=bool) if plan.forced is None else plan.forced
        end = 0
        for found in selection.read(plan.ids, rows, targets=True):
            start, end = end, end + len(found.ids)
            before, self._read = self._read, self._read + len(found.ids) * ranks.world
            importance = None if plan.weights is None else plan.weights[start:end]
            number = self._batches % together
            step = min(together * rows, number * rows + len(plan.ids) - start)
            last = number == together - 1 or end == len(plan.ids)
            batch = self._make(found, forced[start:end], importance, before)
            batch.step_rows, batch.begins_step, batch.ends_step = step, number == 0, last
            yield batch

    def _gate_now(self) -> Iterator[Batch]:
        """Reads batches, keeps the rows that fail, and trains whenever a full batch has come."""
        selection, size = self._selection, self._selection.batch_size
        weight_of = self._weight_of()
        rows = sum(len(part.ids) for part in self._waiting)
        # Rows read before the last block, as in a plain loop: the last flush is not at progress 1.
        before = max(0, self._read - 1) // size * size

        def take(count: int) -> Batch:
            nonlocal rows
            with selection.meters.phase("load"):
                together = joined(self._waiting, selection.join)
            taken = selection.with_targets(together.part(0, count))
            rest, rows = together.part(count, rows), rows - count
            self._waiting = [rest] if rows else []
            importance = None if weight_of is None else weight_of[taken.ids]
            return self._make(taken, np.zeros(count, dtype=bool), importance, before)

        for found in selection.read(self._plan.ids[self._read :], size):
            before, self._read = self._read, self._read + len(found.ids)
            with selection.meters.phase("screen"):
                found, labels = selection.with_labels(found)
                kept = found.where(self._judge(found.ids, selection.look(found, labels)))
            if len(kept.ids):  # no rows would still be as wide as they were padded
                self._waiting.append(kept)
            rows += len(kept.ids)
            if rows >= size:
                yield take(size)
            elif selection.stop():
                raise Stopped(f"stopped between two looks of epoch {self.index}")
        if rows and not selection.drop_last:
            yield take(rows)
        self.counts["deferred"] += rows

    def _gate_now_together(self) -> Iterator[Batch]:
        """The same of several ranks: the verdicts of all of them fill one buffer of ids, and each
        reads its rows of a global batch anew. What does not fill one in the end is deferred."""
        selection, ranks, size = self._selection, self._selection.ranks, self._selection.batch_size
        whole, ids = size * ranks.world, self._plan.ids
        weight_of = self._weight_of()
        before = max(0, self._read - 1) // whole * whole
        while self._read < len(ids):
            block = ids[self._read : self._read + whole]
            before, self._read = self._read, self._read + len(block)
            share = ranks.share(block)
            with selection.meters.phase("screen"):
                rows = selection.read_again(share, selection.views(share), None)
                rows, labels = selection.with_labels(rows)
                seen = selection.seen_together(rows.ids, selection.look(rows, labels))
                failed = seen[0][self._judge(*seen)]
            self._waiting_ids = np.concatenate([self._waiting_ids, failed])
            if len(self._waiting_ids) >= whole:
                mine = self._waiting_ids[ranks.rank * size :][:size]
                self._waiting_ids = self._waiting_ids[whole:]
                rows = selection.read_again(mine, selection.views(mine), None)
                importance = None if weight_of is None else weight_of[mine]
                forced = np.zeros(size, dtype=bool)
                yield self._make(selection.with_targets(rows), forced, importance, before)
            elif selection.stop():
                raise Stopped(f"stopped between two looks of epoch {self.index}")
        self.counts["deferred"] += len(self._waiting_ids)

    def _weight_of(self) -> NDArray[np.float32] | None:
        """The plan's weight of each sample, where it has weights."""
        if self._plan.weights is None:
            return None
        weight_of = np.zeros(len(self._selection.ledger), dtype=np.float32)
        weight_of[self._plan.ids] = self._plan.weights
        return weight_of

    def _judge(self, ids: Ids, seen: Look) -> Mask:
        """A look between two steps: an earlier step that went wrong is reported before it."""
        try:
            return self._selection.judge(ids, seen, step=self._batches)
        except NonFiniteLoss:
            self._read_device()
            raise

    def _make(
        self, rows: Rows, forced: Mask, importance: NDArray[np.float32] | None, consumed: int
    ) -> Batch:
        selection, count = self._selection, len(rows.ids)
        weights = importance
        if selection.weights is not None:
            weights = selection.weights[rows.ids]
            weights = weights if importance is None else weights * importance
        self._sums += (
            count,
            count if weights is None else float(weights.sum()),
            count if weights is None else float(np.square(weights, dtype=np.float64).sum()),
        )
        done = selection.part * consumed / max(1, self.planned)
        return Batch(
            rows=rows,
            weights=None
            if weights is None
            else torch.from_numpy(weights).to(selection.device, non_blocking=True),
            progress=(self.index + done) / selection.epochs,
            forced=forced,
            epoch=self,
        )

    def observe(
        self, batch: Batch, logits: Tensor, labels: Tensor, losses: Tensor, later: bool
    ) -> None:
        """Keep what the device has to say of a batch until it is read."""
        meters = self._selection.meters
        meters.samples_backpropagated += len(batch.ids)
        meters.student_forwards += len(batch.ids)
        self._batches += 1
        self._pending.append(_Trained(batch.ids, batch.forced, losses))
        self._unseen.append((logits, labels))
        self._kept += logits.numel()
        if not later or self._kept > KEEP_LOGITS:
            self._look_at_unseen()

    def _look_at_unseen(self) -> None:
        """Look at the logits that are kept, all at once, and let go of them; nobody waits."""
        if self._unseen:
            logits, labels = zip(*self._unseen, strict=True)
            self._looks.append(self._selection.see(torch.cat(logits), torch.cat(labels)))
            self._unseen, self._kept = [], 0

    def _read_device(self) -> None:
        """Enter all that is pending into the ledger, or keep it for the other ranks, unless
        something of it is not finite."""
        if not self._pending:
            return
        with self._selection.meters.phase("ledger"):
            self._look_at_unseen()
            pending, self._pending = self._pending, []
            looks, self._looks = self._looks, []
            ids = np.concatenate([entry.ids for entry in pending])
            forced = np.concatenate([entry.forced for entry in pending])
            seen = Look(*(_joined(parts) for parts in zip(*looks, strict=True)))
            losses = torch.cat([entry.losses for entry in pending]).float().cpu().numpy()
            self._refuse_non_finite([entry.ids for entry in pending], seen.confidence, losses)
            self._first_pending = self._batches
            if self._selection.ranks.alone:
                self._enter(seen, ids, forced, losses)
            else:
                self._observed.append(_Observed(ids, forced, losses, seen))

    def _merge(self) -> None:
        """Have all that was observed in the ledger, on every rank what all of them observed."""
        self._read_device()
        selection = self._selection
        if selection.ranks.alone:
            return
        with selection.meters.phase("merge"):
            observed, self._observed = self._observed, []
            if observed:
                ids, forced, losses, seen = zip(*observed, strict=True)
                self._enter(
                    *selection.told(
                        joined_looks(seen),
                        np.concatenate(ids),
                        np.concatenate(forced),
                        np.concatenate(losses),
                    )
                )
            self._totals = selection.ranks.sum(self._sums)
            selection.count_together()

    def _enter(self, seen: Look, ids: Ids, forced: Mask, losses: NDArray[np.float32]) -> None:
        """Enter rows that were trained on."""
        failed = np.ones(len(ids), dtype=bool)
        if not self._gated_now:
            failed = self._selection.enter(ids, seen, screening=False)
        participated = failed & ~forced
        self._selection.ledger.trained(ids, participated=participated, forced=forced, losses=losses)
        self.counts["participations"] += int(participated.sum())
        self.counts["forced"] += int(forced.sum())
        self.counts["idle"] += int((~failed & ~forced).sum())

    def _refuse_non_finite(
        self, batches: list[Ids], confidence: NDArray[np.float32], losses: NDArray[np.float32]
    ) -> None:
        """Raise NonFiniteLoss, on every rank the same, for the first batch that has a bad row."""
        bad = ~np.isfinite(confidence) | ~np.isfinite(losses)
        if not bad.any() and self._selection.ranks.alone:
            return
        number = np.repeat(np.arange(len(batches)), [len(ids) for ids in batches])
        number, ids, output = self._selection.ranks.gathered(
            number[bad], np.concatenate(batches)[bad], ~np.isfinite(confidence[bad])
        )
        if not len(number):
            return
        first = number == number.min()
        raise NonFiniteLoss(
            epoch=self.index,
            step=(self._first_pending + int(number.min())) // self._selection.accumulate,
            ids=ids[first].tolist(),
            what="the output" if output[first].any() else "the loss",
        )


def _joined(parts: Sequence[Tensor | None]) -> NDArray | None:
    """What several looks say, as one array; None where they do not say it."""
    known = [part for part in parts if part is not None]
    return torch.cat(known).cpu().numpy() if known else None


class Batch:
    """Rows to train on.

    Attributes:
        ids: int64 numpy (rows,).
        weights: float32 (rows,) on the device.
        data: what the data set's collation gives, on the device.
        targets: the teacher's logits (rows, classes), or None.
        features: of the teacher, (rows, ...) by module path; none but where they were asked for.
        progress: of the whole training, in [0, 1), before this batch.
        begins_step, ends_step: whether it is the first, and the last, batch of an optimiser step.
        step_rows: rows of that step, of this rank.
        forced: bool numpy (rows,), rows that were not the gate's choice.
    """

    def __init__(
        self, *, rows: Rows, weights: Tensor | None, progress: float, forced: Mask, epoch: Epoch
    ):
        self.ids, _, self.data, self.targets, features = rows
        self.features = features or {}
        self.progress, self.forced = progress, forced
        self.observed, self.begins_step, self.ends_step = False, True, True
        self.step_rows = len(self.ids)
        self._weights, self._epoch = weights, epoch

    @property
    def weights(self) -> Tensor:
        """float32 (rows,) on the device, made here where all of them are 1."""
        if self._weights is None:
            self._weights = torch.ones(len(self.ids), device=self._epoch._selection.device)
        return self._weights

    @weights.setter
    def weights(self, weights: Tensor) -> None:
        self._weights = weights

    @property
    def labels(self) -> Tensor:
        """int64 (rows,): the data's labels, or the teacher's top class where they have none."""
        return self._epoch._selection.label(self.data, self.targets)

    @property
    def weighted(self) -> bool:
        """Whether a row may weigh anything but 1."""
        return self._weights is not None

    def reduce(self, losses: Tensor, rows: int | None = None) -> Tensor:
        """sum(weight * loss) / rows, a scalar, from one loss per row.

        Where gradients of several batches are accumulated for one step, ``rows`` is those of all of
        them; by default ``step_rows``, what the selection knows of that. Several ranks average
        their gradients, and have as many rows each: together it is then over the global batch.

        Raises:
            SelectionMisuse: ``losses`` is not one value a row.
        """
        if losses.shape != (len(self.ids),):
            raise SelectionMisuse(
                f"losses of shape {tuple(losses.shape)} for {len(self.ids)} rows: give one loss a "
                "row (reduction='none')"
            )
        if self._weights is not None:
            losses = self._weights * losses
        # Half precision is not enough for a sum.
        total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
        return total / (self.step_rows if rows is None else rows)

    def observe(
        self,
        logits: Tensor,
        labels: Tensor | None = None,
        losses: Tensor | None = None,
        *,
        later: bool = False,
    ) -> None:
        """Tell the ledger how these rows fared in the training forward.

        Args:
            logits: (rows, classes).
            labels: int64 (rows,); by default the batch's own.
            losses: (rows,), what the objective gave, unweighted; by default cross-entropy.
            later: these tensors will not be written to again, so that they may be looked at with
                those of other batches, which is cheaper.

        Raises:
            SelectionMisuse: observed twice, or with another number of rows in any of the three.
        """
        if self.observed:
            raise SelectionMisuse("this batch was observed already: observe each batch once")
        if logits.ndim != 2 or len(logits) != len(self.ids):
            raise SelectionMisuse(
                f"logits of shape {tuple(logits.shape)} for {len(self.ids)} rows: (rows, classes) "
                "in the batch's own order are needed"
            )
        labels = self.labels if labels is None else labels
        for what, given in (("labels", labels), ("losses", losses)):
            if given is not None and given.shape != (len(self.ids),):
                raise SelectionMisuse(
                    f"{what} of shape {tuple(given.shape)} for {len(self.ids)} rows: one a row is "
                    "needed"
                )
        if losses is None:
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        judged_by = self._epoch._selection.judged_by(labels, self.targets)
        self._epoch.observe(self, logits.detach(), judged_by, losses.detach(), later)
        self.observed = True
