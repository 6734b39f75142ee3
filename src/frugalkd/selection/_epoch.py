"""An epoch under way: how its plan becomes batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import NonFiniteLoss, SelectionMisuse, Stopped
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import Plan
from frugalkd.policies.policy import Ids, Mask
from frugalkd.selection._batch import Batch
from frugalkd.selection._observations import Observations
from frugalkd.selection.rows import Rows, batches_of, joined

if TYPE_CHECKING:
    from frugalkd.selection._selection import Selection

CHECK_EVERY = 50
"""Steps between two readings of what the device has observed (a reading waits for the device)."""


class Epoch:
    """One epoch's batches, to be gone through once.

    Attributes:
        index: from 0.
        planned: ids that train (under gate-now: that are read).
        screened: sleepers that were looked at before the epoch.
        counts: rows by what they were: participations, idle, forced, and ``deferred`` (planned,
            but in a last batch that was dropped, above what comes out even on all ranks, or a last
            row with no batch to join).
        begun: its batches have been asked for.
        finished: every batch was trained on and observed.
    """

    def __init__(self, selection: Selection, plan: Plan, screened: int, deferred: int = 0):
        self.index = selection.epoch
        self.planned, self.screened = len(plan.ids), screened
        self.begun = self.finished = False
        self.lr_factor = plan.lr_factor
        self._selection, self._reader, self._plan = selection, selection.reader, plan
        self._gated_now = selection.gates_now(plan)
        self._observations = Observations(
            selection.screening,
            selection.ledger,
            selection.meters,
            selection.ranks,
            epoch=self.index,
            gradient_accumulation_steps=selection.gradient_accumulation_steps,
            all_failed=self._gated_now,
        )
        self._deferred = deferred
        self._read = 0  # rows of the plan that batches were made of, or that were looked at
        self._waiting: list[Rows] = []  # under gate-now: rows that failed, not yet a batch
        self._waiting_ids = plan.ids[:0]  # the same of several ranks, which all know of all of them
        self._batch: Batch | None = None
        self._sums = np.zeros(3)  # rows, weights, squared weights of this rank's batches
        self._totals = self._sums  # the same of all ranks, as of when they were last told

    @property
    def counts(self) -> dict[str, int]:
        return {**self._observations.counts, "deferred": self._deferred}

    @property
    def _batches(self) -> int:
        """That were trained on."""
        return self._observations.batches

    def __len__(self) -> int:
        """Batches; under gate-now the most that there can be."""
        size = self._selection.batch_size * self._selection.ranks.world
        full = self._selection.drop_last or not self._selection.ranks.alone
        return batches_of(self.planned, size, drop_last=full)

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
            if self._batches % (CHECK_EVERY * self._selection.gradient_accumulation_steps) == 0:
                self._observations.read(self._selection.watch)
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
        return self._batches // self._selection.gradient_accumulation_steps

    @property
    def summary(self) -> dict[str, float]:
        """The epoch in numbers; ``mean_weight`` and ``effective_samples`` of the rows trained."""
        rows, weights, squares = self._totals.tolist()
        return {
            "planned": self.planned,
            "screened": self.screened,
            "rows": int(rows),
            "steps": math.ceil(self._batches / self._selection.gradient_accumulation_steps),
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
        waiting = joined(self._waiting, self._reader.join) if self._waiting else None
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
            "waiting_data": None if waiting is None else self._reader.kept_data(waiting),
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
        epoch._observations.go_on(found["steps"], found["counts"])
        epoch._deferred = found["counts"]["deferred"]
        epoch._read = found["read"]
        epoch._totals = np.array([found[name] for name in ("rows", "weight_sum", "weight_squares")])
        epoch._sums = epoch._totals if selection.ranks.first else np.zeros(3)
        if not (selection.ranks.alone or epoch._gated_now):
            epoch._come_out_even()
        ids, views = found["waiting_ids"], found["waiting_views"]
        if not selection.ranks.alone:
            epoch._waiting_ids = epoch._waiting_ids if ids is None else ids
        elif ids is not None and len(ids):
            rows = selection.reader.again(ids, views, state.get("waiting_data"))
            known = {"targets": state["waiting_targets"], "features": state.get("waiting_features")}
            epoch._waiting = [rows._replace(**known)]
        return epoch

    def _come_out_even(self) -> None:
        """Defer what is left of the plan above whole steps: there were other ranks when it was
        made."""
        over = (self.planned - self._read) % self._selection.step_rows
        self._deferred += over
        self.planned -= over
        self._plan = self._plan.where(slice(0, self.planned))

    def _as_planned(self) -> Iterator[Batch]:
        """The plan's own batches, in their order: of each this rank's rows."""
        selection, ranks = self._selection, self._selection.ranks
        rows, together = selection.batch_size, selection.gradient_accumulation_steps
        keep = self.planned
        if ranks.alone:
            if selection.drop_last:
                keep = len(self) * rows
                self._deferred = self.planned - keep
            elif not batches_of(keep - self._read, rows):  # nothing, or one row and none to join
                self._deferred += keep - self._read
                keep = self._read
        plan = ranks.part_of(self._plan.where(slice(self._read, keep)), rows)
        forced = np.zeros(len(plan.ids), dtype=bool) if plan.forced is None else plan.forced
        end = 0
        for found in self._reader.read(plan.ids, rows, targets=True, join_last=True):
            start, end = end, end + len(found.ids)
            before, self._read = self._read, self._read + len(found.ids) * ranks.world
            importance = None if plan.weights is None else plan.weights[start:end]
            number = self._batches % together
            step = number * rows + len(plan.ids) - start
            if batches_of(step, rows) > together:
                step = together * rows
            last = number == together - 1 or end == len(plan.ids)
            batch = self._make(found, forced[start:end], importance, before)
            batch.step_rows, batch.begins_step, batch.ends_step = step, number == 0, last
            yield batch

    def _gate_now(self) -> Iterator[Batch]:
        """Reads batches, keeps the rows that fail, and trains whenever a full batch has come. One
        row that is left in the end joins the last batch, or is deferred where that is gone; where
        it is alone in the epoch, a row that passes joins it, forced."""
        selection, size = self._selection, self._selection.batch_size
        weight_of, ids = self._weight_of(), self._plan.ids
        rows, filler = sum(len(part.ids) for part in self._waiting), -1
        # Rows read before the last block, as in a plain loop: the last flush is not at progress 1.
        whole = max(1, batches_of(len(ids), size)) * size  # from here on it is the last block
        before = max(0, min(self._read, whole) - 1) // size * size

        def take(count: int) -> Batch:
            nonlocal rows
            with selection.meters.phase("load"):
                together = joined(self._waiting, self._reader.join)
            taken = self._reader.with_targets(together.part(0, count))
            rest, rows = together.part(count, rows), rows - count
            self._waiting = [rest] if rows else []
            importance = None if weight_of is None else weight_of[taken.ids]
            return self._make(taken, taken.ids == filler, importance, before)

        for found in self._reader.read(ids[self._read :], size, join_last=True):
            before, self._read = self._read, self._read + len(found.ids)
            with selection.meters.phase("screen"):
                found, labels = self._reader.with_labels(found)
                kept = found.where(self._judge(found.ids, selection.screening.look(found, labels)))
            if len(kept.ids):  # no rows would still be as wide as they were padded
                self._waiting.append(kept)
            rows += len(kept.ids)
            if rows < size and selection.stop():
                raise Stopped(f"stopped between two looks of epoch {self.index}")
            while rows >= size:
                ends = self._read == len(ids) and not selection.drop_last
                joins = ends and batches_of(rows, size) == 1
                yield take(rows if joins else size)
        if rows == 1 and not (self._batches or selection.drop_last) and len(ids) > 1:
            # Where nothing trains, nothing changes, and this row would never be trained on.
            filler = ids[ids != self._waiting[0].ids][0]
            self._waiting.append(self._reader.at_once(np.array([filler])))
            rows = 2
        if rows == size or (rows > 1 and not selection.drop_last):
            yield take(rows)
        self._deferred += rows

    def _gate_now_together(self) -> Iterator[Batch]:
        """The same of several ranks: the verdicts of all of them fill one buffer of ids, and each
        reads its rows of a global batch anew. What does not fill one in the end is deferred."""
        selection, reader = self._selection, self._reader
        looks, ranks, size = selection.screening, selection.ranks, selection.batch_size
        whole, ids = size * ranks.world, self._plan.ids
        weight_of = self._weight_of()
        before = max(0, self._read - 1) // whole * whole
        while self._read < len(ids):
            block = ids[self._read : self._read + whole]
            before, self._read = self._read, self._read + len(block)
            share = ranks.share(block)
            with selection.meters.phase("screen"):
                rows, labels = reader.with_labels(reader.at_once(share))
                seen = looks.together(rows.ids, looks.look(rows, labels))
                failed = seen[0][self._judge(*seen)]
            self._waiting_ids = np.concatenate([self._waiting_ids, failed])
            if len(self._waiting_ids) >= whole:
                mine = self._waiting_ids[ranks.rank * size :][:size]
                self._waiting_ids = self._waiting_ids[whole:]
                rows = reader.with_targets(reader.at_once(mine))
                importance = None if weight_of is None else weight_of[mine]
                forced = np.zeros(size, dtype=bool)
                yield self._make(rows, forced, importance, before)
            elif selection.stop():
                raise Stopped(f"stopped between two looks of epoch {self.index}")
        self._deferred += len(self._waiting_ids)

    def _weight_of(self) -> NDArray[np.float32] | None:
        """The plan's weight of each sample, where it has weights."""
        if self._plan.weights is None:
            return None
        weight_of = np.zeros(len(self._selection.ledger), dtype=np.float32)
        weight_of[self._plan.ids] = self._plan.weights
        return weight_of

    def _judge(self, ids: Ids, seen: Outcome) -> Mask:
        """A look between two steps: an earlier step that went wrong is reported before it."""
        try:
            return self._selection.screening.judge(ids, seen, step=self._batches)
        except NonFiniteLoss:
            self._observations.read()
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
            else torch.from_numpy(weights).to(self._reader.device, non_blocking=True),
            progress=(self.index + done) / selection.epochs,
            forced=forced,
            reader=self._reader,
            observations=self._observations,
        )

    def _merge(self) -> None:
        """Have all that was observed in the ledger, on every rank what all of them observed."""
        selection = self._selection
        self._observations.read(selection.watch)
        if selection.ranks.alone:
            return
        with selection.meters.phase("merge"):
            self._observations.merge()
            self._totals = selection.ranks.sum(self._sums)
            selection.count_together()
