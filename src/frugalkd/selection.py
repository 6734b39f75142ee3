"""Selection: data set + policy + targets -> epochs of batches, for any training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import concatenate, recursively_apply, send_to_device
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd import draws
from frugalkd.batches import call, inputs_of, split
from frugalkd.data.source import open_source
from frugalkd.errors import NonFiniteLoss, SelectionMisuse, TargetsError, UnsupportedData
from frugalkd.gate import look
from frugalkd.ledger import Ledger
from frugalkd.looking import looking
from frugalkd.meters import Meters
from frugalkd.policies import All, Moment, Plan, Policy, Ungated
from frugalkd.policies._policy import Ids, Mask
from frugalkd.teachers import Targets
from frugalkd.verdict import Look

CHECK_EVERY = 50
"""Steps between two readings of what the device has observed (a reading waits for the device)."""


class Selection:
    """Decides, epoch by epoch, which samples a model trains on, and remembers how they fared.

    ```python
    selection = Selection(dataset, policy=SelfRegulation(), epochs=30, batch_size=128, model=model)
    for epoch in selection:  # screens what is due, then plans
        for batch in epoch:  # .ids .weights .data .targets .progress
            x, y = batch.data
            logits = model(x)
            loss = batch.reduce(loss_per_sample(logits, y))
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            batch.observe(logits, y)
    ```

    Args:
        dataset: map-style; a sample's id is its position. With a method ``batch(ids, views)`` it is
            asked for whole batches, with ``view(id, view)`` for a sample's view, else by ``[id]``.
        policy: who takes part (default: everyone).
        epochs: how many; the last one may be a fraction.
        batch_size: rows of a batch.
        seed: of the order and of every draw; the order is a function of (seed, epoch).
        weights: float32 (samples,), or None for 1. Used as they are; a sample of weight 0 never
            takes part.
        targets: where soft targets come from, or None.
        model: what is trained. Policies with a gate need it, ``forward`` or not: a look puts it
            into eval mode and back.
        forward: how to get logits (rows, classes) from a batch's data when looking; by default
            ``model(inputs)``.
        labels: how to get labels int64 (rows,) from a batch's data; by default those of a pair or
            a mapping; without labels the teacher's top class stands in.
        collate, num_workers, pin_memory: as in torch's DataLoader.
        drop_last: leave out a last batch that is short.
        screen_batch: rows of one batch when sleepers are screened.
        device: where batches go.
        ledger: to go on from; by default a new one.
        meters: to count in; by default new ones.

    Raises:
        UnsupportedData: an iterable data set, or an empty one.
        ValueError: weights of the wrong length, negative, not finite, or none above 0.
        SelectionMisuse: a policy with a gate, and no model for it to look with.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        policy: Policy | None = None,
        epochs: float,
        batch_size: int,
        seed: int = 0,
        weights: NDArray[np.float32] | None = None,
        targets: Targets | None = None,
        model: nn.Module | None = None,
        forward: Callable[[Any], Tensor] | None = None,
        labels: Callable[[Any], Tensor | None] | None = None,
        collate: Callable[[list], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        screen_batch: int = 256,
        device: torch.device | str = "cpu",
        ledger: Ledger | None = None,
        meters: Meters | None = None,
    ):
        self.policy = policy or All()
        self.source = open_source(
            dataset, collate=collate, num_workers=num_workers, pin_memory=pin_memory
        )
        samples = len(dataset)  # pyright: ignore[reportArgumentType]
        if samples == 0:
            raise UnsupportedData("the data set is empty: there is nothing to select from")
        if not epochs > 0 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be positive: {epochs}, {batch_size}")
        if model is None and not isinstance(self.policy, Ungated):
            raise SelectionMisuse(
                f"{type(self.policy).__name__} looks at samples before training on them: pass "
                "model= to the selection"
            )
        self.epochs, self.batch_size, self.seed = float(epochs), batch_size, seed
        self.weights = None if weights is None else _checked(weights, samples)
        self.pool: Ids = np.arange(samples)
        if self.weights is not None:
            self.pool = np.flatnonzero(self.weights)
        self.targets, self.model = targets, model
        self._forward = forward or (lambda data: call(model, inputs_of(data)))
        self._labels = labels or (lambda data: split(data)[1])
        self.drop_last, self.screen_batch, self.device = drop_last, screen_batch, device
        self.ledger = ledger or Ledger.new(samples, extra=self.policy.columns)
        if len(self.ledger) != samples:
            raise UnsupportedData(
                f"a ledger of {len(self.ledger)} samples for a data set of {samples}"
            )
        if "teacher_truth" in self.ledger.columns:
            if targets is None:
                raise TargetsError("this policy asks what the teacher knows: pass stored targets")
            self.ledger["teacher_truth"][:] = targets.truth(getattr(dataset, "labels", None))
        self.meters = meters or Meters()
        self.epoch = 0
        """The epoch to come, or under way."""
        self._current: Epoch | None = None

    def __iter__(self) -> Iterator[Epoch]:
        while self.epoch < self.epochs:
            epoch = self._current = Epoch(self, *self._plan())
            yield epoch
            if not epoch.finished:
                raise SelectionMisuse(
                    f"epoch {self.epoch} was left before its last batch: finish its loop, or break "
                    "out of both loops"
                )
            self.epoch += 1

    def __len__(self) -> int:
        """Epochs, a last part counted as one."""
        return math.ceil(self.epochs)

    def state_dict(self) -> dict[str, Any]:
        """What another selection, made alike, needs to go on with the next epoch.

        Inside the loop over epochs it may be taken before an epoch's batches, or after them.

        Raises:
            SelectionMisuse: taken between an epoch's batches.
        """
        current, coming = self._current, self.epoch
        if current is not None and current.index == coming and current.begun:
            if not current.finished:
                raise SelectionMisuse(
                    f"epoch {coming} is under way: take the state after its last batch"
                )
            coming += 1
        return {
            "epoch": coming,
            "seed": self.seed,
            "epochs": self.ledger.epochs,
            "columns": {k: torch.from_numpy(v.copy()) for k, v in self.ledger.columns.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            SelectionMisuse: the state is of another seed or another number of samples.
        """
        columns = {name: column.numpy().copy() for name, column in state["columns"].items()}
        if state["seed"] != self.seed or len(columns["visits"]) != len(self.ledger):
            raise SelectionMisuse("this state belongs to a selection with another seed or data set")
        self.epoch, self._current = state["epoch"], None
        self.ledger.columns = columns
        self.ledger.epochs = state["epochs"]

    # What an epoch is made of.

    @property
    def part(self) -> float:
        """How much of the coming epoch is trained: 1, or the rest of fractional epochs."""
        return min(1.0, self.epochs - self.epoch)

    def _plan(self) -> tuple[Plan, int]:
        """The epoch's plan in its order, and how many sleepers were screened for it."""
        at = Moment(self.epoch, self.epochs, self.seed)
        plan = self.policy.plan(self.ledger, self.pool, at)
        screened = len(plan.screen)
        if screened:
            with self.meters.phase("screen"):
                self._screen(plan.screen)
            plan = self.policy.plan(self.ledger, self.pool, at)
        key = draws.hash64(self.seed, draws.stream("order"), self.epoch, plan.ids)
        order = np.argsort(key, kind="stable")[: round(self.part * len(plan.ids))]
        return Plan(
            plan.ids[order],
            None if plan.weights is None else plan.weights[order],
            None if plan.forced is None else plan.forced[order],
            lr_factor=plan.lr_factor,
        ), screened

    def views(self, ids: Ids) -> Ids:
        """The view in which each sample is to be seen now."""
        views = self.ledger.views(ids, self.epoch)
        limit = None if self.targets is None else self.targets.views
        return views if limit is None else views % limit

    def read(self, ids: Ids, rows: int) -> Iterator[tuple[Ids, Ids, Any]]:
        """Batches of ``rows`` in the order of ``ids``: their ids, views and data on the device."""
        blocks = [ids[start : start + rows] for start in range(0, len(ids), rows)]
        requests = [(block, self.views(block)) for block in blocks]
        batches = self.source.batches(requests)
        for block, views in requests:
            with self.meters.phase("load"):
                data = send_to_device(next(batches), self.device, non_blocking=True)
            yield block, views, data

    def fetch_targets(self, ids: Ids, views: Ids, data: Any) -> Tensor | None:
        if self.targets is None:
            return None
        with self.meters.phase("teacher"):
            before = self.targets.queries
            targets = self.targets.fetch(ids, views, data)
            self.meters.teacher_queries += self.targets.queries - before
        return targets

    def label(self, data: Any, targets: Tensor | None) -> Tensor:
        """The batch's labels, or the teacher's top class where the data have none."""
        labels = self._labels(data)
        if labels is not None:
            return labels
        if targets is None:
            raise UnsupportedData("these data have no labels, and there is no teacher to stand in")
        return targets.argmax(dim=1)

    def look(self, ids: Ids, views: Ids, data: Any, *, step: int = 0) -> Mask:
        """A first look without gradients: enters the verdicts and says which rows fail.

        ``step`` is the epoch's step to come, for the error where an output is not finite.
        """
        assert self.model is not None, "refused when the selection was made"
        labels = self._labels(data)
        if labels is None:
            labels = self.label(data, self.fetch_targets(ids, views, data))
        with looking(self.model):
            seen = look(self._forward(data), labels)
        self.meters.student_forwards += len(ids)
        seen = Look(*(part.cpu().numpy() for part in seen))
        bad = ids[~np.isfinite(seen.confidence)]
        if len(bad):
            raise NonFiniteLoss(
                epoch=self.epoch, step=step, ids=bad.tolist(), what="a screening's output"
            )
        return self.enter(ids, seen, screening=True)

    def enter(self, ids: Ids, seen: Look, *, screening: bool) -> Mask:
        """Judge a look (arrays) and enter it into the ledger; returns which rows failed."""
        failed = self.policy.admit(seen, ids, self.ledger)
        self.ledger.record(
            ids,
            epoch=self.epoch,
            confidence=seen.confidence,
            correct=seen.correct,
            failed=failed,
            screening=screening,
        )
        sleep = self.policy.sleep(self.ledger["streak"][ids])
        # A screening decides about this very epoch, a training forward about the next.
        due = np.minimum(self.epoch + sleep + (0 if screening else 1), 65535)
        self.ledger["due"][ids] = due
        return failed

    def _screen(self, ids: Ids) -> None:
        for block, views, data in self.read(ids, self.screen_batch):
            self.look(block, views, data)


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
        self._pending: list[tuple[Ids, Mask, Look, Tensor]] = []
        self._steps = self._first_pending = 0
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
            yield batch
            if not batch.observed:
                raise SelectionMisuse(
                    f"the batch at epoch {self.index}, step {self._steps} was not observed: call "
                    "batch.observe(logits, labels) once for each batch"
                )
            self._steps += 1
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

    def _as_planned(self) -> Iterator[Batch]:
        """The plan's own batches, in their order."""
        plan, selection = self._plan, self._selection
        rows = selection.batch_size
        keep = len(self) * rows if selection.drop_last else len(plan.ids)
        self.counts["deferred"] = max(0, len(plan.ids) - keep)
        forced = np.zeros(len(plan.ids), dtype=bool) if plan.forced is None else plan.forced
        start = 0
        for ids, views, data in selection.read(plan.ids[:keep], rows):
            rows_here = slice(start, start + len(ids))
            importance = None if plan.weights is None else plan.weights[rows_here]
            yield self._make(ids, views, data, forced[rows_here], importance, start)
            start += len(ids)

    def _gate_now(self) -> Iterator[Batch]:
        """Reads batches, keeps the rows that fail, and trains whenever a full batch has come."""
        selection, size = self._selection, self._selection.batch_size
        weight_of = None
        if self._plan.weights is not None:
            weight_of = np.zeros(len(selection.ledger), dtype=np.float32)
            weight_of[self._plan.ids] = self._plan.weights
        waiting_ids, waiting_views = np.empty(0, np.int64), np.empty(0, np.int64)
        waiting: Any = None
        read = 0

        def take(rows: int) -> Batch:
            nonlocal waiting, waiting_ids, waiting_views
            ids, views, data = waiting_ids[:rows], waiting_views[:rows], _rows(waiting, slice(rows))
            waiting = _rows(waiting, slice(rows, None))
            waiting_ids, waiting_views = waiting_ids[rows:], waiting_views[rows:]
            importance = None if weight_of is None else weight_of[ids]
            return self._make(ids, views, data, np.zeros(rows, dtype=bool), importance, read)

        for block, (ids, views, data) in enumerate(selection.read(self._plan.ids, size)):
            # Rows read before this block, as in a plain loop: the last flush is not at progress 1.
            read = block * size
            with selection.meters.phase("screen"):
                failed = self._look(ids, views, data)
                index = torch.from_numpy(np.flatnonzero(failed)).to(selection.device)
                kept = _rows(data, index)
                waiting = kept if waiting is None else concatenate([waiting, kept])
            waiting_ids = np.concatenate([waiting_ids, ids[failed]])
            waiting_views = np.concatenate([waiting_views, views[failed]])
            if len(waiting_ids) >= size:
                yield take(size)
        if len(waiting_ids) and not selection.drop_last:
            yield take(len(waiting_ids))
        self.counts["deferred"] += len(waiting_ids)

    def _look(self, ids: Ids, views: Ids, data: Any) -> Mask:
        """A look between two steps: an earlier step that went wrong is reported before it."""
        try:
            return self._selection.look(ids, views, data, step=self._steps)
        except NonFiniteLoss:
            self._read_device()
            raise

    def _make(
        self,
        ids: Ids,
        views: Ids,
        data: Any,
        forced: Mask,
        importance: NDArray[np.float32] | None,
        consumed: int,
    ) -> Batch:
        selection = self._selection
        weights = np.ones(len(ids), dtype=np.float32)
        if selection.weights is not None:
            weights = weights * selection.weights[ids]
        if importance is not None:
            weights = weights * importance
        self._weight_sum += float(weights.sum())
        self._weight_squares += float(np.square(weights, dtype=np.float64).sum())
        self._rows += len(ids)
        done = selection.part * consumed / max(1, self.planned)
        return Batch(
            ids=ids,
            weights=torch.from_numpy(weights).to(selection.device, non_blocking=True),
            data=data,
            targets=selection.fetch_targets(ids, views, data),
            progress=(self.index + done) / selection.epochs,
            forced=forced,
            epoch=self,
        )

    def observe(self, batch: Batch, seen: Look, losses: Tensor) -> None:
        """Keep what the device has to say of a batch until it is read."""
        meters = self._selection.meters
        meters.samples_backpropagated += len(batch.ids)
        meters.student_forwards += len(batch.ids)
        self._pending.append((batch.ids, batch.forced, seen, losses))

    def _read_device(self) -> None:
        """Enter all that is pending into the ledger, unless something of it is not finite."""
        if not self._pending:
            return
        with self._selection.meters.phase("ledger"):
            pending, self._pending = self._pending, []
            ids = np.concatenate([entry[0] for entry in pending])
            forced = np.concatenate([entry[1] for entry in pending])
            looks = zip(*(entry[2] for entry in pending), strict=True)
            seen = Look(*(torch.cat(parts).cpu().numpy() for parts in looks))
            losses = torch.cat([entry[3] for entry in pending]).float().cpu().numpy()
            self._refuse_non_finite([entry[0] for entry in pending], seen.confidence, losses)
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


class Batch:
    """Rows to train on.

    Attributes:
        ids: int64 numpy (rows,).
        weights: float32 (rows,) on the device.
        data: what the data set's collation gives, on the device.
        targets: the teacher's logits (rows, classes), or None.
        progress: of the whole training, in [0, 1), before this batch.
        forced: bool numpy (rows,), rows that were not the gate's choice.
    """

    def __init__(
        self,
        *,
        ids: Ids,
        weights: Tensor,
        data: Any,
        targets: Tensor | None,
        progress: float,
        forced: Mask,
        epoch: Epoch,
    ):
        self.ids, self.weights, self.data, self.targets = ids, weights, data, targets
        self.progress, self.forced = progress, forced
        self.observed = False
        self._epoch = epoch

    @property
    def labels(self) -> Tensor:
        """int64 (rows,): the data's labels, or the teacher's top class where they have none."""
        return self._epoch._selection.label(self.data, self.targets)

    def reduce(self, losses: Tensor) -> Tensor:
        """sum(weight * loss) / rows, a scalar, from one loss per row.

        Raises:
            SelectionMisuse: ``losses`` is not one value a row.
        """
        if losses.shape != self.weights.shape:
            raise SelectionMisuse(
                f"losses of shape {tuple(losses.shape)} for {len(self.ids)} rows: give one loss a "
                "row (reduction='none')"
            )
        return (self.weights * losses).sum() / len(self.ids)

    def observe(
        self, logits: Tensor, labels: Tensor | None = None, losses: Tensor | None = None
    ) -> None:
        """Tell the ledger how these rows fared in the training forward.

        Args:
            logits: (rows, classes).
            labels: int64 (rows,); by default the batch's own.
            losses: (rows,), what the objective gave, unweighted; by default cross-entropy.

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
        self._epoch.observe(self, look(logits, labels), losses.detach())
        self.observed = True


def _checked(weights: ArrayLike, samples: int) -> NDArray[np.float32]:
    """One weight a sample, float32."""
    made = np.asarray(weights, dtype=np.float32)
    if made.shape != (samples,) or not (np.isfinite(made) & (made >= 0)).all() or not made.any():
        raise ValueError(
            f"weights: {samples} finite values, 0 or more, are needed, some of them above 0"
        )
    return made


def _rows(data: Any, index: Any) -> Any:
    """The rows ``index`` of every tensor in ``data``."""
    return recursively_apply(lambda tensor: tensor[index], data, error_on_other_type=True)
