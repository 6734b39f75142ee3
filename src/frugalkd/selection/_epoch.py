"""The current epoch: its plan as batches, which a training loop trains on and observes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.batches import checked_labels, checked_logits, form
from frugalkd.errors import SelectionMisuse, Stopped
from frugalkd.policies import Mask, Plan
from frugalkd.selection.observer import Context, Observer
from frugalkd.selection.rows import Reader, Rows, batches_of, joined

CHECK_EVERY = 50
"""Steps between two readings of what the device has observed (a reading waits for the device)."""


class Batch:
    """Rows to train on.

    Attributes:
        ids: int64 numpy (rows,).
        weights: float32 (rows,) on the device.
        data: what the data set's collation gives, on the device.
        targets: the teacher's logits (rows, classes), or None.
        features: of the teacher, (rows, ...) by module path; those that the selection fetches.
        progress: of the whole training, in [0, 1), before this batch: what is spent of the budget
            where there is one, else of the epochs.
        progress_after: the same after the optimiser step that it belongs to.
        index: how many batches of the epoch came before.
        begins_step, ends_step: whether it is the first, and the last, batch of an optimiser step.
        step_rows: rows of that step, of this rank.
        step_tokens: learned tokens of that step, the mean of the ranks; 0 where data are of none.
        forced: bool numpy (rows,), rows that were not the gate's choice.
        observed: :meth:`observe` was called.
    """

    def __init__(
        self,
        rows: Rows,
        weights: Tensor | None,
        progress: tuple[float, float],
        index: int,
        forced: Mask,
        reader: Reader,
        observer: Observer,
        *,
        step_rows: int | None = None,
        step_tokens: float = 0.0,
        begins_step: bool = True,
        ends_step: bool = True,
    ):
        self.ids, self._views, self.data, self.targets, features = rows
        self.features = features or {}
        self.progress, self.progress_after = progress
        self.index, self.forced, self.observed = index, forced, False
        self.step_rows = len(self.ids) if step_rows is None else step_rows
        self.step_tokens = step_tokens
        self.begins_step, self.ends_step = begins_step, ends_step
        self._weights, self._reader, self._observer = weights, reader, observer

    @property
    def weights(self) -> Tensor:
        """float32 (rows,) on the device, made here where all of them are 1."""
        if self._weights is None:
            self._weights = torch.ones(len(self.ids), device=self._reader.device)
        return self._weights

    @weights.setter
    def weights(self, weights: Tensor) -> None:
        self._weights = weights

    @property
    def labels(self) -> Tensor:
        """int64 (rows,): the data's labels, or the teacher's top class where they have none; of
        another kind of output, what :mod:`frugalkd.outputs` says of it."""
        return self._reader.label(self.data, self.targets)

    @property
    def weighted(self) -> bool:
        """Whether a row may weigh anything but 1."""
        return self._weights is not None

    def reduce(self, losses: Tensor, rows: int | None = None) -> Tensor:
        """sum(weight * loss) / rows, a scalar, from one loss per row; ``rows`` is by default
        ``step_rows``. Several ranks average their gradients, and have as many rows each: together
        it is then over the global batch. Raises SelectionMisuse."""
        self._check_rows("losses", losses)
        if self._weights is not None:
            losses = self._weights * losses
        # Half precision is not enough for a sum.
        total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
        return total / (self.step_rows if rows is None else rows)

    def _check_rows(self, what: str, given: object) -> None:
        rows, wide = len(self.ids), what == "labels"  # which may be several of a row
        shape = given.shape[: 1 if wide else None] if isinstance(given, Tensor) else None
        if not isinstance(given, Tensor) or shape != (rows,) or given.is_meta:
            wanted = "one loss a row (reduction='none')" if what == "losses" else "one a row"
            raise SelectionMisuse(f"{what} are {form(given)} for {rows} rows: give {wanted}")

    def observe(
        self,
        logits: Tensor,
        labels: Tensor | None = None,
        losses: Tensor | None = None,
        *,
        later: bool = False,
    ) -> None:
        """Record the outcome of the training forward of these rows in the ledger.

        Args:
            logits: (rows, classes), or the outputs of another kind.
            labels: int64 (rows,); by default the batch's own.
            losses: (rows,), what the objective gave, unweighted; by default cross-entropy.
            later: True promises that these tensors are not modified afterwards. Several batches
                are then evaluated together, which is cheaper.

        Raises:
            SelectionMisuse: called twice, or an argument has another number of rows.
        """
        if self.observed:
            raise SelectionMisuse("this batch was observed already: observe each batch once")
        checked_logits(logits, len(self.ids), "the training loop", SelectionMisuse)
        output = self._reader.output
        if labels is not None:
            labels = checked_labels(labels, output)
        else:  # where the loop compares, nothing reads them
            labels = logits.new_zeros(len(logits)) if output.by_loop else self.labels
        for what, given in (("labels", labels), ("losses", losses)):
            if given is not None:
                self._check_rows(what, given)
        output.check(labels, self.ids, logits.shape[1])
        if losses is None:
            losses = output.losses(logits, labels)
        both = self._reader.judged_by(labels, self.targets), labels
        mixed = self._reader.mixed(self.ids, self._views)
        self._observer.observe(
            self.ids, self.forced, mixed, logits.detach(), both, losses.detach(), later
        )
        self.observed = True

    def stepped(self, bad: Tensor) -> None:
        """Report the optimiser step of this batch, after :meth:`observe`: ``bad``, a float32
        scalar on the device, is 0 if its gradients were finite. It is read together with the
        losses, so that no step waits for the device."""
        self._observer.stepped(bad)


class Epoch:
    """The batches of one epoch; they can be iterated once.

    Attributes:
        index: from 0.
        part: how much of the epoch is trained: 1, or the rest of fractional epochs.
        planned: ids that train (under gate-now: that are read).
        screened: skipped samples that were screened before the epoch.
        disbelieved: samples that are left out because their labels are disbelieved.
        lr_factor: what the learning rate is multiplied by.
        counts: rows by kind: participations, idle, forced, and ``deferred`` (planned, but in a
            last batch that was dropped, not divisible among the ranks, or a single last row).
        resumed: batches that were trained on before it was resumed; 0 under gate-now.
        begun: its iteration has begun.
        finished: every batch was trained on and observed.
    """

    def __init__(
        self, context: Context, observer: Observer, plan: Plan, screened: int, deferred: int
    ):
        at = observer.at
        self.index, self.part = at.epoch, at.part
        self.planned, self.screened, self.lr_factor = len(plan.ids), screened, plan.lr_factor
        self.disbelieved = len(plan.disbelieved)
        self.begun = self.finished = False
        self._context, self._observer, self._plan = context, observer, plan
        self._gated_now = context.gates_now(plan)
        observer.begin(judged=self._gated_now)
        self._deferred = deferred
        self._read = 0  # rows of the plan that batches were made of, or that were screened
        self._waiting: list[Rows] = []  # under gate-now: rows that failed, not yet a batch
        self._waiting_ids = plan.ids[:0]  # the same of several ranks, which all know of all of them
        self._kept = [plan.ids[:0]]  # under gate-now: ids of the batches of all ranks
        self._batch: Batch | None = None
        self._made = 0  # batches
        self.resumed, self._resumed_rows = 0, 0
        self._span: tuple[float, float] | None = None  # progress at the begin and at the end
        if total := context.planned_rows:
            last, paid = at.epoch + 1 >= context.epochs, context.policy.paid(at)
            ends = 1.0 if last else min(1.0, (paid + self.planned) / total)
            self._span = min(paid / total, ends), ends
        self._sums = np.zeros(3)  # rows, weights, squared weights of this rank's batches
        self._totals = self._sums  # the same of all ranks, as of the last merge

    @property
    def counts(self) -> dict[str, int]:
        return {**self._observer.counts, "deferred": self._deferred}

    def progress_at(self, share: float) -> float:
        """The progress of the whole training, in [0, 1], where ``share`` of this epoch is done."""
        if self._span is None:
            return (self.index + self.part * share) / self._context.epochs
        return self._span[0] + (self._span[1] - self._span[0]) * share

    def __len__(self) -> int:
        """Batches; under gate-now the most that there can be. Where an epoch is resumed with other
        batches, those before count as if they had had as many rows."""
        context = self._context
        size = context.batch_size * context.ranks.world
        full = context.drop_last or not context.ranks.alone
        return self.resumed + batches_of(self.planned - self._resumed_rows, size, drop_last=full)

    def __iter__(self) -> Iterator[Batch]:
        if self.begun:
            raise SelectionMisuse(f"epoch {self.index} has begun already: an epoch runs once")
        self.begun = True
        context, observer = self._context, self._observer
        batches = self._as_planned()
        if self._gated_now:
            batches = self._gate_now() if context.ranks.alone else self._gate_now_together()
        for batch in batches:
            self._batch = batch
            yield batch
            if not batch.observed:
                raise SelectionMisuse(
                    f"the batch at epoch {self.index}, step {observer.batches} was not observed: "
                    "call batch.observe(logits, labels) once for each batch"
                )
            if observer.batches % (CHECK_EVERY * context.gradient_accumulation_steps) == 0:
                observer.read()
        self._merge()
        context.ledger.epochs += self.part
        context.position.step = 0
        self.finished = True

    @property
    def trained(self) -> Plan:
        """What the finished epoch used for training: its rows in order, their weights."""
        ids, weights, own = self._plan.ids, self._weight_of(), self._context.weights
        ids = np.concatenate(self._kept) if self._gated_now else ids[: int(self._totals[0])]
        if own is not None:
            weights = own if weights is None else own * weights
        weights = None if weights is None else weights[ids]
        return Plan(ids, weights, lr_factor=self.lr_factor)

    @property
    def summary(self) -> dict[str, float]:
        """The epoch in numbers; ``mean_weight`` and ``effective_samples`` of the rows trained."""
        rows, weights, squares = self._totals.tolist()
        return {
            "planned": self.planned,
            "screened": self.screened,
            "rows": int(rows),
            "steps": math.ceil(self._observer.batches / self._context.gradient_accumulation_steps),
            **self.counts,
            **({"disbelieved": self.disbelieved} if self.disbelieved else {}),
            "mean_weight": weights / rows if rows else 0.0,
            "effective_samples": weights**2 / squares if squares else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch is, between two batches; what several ranks have observed is merged.
        Raises SelectionMisuse within a step, NonFiniteLoss as when the epoch continues."""
        batch = self._batch
        if batch is not None and not (batch.observed and (batch.ends_step or self.finished)):
            raise SelectionMisuse(
                f"a step of epoch {self.index} is under way: take the state once its last batch is "
                "observed"
            )
        self._merge()
        plan, reader, rows = self._plan, self._context.reader, self._totals.tolist()
        waiting = Rows(self._waiting_ids, None, None)  # pyright: ignore[reportArgumentType]
        if self._waiting:
            waiting = joined(self._waiting, reader.join)
        columns = {
            "ids": plan.ids, "weights": plan.weights, "forced": plan.forced,
            "waiting_ids": waiting.ids, "waiting_views": waiting.views,
            "kept": np.concatenate(self._kept),
        }  # fmt: skip
        return {
            **{k: None if v is None else torch.from_numpy(v.copy()) for k, v in columns.items()},
            "waiting_targets": waiting.targets, "waiting_features": waiting.features,
            "waiting_data": reader.kept_data(waiting) if self._waiting else None,
            "lr_factor": self.lr_factor, "screened": self.screened, "counts": dict(self.counts),
            "disbelieved": self.disbelieved,
            "read": self._read, "rows": int(rows[0]),
            "weight_sum": rows[1], "weight_squares": rows[2],
        }  # fmt: skip

    @classmethod
    def from_state(cls, context: Context, observer: Observer, state: dict[str, Any]) -> Epoch:
        """The rest of the epoch that :meth:`state_dict` was taken of."""
        found: dict[str, Any] = {
            key: v.numpy() if isinstance(v, Tensor) else v for key, v in state.items()
        }
        plan = Plan(found["ids"], found["weights"], found["forced"], lr_factor=found["lr_factor"])
        epoch = cls(context, observer, plan, found["screened"], found["counts"]["deferred"])
        epoch.disbelieved = found.get("disbelieved", 0)
        # In steps of as many rows as this training's, which need not be those of the checkpoint's.
        steps = batches_of(found["rows"], context.step_rows)
        epoch._made = steps * context.gradient_accumulation_steps
        observer.begin(judged=epoch._gated_now, batches=epoch._made, counts=found["counts"])
        epoch._read, epoch._kept = found["read"], [found["kept"]]
        if not epoch._gated_now:
            epoch.resumed, epoch._resumed_rows = epoch._made, epoch._read
        epoch._totals = np.array([found[name] for name in ("rows", "weight_sum", "weight_squares")])
        epoch._sums = epoch._totals if context.ranks.first else np.zeros(3)
        if not (context.ranks.alone or epoch._gated_now):
            # The plan was perhaps made for other ranks: defer what is left above whole steps.
            over = (epoch.planned - epoch._read) % context.step_rows
            epoch._deferred += over
            epoch.planned -= over
            epoch._plan = plan.where(slice(0, epoch.planned))
        ids, views = found["waiting_ids"], found["waiting_views"]
        if not context.ranks.alone:
            epoch._waiting_ids = epoch._waiting_ids if ids is None else ids
        elif ids is not None and len(ids):
            rows = context.reader.at_once(ids, views, state["waiting_data"])
            known = {"targets": state["waiting_targets"], "features": state["waiting_features"]}
            epoch._waiting = [rows._replace(**known)]
        return epoch

    def _as_planned(self) -> Iterator[Batch]:
        """The plan's own batches, in their order: of each this rank's rows."""
        context, ranks = self._context, self._context.ranks
        rows, together = context.batch_size, context.gradient_accumulation_steps
        keep = self.planned
        if ranks.alone:
            if context.drop_last:
                keep = len(self) * rows
                self._deferred = self.planned - keep
            elif not batches_of(keep - self._read, rows):  # nothing, or one row and none to join
                self._deferred += keep - self._read
                keep = self._read
        plan = ranks.part_of(self._plan.where(slice(self._read, keep)), rows)
        forced = np.zeros(len(plan.ids), dtype=bool) if plan.forced is None else plan.forced
        end, tokens = 0, 0.0
        for found in context.reader.read(plan.ids, rows, targets=True, join_last=True):
            start, end = end, end + len(found.ids)
            before, self._read = self._read, self._read + len(found.ids) * ranks.world
            importance = None if plan.weights is None else plan.weights[start:end]
            number = self._observer.batches % together
            step = number * rows + len(plan.ids) - start
            if batches_of(step, rows) > together:
                step = together * rows
            ends = number == together - 1 or end == len(plan.ids)
            if number == 0:
                all_of_step = self._plan.ids[before : before + step * ranks.world]
                tokens = context.reader.tokens(all_of_step) / ranks.world
            place = {
                "step_rows": step, "step_tokens": tokens, "begins_step": number == 0,
                "ends_step": ends,
            }  # fmt: skip
            yield self._make(found, forced[start:end], importance, before, **place)

    def _gate_now(self) -> Iterator[Batch]:
        """Reads batches, keeps the rows that fail, and yields a batch whenever there are enough. A
        single row that remains is added to the last batch, or deferred if that was yielded already;
        if it is the only row of the epoch, a row that passes is added, forced."""
        context, reader, size = self._context, self._context.reader, self._context.batch_size
        weight_of, ids = self._weight_of(), self._plan.ids
        rows, filler = sum(len(part.ids) for part in self._waiting), -1
        # Rows read before the last block, as in a plain loop: the last flush is not at progress 1.
        whole = max(1, batches_of(len(ids), size)) * size  # from here on it is the last block
        before = max(0, min(self._read, whole) - 1) // size * size

        def take(count: int) -> Batch:
            nonlocal rows
            with context.meters.phase("load"):
                together = joined(self._waiting, reader.join)
            taken = reader.with_targets(together.part(0, count))
            self._kept.append(taken.ids)
            rest, rows = together.part(count, rows), rows - count
            self._waiting = [rest] if rows else []
            importance = None if weight_of is None else weight_of[taken.ids]
            tokens = reader.tokens(taken.ids)
            return self._make(taken, taken.ids == filler, importance, before, step_tokens=tokens)

        for found in reader.read(ids[self._read :], size, join_last=True):
            before, self._read = self._read, self._read + len(found.ids)
            with context.meters.phase("screen"):
                found, seen = self._observer.evaluate(found)
                kept = found.where(self._observer.judge(found.ids, seen))
            if len(kept.ids):  # no rows would still be as wide as they were padded
                self._waiting.append(kept)
            rows += len(kept.ids)
            if rows < size:
                self._stop_between()
            while rows >= size:
                ends = self._read == len(ids) and not context.drop_last
                joins = ends and batches_of(rows, size) == 1
                yield take(rows if joins else size)
        if rows == 1 and not (self._observer.batches or context.drop_last) and len(ids) > 1:
            # Where nothing trains, nothing changes, and this row would never be trained on.
            filler = ids[ids != self._waiting[0].ids][0]
            self._waiting.append(reader.at_once(np.array([filler])))
            rows = 2
        if rows == size or (rows > 1 and not context.drop_last):
            yield take(rows)
        self._deferred += rows

    def _gate_now_together(self) -> Iterator[Batch]:
        """The same with several ranks: the rows that fail on any rank fill one buffer of ids, and
        each rank reads its rows of a global batch again. An incomplete last batch is deferred."""
        context, reader, observer = self._context, self._context.reader, self._observer
        ranks, size = context.ranks, context.batch_size
        whole, ids = size * ranks.world, self._plan.ids
        weight_of = self._weight_of()
        before = max(0, self._read - 1) // whole * whole
        while self._read < len(ids):
            block = ids[self._read : self._read + whole]
            before, self._read = self._read, self._read + len(block)
            with context.meters.phase("screen"):
                rows, seen = observer.evaluate(reader.at_once(ranks.share(block)))
                every, seen = observer.together(rows.ids, seen)
                failed = every[observer.judge(every, seen)]
            self._waiting_ids = np.concatenate([self._waiting_ids, failed])
            if len(self._waiting_ids) < whole:
                self._stop_between()
                continue
            self._kept.append(self._waiting_ids[:whole])
            mine = self._waiting_ids[ranks.rank * size :][:size]
            self._waiting_ids = self._waiting_ids[whole:]
            rows = reader.with_targets(reader.at_once(mine))
            importance = None if weight_of is None else weight_of[mine]
            tokens = reader.tokens(self._kept[-1]) / ranks.world
            none = np.zeros(size, dtype=bool)
            yield self._make(rows, none, importance, before, step_tokens=tokens)
        self._deferred += len(self._waiting_ids)

    def _stop_between(self) -> None:
        if self._context.should_stop():
            raise Stopped(f"stopped between two screening passes of epoch {self.index}")

    def _weight_of(self) -> NDArray[np.float32] | None:
        """The plan's weight of each sample, where it has weights."""
        if self._plan.weights is None:
            return None
        weight_of = np.zeros(len(self._context.ledger), dtype=np.float32)
        weight_of[self._plan.ids] = self._plan.weights
        return weight_of

    def _make(
        self,
        rows: Rows,
        forced: Mask,
        importance: NDArray[np.float32] | None,
        consumed: int,
        **place: Any,
    ) -> Batch:
        """A batch before which ``consumed`` rows of the plan were read; ``place`` in its step."""
        context, count = self._context, len(rows.ids)
        weights = importance
        if context.weights is not None:
            weights = context.weights[rows.ids]
            weights = weights if importance is None else weights * importance
        self._sums += (
            count,
            count if weights is None else float(weights.sum()),
            count if weights is None else float(np.square(weights, dtype=np.float64).sum()),
        )
        planned = max(1, self.planned)
        done = consumed + place.get("step_rows", count) * context.ranks.world
        before, after = consumed / planned, min(1.0, done / planned)
        progress = self.progress_at(before), self.progress_at(after)
        index, self._made = self._made, self._made + 1
        if weights is not None:
            weights = torch.from_numpy(weights).to(context.reader.device, non_blocking=True)
        return Batch(
            rows, weights, progress, index, forced, context.reader, self._observer, **place,
        )  # fmt: skip

    def _merge(self) -> None:
        """Enter all that was observed into the ledger, on every rank that of all ranks."""
        context = self._context
        self._observer.read()
        if context.ranks.alone:
            return
        with context.meters.phase("merge"):
            self._observer.merge()
            self._totals = context.ranks.sum(self._sums)
            context.counts.share()
