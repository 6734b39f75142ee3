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
from frugalkd.verdict import Look

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


class Epoch:
    """One epoch's batches, to be gone through once.

    Attributes:
        index: from 0.
        planned: ids that train (under gate-now: that are read).
        screened: sleepers that were looked at before the epoch.
        counts: rows by what they were: participations, idle, forced, and ``deferred`` (planned,
            but in a last batch that was dropped).
        begun: its batches have been asked for.
        finished: every batch was trained on and observed.
    """

    def __init__(self, selection: Selection, plan: Plan, screened: int):
        self.index = selection.epoch
        self.planned, self.screened = len(plan.ids), screened
        self.counts = {"participations": 0, "idle": 0, "forced": 0, "deferred": 0}
        self.begun = self.finished = False
        self.lr_factor = plan.lr_factor
        self._selection, self._plan = selection, plan
        self._gated_now = selection.policy.when == "now" and plan.forced is None
        self._pending: list[_Trained] = []
        self._looks: list[Look] = []
        self._unseen: list[tuple[Tensor, Tensor]] = []
        self._kept = 0
        self._steps = self._first_pending = 0
        self._read = 0  # rows of the plan that batches were made of, or that were looked at
        self._waiting: list[Rows] = []  # under gate-now: rows that failed, not yet a batch
        self._batch: Batch | None = None
        self._weight_sum = self._weight_squares = 0.0
        self._rows = 0

    def __len__(self) -> int:
        """Steps; under gate-now the most that there can be."""
        rows, size = self.planned, self._selection.batch_size
        return rows // size if self._selection.drop_last else math.ceil(rows / size)

    def __iter__(self) -> Iterator[Batch]:
        if self.begun:
            raise SelectionMisuse(f"epoch {self.index} has begun already: an epoch runs once")
        self.begun = True
        for batch in self._gate_now() if self._gated_now else self._as_planned():
            self._batch = batch
            yield batch
            if not batch.observed:
                raise SelectionMisuse(
                    f"the batch at epoch {self.index}, step {self._steps} was not observed: call "
                    "batch.observe(logits, labels) once for each batch"
                )
            if self._steps % CHECK_EVERY == 0:
                self._read_device()
        self._read_device()
        part = self._selection.part
        self._selection.ledger.epochs += part
        self.finished = True

    @property
    def summary(self) -> dict[str, float]:
        """The epoch in numbers; ``mean_weight`` and ``effective_samples`` of the rows trained."""
        rows, squares = self._rows, self._weight_squares
        return {
            "planned": self.planned,
            "screened": self.screened,
            "rows": rows,
            "steps": self._steps,
            **self.counts,
            "mean_weight": self._weight_sum / rows if rows else 0.0,
            "effective_samples": self._weight_sum**2 / squares if squares else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch is, between two batches. Reads what is pending from the device.

        Raises:
            SelectionMisuse: a batch was not observed yet.
            NonFiniteLoss: as when an epoch goes on.
        """
        if self._batch is not None and not self._batch.observed:
            raise SelectionMisuse(
                f"a batch of epoch {self.index} is under way: take the state once it is observed"
            )
        self._read_device()
        plan = self._plan
        waiting = joined(self._waiting, self._selection.join) if self._waiting else None
        columns = {
            "ids": plan.ids,
            "weights": plan.weights,
            "forced": plan.forced,
            "waiting_ids": None if waiting is None else waiting.ids,
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
            "steps": self._steps,
            "read": self._read,
            "rows": self._rows,
            "weight_sum": self._weight_sum,
            "weight_squares": self._weight_squares,
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
        epoch._steps = epoch._first_pending = found["steps"]
        epoch._read, epoch._rows = found["read"], found["rows"]
        epoch._weight_sum, epoch._weight_squares = found["weight_sum"], found["weight_squares"]
        ids, views = found["waiting_ids"], found["waiting_views"]
        if ids is not None and len(ids):
            rows = selection.read_again(ids, views, state.get("waiting_data"))
            known = {"targets": state["waiting_targets"], "features": state.get("waiting_features")}
            epoch._waiting = [rows._replace(**known)]
        return epoch

    def _as_planned(self) -> Iterator[Batch]:
        """The plan's own batches, in their order."""
        plan, selection = self._plan, self._selection
        rows = selection.batch_size
        keep = len(self) * rows if selection.drop_last else len(plan.ids)
        self.counts["deferred"] = max(0, len(plan.ids) - keep)
        forced = np.zeros(len(plan.ids), dtype=bool) if plan.forced is None else plan.forced
        for found in selection.read(plan.ids[self._read : keep], rows, targets=True):
            start, self._read = self._read, self._read + len(found.ids)
            here = slice(start, self._read)
            importance = None if plan.weights is None else plan.weights[here]
            yield self._make(found, forced[here], importance, start)

    def _gate_now(self) -> Iterator[Batch]:
        """Reads batches, keeps the rows that fail, and trains whenever a full batch has come."""
        selection, size = self._selection, self._selection.batch_size
        weight_of = None
        if self._plan.weights is not None:
            weight_of = np.zeros(len(selection.ledger), dtype=np.float32)
            weight_of[self._plan.ids] = self._plan.weights
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
                seen, labels = selection.with_labels(found)
                kept = seen.where(self._look(seen, labels))
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

    def _look(self, rows: Rows, labels: Tensor) -> Mask:
        """A look between two steps: an earlier step that went wrong is reported before it."""
        try:
            return self._selection.look(rows, labels, step=self._steps)
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
        self._weight_sum += count if weights is None else float(weights.sum())
        self._weight_squares += (
            count if weights is None else float(np.square(weights, dtype=np.float64).sum())
        )
        self._rows += count
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
        self._steps += 1
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
        """Enter all that is pending into the ledger, unless something of it is not finite."""
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
            failed = np.ones(len(ids), dtype=bool)
            if not self._gated_now:
                failed = self._selection.enter(ids, seen, screening=False)
            participated = failed & ~forced
            self._selection.ledger.trained(
                ids, participated=participated, forced=forced, losses=losses
            )
            self._first_pending = self._steps
            self.counts["participations"] += int(participated.sum())
            self.counts["forced"] += int(forced.sum())
            self.counts["idle"] += int((~failed & ~forced).sum())

    def _refuse_non_finite(
        self, batches: list[Ids], confidence: NDArray[np.float32], losses: NDArray[np.float32]
    ) -> None:
        bad = ~np.isfinite(confidence) | ~np.isfinite(losses)
        if not bad.any():
            return
        ends = np.cumsum([len(ids) for ids in batches])
        first = int(np.searchsorted(ends, int(np.argmax(bad)), side="right"))
        rows = slice(ends[first] - len(batches[first]), ends[first])
        raise NonFiniteLoss(
            epoch=self.index,
            step=self._first_pending + first,
            ids=batches[first][bad[rows]].tolist(),
            what="the output" if not np.isfinite(confidence[rows]).all() else "the loss",
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
        forced: bool numpy (rows,), rows that were not the gate's choice.
    """

    def __init__(
        self, *, rows: Rows, weights: Tensor | None, progress: float, forced: Mask, epoch: Epoch
    ):
        self.ids, _, self.data, self.targets, features = rows
        self.features = features or {}
        self.progress, self.forced = progress, forced
        self.observed = False
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
        them; by default this batch's own.

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
        return total / (len(self.ids) if rows is None else rows)

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
