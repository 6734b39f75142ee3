"""Selection: data set + policy + targets -> epochs of batches, for any training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import concatenate, send_to_device
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd import draws
from frugalkd.batches import call, inputs_of, split
from frugalkd.bucketing import bucketed, by_length, lengths_of
from frugalkd.checks import check_batch, check_same_data, labels_of, why_not_label_free
from frugalkd.data.probe import streams_restored
from frugalkd.data.protocols import is_batch_indexed, is_view_indexed
from frugalkd.data.source import open_source
from frugalkd.entering import enter
from frugalkd.epochs import Epoch
from frugalkd.errors import (
    FrugalKDWarning,
    NonFiniteLoss,
    RankError,
    SelectionMisuse,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.gate import look
from frugalkd.ledger import Ledger
from frugalkd.looking import looking
from frugalkd.meters import Meters
from frugalkd.policies import All, Moment, Plan, Policy
from frugalkd.policies._policy import Ids, Mask, check_plan
from frugalkd.ranks import Ranks
from frugalkd.reading import Join, Rows
from frugalkd.rounding import in_whole_steps
from frugalkd.teachers import Targets
from frugalkd.verdict import Look, joined_looks

_COUNTS = ("samples_backpropagated", "student_forwards", "teacher_queries")
"""Of the meters, what each rank counts for itself."""

BLOCK_BYTES = 1 << 22
"""What is read at once: within the caches, and large enough to hide what a call costs."""


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

    With several ranks (torchrun, accelerate launch) each has a selection made alike, and gets its
    own part of each global batch: all of them as many batches, of ``batch_size`` rows each. The
    model is then the loop's to wrap (DistributedDataParallel averages gradients, which makes the
    batch's loss that of the global batch); pass the bare one as ``model``.

    Args:
        dataset: map-style; a sample's id is its position. With a method ``batch(ids, views)`` it is
            asked for whole batches, with ``view(id, view)`` for a sample's view, else by ``[id]``.
        policy: who takes part (default: everyone).
        epochs: how many; the last one may be a fraction.
        batch_size: rows of a batch.
        seed: of the order and of every draw; the order is a function of (seed, epoch).
        weights: float32 (samples,), or None for 1. Used as they are; a sample of weight 0 never
            takes part.
        scores: float32 (samples,), for policies that need a scoring run (:mod:`frugalkd.scoring`).
        targets: where soft targets come from, or None.
        model: what is trained. Policies with a gate need it, ``forward`` or not: a look puts it
            into eval mode and back.
        forward: how to get logits (rows, classes) from a batch's data when looking; by default
            ``model(inputs)``.
        labels: how to get labels int64 (rows,) from a batch's data; by default those of a pair or
            a mapping; without labels the teacher's top class stands in.
        label_free: read no label: the teacher's top class stands in for all of them.
        collate, num_workers, pin_memory: as in torch's DataLoader.
        join: how several batches of data become one, for rows that wait under gate-now; by default
            the data set's own ``join``, or their tensors are concatenated. Where a batch is padded
            to its longest row, say how.
        bucket: batches whose rows are regrouped by the data set's ``lengths``, see
            :func:`frugalkd.bucketing.bucketed`; 0: not.
        drop_last: leave out a last batch that is short.
        accumulate: batches of one optimiser step: ``batch.reduce`` divides by the rows of all of
            them, ``batch.ends_step`` says when to step. Not for policies with ``when: now``.
        screen_batch: rows of one batch when sleepers are screened.
        device: where batches go.
        ledger: to go on from; by default a new one.
        meters: to count in; by default new ones.
        rank, world: which of how many processes this is, where torch.distributed is not to say it:
            ``world=1`` is a training of this process alone.

    Raises:
        UnsupportedData: an iterable data set, or an empty one.
        ValueError: weights of the wrong length, negative, not finite, or none above 0.
        SelectionMisuse: a policy with a gate, and no model for it to look with; one that needs
            scores, and none; or what needs a label where ``label_free`` reads none.
        LedgerError, TargetsError: a ledger to go on from, or stored targets, of other data.
        RankError: another rank or world than torch.distributed's, or too few samples for a step.
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
        scores: NDArray[np.float32] | None = None,
        targets: Targets | None = None,
        model: nn.Module | None = None,
        forward: Callable[[Any], Tensor] | None = None,
        labels: Callable[[Any], Tensor | None] | None = None,
        label_free: bool = False,
        collate: Callable[[list], Any] | None = None,
        join: Join | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        bucket: int = 0,
        accumulate: int = 1,
        screen_batch: int = 256,
        device: torch.device | str = "cpu",
        ledger: Ledger | None = None,
        meters: Meters | None = None,
        rank: int | None = None,
        world: int | None = None,
    ):
        self.policy = policy or All()
        self.source = open_source(
            dataset, collate=collate, num_workers=num_workers, pin_memory=pin_memory, seed=seed
        )
        samples = len(dataset)  # pyright: ignore[reportArgumentType]
        if samples == 0:
            raise UnsupportedData("the data set is empty: there is nothing to select from")
        if not epochs > 0 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be positive: {epochs}, {batch_size}")
        if accumulate < 1 or (accumulate > 1 and self.policy.when == "now"):
            raise SelectionMisuse(
                f"accumulate must be 1 or more, and 1 under when: now, not {accumulate}: there "
                "batches are gathered from the rows that fail, so raise batch_size instead"
            )
        if model is None and self.policy.looks:
            raise SelectionMisuse(
                f"{type(self.policy).__name__} looks at samples before training on them: pass "
                "model= to the selection"
            )
        self.epochs, self.batch_size, self.seed = float(epochs), batch_size, seed
        self.weights = None if weights is None else _checked(weights, samples)
        self.pool: Ids = np.arange(samples)
        if self.weights is not None:
            self.pool = np.flatnonzero(self.weights)
        self.ranks, self.accumulate = Ranks.here(rank, world), accumulate
        if not self.ranks.alone and len(self.pool) < self.step_rows:
            raise RankError(
                f"{len(self.pool)} samples are less than a step of {self.ranks.world} ranks with "
                f"{accumulate} batches of {batch_size} rows each: lower batch_size"
            )
        self.targets, self.model = targets, model
        self._forward = forward or (lambda data: call(model, inputs_of(data)))
        self._labels = labels or (lambda data: split(data)[1])
        self._label_free = label_free
        if label_free:
            self._do_without_labels()
        self.join: Join = join or getattr(dataset, "join", None) or concatenate
        self.bucket, self._lengths = bucket, lengths_of(dataset) if bucket else None
        self.drop_last, self.screen_batch, self.device = drop_last, screen_batch, device
        self.ledger = ledger or Ledger.new(samples, extra=self.policy.columns)
        if len(self.ledger) != samples:
            raise UnsupportedData(
                f"a ledger of {len(self.ledger)} samples for a data set of {samples}"
            )
        check_same_data(dataset, self.ledger, targets)
        if self.policy.asks_labels:
            self.ledger.labels = self._classes_beforehand(dataset)
        if "teacher_truth" in self.ledger.columns:
            if targets is None:
                raise TargetsError("this policy asks what the teacher knows: pass stored targets")
            self.ledger["teacher_truth"][:] = targets.truth(self._labels_beforehand(dataset))
        if self.policy.scoring is not None:
            if scores is None:
                raise SelectionMisuse(
                    f"{type(self.policy).__name__} needs the scores of a scoring run: pass "
                    f"scores=, made by frugalkd.scoring ({self.policy.scoring.kind!r})"
                )
            self.ledger["score"][:] = _one_a_sample("scores", scores, samples)
        if self.policy.judge == "teacher":
            if targets is None:
                raise TargetsError("this policy takes the teacher's word: pass targets")
            if not targets.knows_top:
                raise _no_top("is what this policy judges by")
        self.meters = meters or Meters()
        self._teachers = () if targets is None else tuple(targets.queries_of)
        self.meters.queries_of = dict.fromkeys(self._teachers, 0) | self.meters.queries_of
        self._repeats = is_view_indexed(dataset) or is_batch_indexed(dataset)
        self.epoch = 0
        """The epoch to come, or under way."""
        self._spent = 0  # samples backpropagated before the epoch to come
        self.classes: int | None = None
        """Of the model; where it is known, labels are checked against it as they are read."""
        self.features: tuple[str, ...] = ()
        """The teacher's modules whose features batches are to have."""
        self.stop: Callable[[], bool] = lambda: False
        """Asked after each look that no step comes after; Stopped is raised where it says True.
        The state may then be taken, unless it was a screening that was stopped."""
        self._counted = self._counts()  # by the meters, and known to be so on all ranks
        self._current: Epoch | None = None
        self._under_way: Epoch | None = None  # what a state was taken in the middle of

    def __iter__(self) -> Iterator[Epoch]:
        self._counted = self._counts()
        while self.epoch < self.epochs:
            epoch, self._under_way = self._under_way, None
            if epoch is None:
                plan, screened, deferred = self._plan()
                if plan.stop:
                    return
                epoch = Epoch(self, plan, screened, deferred)
            self._current = epoch
            yield epoch
            if not epoch.finished:
                raise SelectionMisuse(
                    f"epoch {self.epoch} was left before its last batch: finish its loop, or break "
                    "out of both loops"
                )
            self.epoch += 1
            self._spent += int(epoch.summary["rows"])

    def __len__(self) -> int:
        """Epochs, a last part counted as one."""
        return math.ceil(self.epochs)

    @property
    def budget(self) -> float:
        """Samples backpropagated so far, as a part of training on all of them in every epoch."""
        return self.meters.samples_backpropagated / (len(self.ledger) * self.epochs)

    def state_dict(self) -> dict[str, Any]:
        """What another selection, made alike, needs to go on from here: before an epoch, between
        its batches once the last one was observed, or after them. With several ranks all of them
        have to ask for it at the same place, and get the same.

        Raises:
            SelectionMisuse: a batch is under way.
            NonFiniteLoss: something of the epoch so far is not finite.
        """
        current, coming, under_way = self._current, self.epoch, self._under_way
        spent = self._spent
        if current is not None and current.index == coming and current.begun:
            under_way = None if current.finished else current
            coming += current.finished
            spent += int(current.summary["rows"]) if current.finished else 0
        inside = None if under_way is None else under_way.state_dict()
        self.count_together()
        return {
            "epoch": coming,
            "world": self.ranks.world,
            "seed": self.seed,
            "epochs": self.ledger.epochs,
            "spent": spent,
            "under_way": inside,
            "columns": {k: torch.from_numpy(v.copy()) for k, v in self.ledger.columns.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`. An epoch in whose middle it was taken comes first, with
        the batches that are left of it.

        On another number of ranks the ledger carries over, and the batches are others: that is a
        FrugalKDWarning.

        Raises:
            SelectionMisuse: the state is of another seed or another number of samples.
        """
        columns = {name: column.numpy().copy() for name, column in state["columns"].items()}
        if state["seed"] != self.seed or len(columns["visits"]) != len(self.ledger):
            raise SelectionMisuse("this state belongs to a selection with another seed or data set")
        self._say_other_world(state.get("world", 1))
        self.epoch, self._current = state["epoch"], None
        self.ledger.columns = columns
        self.ledger.epochs = state["epochs"]
        self._spent = int(state.get("spent", 0))
        inside = state["under_way"]
        self._under_way = None if inside is None else Epoch.from_state(self, inside)

    def _labels_beforehand(self, dataset: Dataset) -> Tensor | None:
        """Of every sample, for a ceiling; None where the teacher's top class stands in for them.

        Raises:
            UnsupportedData: the samples have labels, and the data set does not list them.
        """
        if self.policy.judge == "teacher" or self._label_free:
            return None
        listed = labels_of(dataset)
        if listed is not None:
            return torch.from_numpy(listed)
        first = self.pool[:1]
        with streams_restored():
            data = next(self.source.batches([(first, np.zeros_like(first))]))
        if self._labels(data) is not None:
            raise _no_labels("a ceiling")
        return None

    def _classes_beforehand(self, dataset: Dataset) -> NDArray[np.int32]:
        """Of every sample, for plans that share out by class."""
        listed = labels_of(dataset)
        if listed is None:
            raise _no_labels("a plan that is balanced by class")
        return listed.astype(np.int32)

    def _do_without_labels(self) -> None:
        targets = self.targets
        problem = why_not_label_free(
            self.policy,
            asks_teacher=targets is not None,
            targets_read_labels=targets is not None and targets.reads_labels,
        )
        if problem is not None:
            raise SelectionMisuse(problem)
        self._labels = lambda data: None

    def _say_other_world(self, world: int) -> None:
        if world != self.ranks.world and self.ranks.first:
            warnings.warn(
                f"going on with {self.ranks.world} ranks from a state of {world}: the ledger "
                "carries over, the samples come in other batches and another order",
                FrugalKDWarning,
                stacklevel=3,
            )

    # What an epoch is made of.

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step, on all ranks together."""
        return self.ranks.world * self.batch_size * self.accumulate

    def count_together(self) -> None:
        """Make the meters' counts those of all ranks, which have to call this at the same place."""
        if self.ranks.alone:
            return
        counts = self._counted + self.ranks.sum(self._counts() - self._counted)
        ours = counts[: len(_COUNTS)].tolist()
        for name, count in zip(_COUNTS, ours, strict=True):
            setattr(self.meters, name, int(count))
        for name, count in zip(self._teachers, counts[len(_COUNTS) :].tolist(), strict=True):
            self.meters.queries_of[name] = int(count)
        self._counted = counts

    def _counts(self) -> NDArray[np.float64]:
        counts = [getattr(self.meters, name) for name in _COUNTS]
        counts += [self.meters.queries_of[name] for name in self._teachers]
        return np.array(counts, dtype=np.float64)

    @property
    def part(self) -> float:
        """How much of the coming epoch is trained: 1, or the rest of fractional epochs."""
        return min(1.0, self.epochs - self.epoch)

    @property
    def _now(self) -> Moment:
        return Moment(self.epoch, self.epochs, self.seed, self._spent)

    def _plan(self) -> tuple[Plan, int, int]:
        """The epoch's plan in its order, how many sleepers were screened for it, and how many ids
        were deferred for steps that are whole."""
        at = self._now
        with self.meters.phase("ledger"):
            plan = self.policy.plan(self.ledger, self.pool, at)
        screened = len(plan.screen)
        if screened:
            with self.meters.phase("screen"):
                self._screen(plan.screen)
        with self.meters.phase("ledger"):
            if screened:
                plan = self.policy.plan(self.ledger, self.pool, at)
            check_plan(plan, len(self.ledger), self.policy)
            step, deferred = 1, 0
            if not (self.ranks.alone or plan.stop or self.gates_now(plan)):
                step = self.step_rows
                plan, deferred = in_whole_steps(plan, self.ledger, self.pool, step, self.policy, at)
            plan = self._ordered(plan, step)
            if not self.ranks.alone:
                given = (part for part in (plan.ids, plan.weights, plan.forced) if part is not None)
                self.ranks.check_same(f"the plan of epoch {self.epoch}", *given)
            return plan, screened, deferred

    def gates_now(self, plan: Plan) -> bool:
        """Whether a plan's ids are read for the gate to judge, rather than all trained on."""
        return self.policy.when == "now" and plan.forced is None

    def _ordered(self, plan: Plan, step: int) -> Plan:
        """The part of a plan that the coming epoch trains, in its order; it is a multiple of
        ``step`` rows where the plan is."""
        ids = draws.order(plan.ids, self.seed, draws.stream("order"), self.epoch)
        steps = round(self.part * len(ids) / step)
        ids = ids[: step * (steps if step == 1 else max(1, steps))]
        if self._lengths is not None:
            batch = self.batch_size * self.ranks.world
            ids = bucketed(ids, self._lengths, batch, self.bucket, self.seed, self.epoch)

        def of(values: NDArray | None) -> NDArray | None:
            """What the plan says of its ids, in their order."""
            if values is None:
                return None
            table = np.empty(len(self.ledger), dtype=values.dtype)
            table[plan.ids] = values
            return table[ids]

        return Plan(
            ids, of(plan.weights), of(plan.forced), lr_factor=plan.lr_factor, stop=plan.stop
        )

    def views(self, ids: Ids) -> Ids:
        """The view in which each sample is to be seen now."""
        views = self.ledger.views(ids, self.epoch)
        limit = None if self.targets is None else self.targets.views
        return views if limit is None else views % limit

    def read(self, ids: Ids, rows: int, *, targets: bool = False) -> Iterator[Rows]:
        """Batches of ``rows`` rows in the order of ``ids``, on the device.

        Where rows do not depend on their batch, several batches are read as one block and cut.
        ``targets``: with the teacher's logits, for rows that will all train.
        """
        soft = self.targets if targets else None
        # Features are as large as data: those of one batch at a time.
        in_blocks = soft is not None and soft.row_bytes is not None and not self.features
        at_once = rows
        if self.source.row_bytes is not None:
            row_bytes = self.source.row_bytes + (soft.row_bytes or 0 if soft is not None else 0)
            at_once *= max(1, BLOCK_BYTES // (rows * row_bytes))
        blocks = [ids[start : start + at_once] for start in range(0, len(ids), at_once)]
        requests = [(block, self.views(block)) for block in blocks]
        batches = self.source.batches(requests)
        for block, views in requests:
            with self.meters.phase(self.source.phase):
                data = next(batches)
                if self.classes is not None and (labels := self._labels(data)) is not None:
                    check_batch(labels, block, self.classes)
            with self.meters.phase("load"):
                found = Rows(block, views, send_to_device(data, self.device, non_blocking=True))
            if in_blocks:
                found = self.with_targets(found)
            for part in found.cut(rows):
                yield self.with_targets(part) if targets else part

    def kept_data(self, rows: Rows) -> Any:
        """What a state has to hold of rows that were read, so that they come back as they were:
        nothing where a data set gives the same again, or where their form is of the user's own."""
        return None if self._repeats or not _is_plain(rows.data) else rows.data

    def read_again(self, ids: Ids, views: Ids, data: Any) -> Rows:
        """Rows that were read before, in the views that they had then; ``data`` as kept."""
        if data is None:
            with self.meters.phase(self.source.phase):
                data = next(self.source.batches([(ids, views)]))
        return Rows(ids, views, send_to_device(data, self.device, non_blocking=True))

    def with_targets(self, rows: Rows) -> Rows:
        """The same rows with the teacher's logits, where there is a teacher."""
        targets, meters = self.targets, self.meters
        if targets is None or rows.targets is not None:
            return rows
        current = self._current
        step = 0 if current is None or current.finished else current.step
        targets.begin_step(self.epoch, step)
        asked, answered, each = targets.queries, targets.seconds, targets.queries_of
        with meters.phase(targets.phase):
            if self.features:
                logits, features = targets.fetch_features(
                    rows.ids, rows.views, rows.data, self.features
                )
            else:
                logits, features = targets.fetch(rows.ids, rows.views, rows.data), None
        meters.teacher_queries += targets.queries - asked
        for name, rows_of in targets.queries_of.items():
            meters.queries_of[name] += rows_of - each[name]
        if targets.phase != "teacher":
            meters.move(targets.seconds - answered, out_of=targets.phase, into="teacher")
        return rows._replace(targets=logits, features=features)

    def with_labels(self, rows: Rows) -> tuple[Rows, Tensor]:
        """The rows and what a look takes for right; the teacher is asked where it decides that."""
        labels = None if self.policy.judge == "teacher" else self._labels(rows.data)
        if labels is not None:
            return rows, labels
        rows = self.with_targets(rows)
        return rows, self.judged_by(self.label(rows.data, rows.targets), rows.targets)

    def judged_by(self, labels: Tensor, targets: Tensor | None) -> Tensor:
        """int64 (rows,): what a look takes for right, the labels or the teacher's top class."""
        if self.policy.judge == "label" or targets is None:
            return labels
        return targets.argmax(dim=1)

    def label(self, data: Any, targets: Tensor | None) -> Tensor:
        """The batch's labels, or the teacher's top class where the data have none."""
        labels = self._labels(data)
        if labels is not None:
            return labels
        if targets is None:
            raise UnsupportedData("these data have no labels, and there is no teacher to stand in")
        if self.targets is not None and not self.targets.knows_top:
            raise _no_top("stands in for the labels that these data lack")
        return targets.argmax(dim=1)

    def look(self, rows: Rows, labels: Tensor) -> Look:
        """A look without gradients, as arrays; ``labels`` int64 (rows,)."""
        assert self.model is not None, "refused when the selection was made"
        with looking(self.model):
            seen = self.see(self._forward(rows.data), labels)
        self.meters.student_forwards += len(rows.ids)
        return seen.each(lambda part: part.cpu().numpy())

    def judge(self, ids: Ids, seen: Look, *, step: int = 0) -> Mask:
        """Enter the verdicts of a look before training, and say which rows fail.

        ``step`` is the epoch's step to come, for the error where an output is not finite.
        """
        bad = ids[~np.isfinite(seen.confidence)]
        if len(bad):
            raise NonFiniteLoss(
                epoch=self.epoch, step=step, ids=bad.tolist(), what="a screening's output"
            )
        return self.enter(ids, seen, screening=True)

    def see(self, logits: Tensor, labels: Tensor) -> Look:
        """All that the policy wants to know of logits (rows, classes)."""
        return look(logits, labels, entropy=self.policy.sees_entropy)

    def enter(self, ids: Ids, seen: Look, *, screening: bool) -> Mask:
        """Judge a look (arrays) and enter it into the ledger; returns which rows failed."""
        return enter(self.policy, self.ledger, self._now, ids, seen, screening=screening)

    def _screen(self, ids: Ids) -> None:
        if self._lengths is not None:
            ids = by_length(ids, self._lengths)
        looks: list[tuple[Ids, Look]] = []  # with several ranks: told once, when all have looked
        for rows in self.read(self.ranks.share(ids), self.screen_batch):
            rows, labels = self.with_labels(rows)
            seen = self.look(rows, labels)
            if self.ranks.alone:
                self.judge(rows.ids, seen)
            else:
                looks.append((rows.ids, seen))
            if self.stop():
                raise Stopped(f"stopped in the screening before epoch {self.epoch}")
        if looks:
            parts, seen = zip(*looks, strict=True)
            self.judge(*self.seen_together(np.concatenate(parts), joined_looks(seen)))

    def seen_together(self, ids: Ids, seen: Look) -> tuple[Ids, Look]:
        """What all ranks have seen before training, of each sample once, in the ranks' order."""
        seen, ids = self.told(seen, ids)
        once = np.sort(np.unique(ids, return_index=True)[1])
        return ids[once], seen.each(lambda part: part[once])

    def told(self, seen: Look, *columns: NDArray) -> tuple[Any, ...]:
        """What all ranks have seen, and their ``columns`` (rows,), each joined in their order."""
        said = [part for part in seen if part is not None]
        joined = self.ranks.gathered(*said, *columns)
        rest = iter(joined[: len(said)])
        return seen.each(lambda _: next(rest)), *joined[len(said) :]


def _is_plain(data: Any) -> bool:
    """Whether ``data`` are tensors in lists, tuples and dictionaries by text."""
    if type(data) is dict:
        return all(isinstance(key, str) and _is_plain(part) for key, part in data.items())
    return type(data) is Tensor or (type(data) in (tuple, list) and all(map(_is_plain, data)))


def _no_labels(what: str) -> UnsupportedData:
    return UnsupportedData(
        f"{what} asks for all labels before the first epoch: give the data set an attribute "
        "'labels', int64 (samples,)"
    )


def _no_top(use: str) -> TargetsError:
    return TargetsError(
        f"sampled soft targets do not say the teacher's top class, which {use}: set "
        "targets.encoding to top-k or float16"
    )


def _one_a_sample(what: str, values: ArrayLike, samples: int) -> NDArray[np.float32]:
    made = np.asarray(values, dtype=np.float32)
    if made.shape != (samples,) or np.isnan(made).any():
        raise ValueError(f"{what}: {samples} numbers are needed, none of them NaN")
    return made


def _checked(weights: ArrayLike, samples: int) -> NDArray[np.float32]:
    """One weight a sample, float32."""
    made = np.asarray(weights, dtype=np.float32)
    if made.shape != (samples,) or not (np.isfinite(made) & (made >= 0)).all() or not made.any():
        raise ValueError(
            f"weights: {samples} finite values, 0 or more, are needed, some of them above 0"
        )
    return made
