"""Selection: data set + policy + targets -> epochs of batches, for any training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import concatenate
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, inputs_of, labels_by, split
from frugalkd.data.bucketing import bucketed, by_length, lengths_of
from frugalkd.data.probe import digests_kept
from frugalkd.data.protocols import is_batch_indexed, is_view_indexed
from frugalkd.data.source import open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import (
    FrugalKDWarning,
    RankError,
    SelectionMisuse,
    UnsupportedData,
)
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import OURS, All, EpochContext, Plan
from frugalkd.policies.modes import Sampling
from frugalkd.policies.policy import Ids, check_plan
from frugalkd.runtime.failures import blame
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.selection._epoch import Epoch
from frugalkd.selection._planning import in_whole_steps, ordered
from frugalkd.selection._reader import Reader
from frugalkd.selection._screening import Screening
from frugalkd.selection.checks import check_same_data
from frugalkd.selection.finite import Watch
from frugalkd.selection.inputs import (
    DataLoading,
    check_label_free,
    check_policy,
    check_sizes,
    checked_ledger,
    checked_weights,
    fill,
    inputs_to_compare,
    listed_labels,
    weights_of,
)
from frugalkd.teachers import Targets

_COUNTS = ("samples_backpropagated", "student_forwards", "teacher_queries")
"""Of the meters, what each rank counts for itself."""


class Selection:
    """Decides, epoch by epoch, which samples a model trains on, and remembers how they fared.

    ```python
    selection = Selection(dataset, epochs=30, batch_size=128, sampling=Sampling(), model=model)
    for epoch in selection:  # screens what is due, then plans
        for batch in epoch:  # .ids .weights .data .targets .progress
            x, y = batch.data
            logits = model(x)
            loss = batch.reduce(loss_per_sample(logits, y))
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            batch.observe(logits, y)
    ```

    No batch has one row by chance, for BatchNorm has no statistics of it. A last row joins the
    batch before, which then has ``batch_size + 1`` rows. One that is alone in its epoch is joined
    by the skipped sample that is due next, as a forced row. Otherwise it is deferred: counted, and
    still active. ``batch_size=1`` is respected.

    With several ranks (torchrun, accelerate launch) each has a selection made alike, and gets its
    own part of each global batch: all of them as many batches, of ``batch_size`` rows each. The
    model is then the loop's to wrap (DistributedDataParallel averages gradients, which makes the
    batch's loss that of the global batch); pass the bare one as ``model``.

    Args:
        dataset: map-style; a sample's id is its position. With a method ``batch(ids, views)`` it
            loads whole batches, with ``view(id, view)`` a sample's view, else by ``[id]``.
        epochs: how many; the last one may be a fraction.
        batch_size: rows of a batch.
        sampling: which samples are used and what they weigh; by default all of them, in every
            epoch.
        model: what is trained. Policies with a gate need it, ``forward`` or not: a screening pass
            puts it into eval mode and back.
        forward: how to get logits (rows, classes) from a batch's data when screening; by default
            ``model(inputs)``.
        targets: where soft targets come from, or None.
        seed: of the order and of every draw; the order is a function of (seed, epoch).
        ledger: to continue from; by default a new one.
        loading: how rows come in batches, and where these go.
        ranks: the processes that train this model together; by default those of torch.distributed.
            ``Ranks()`` is a training of this process alone.

    Raises:
        UnsupportedData: an iterable data set, or an empty one.
        SettingError: a number out of range; weights of the wrong length, negative, not finite, or
            none above 0.
        ModelError: a model that is none, or has no weights yet.
        SelectionMisuse: a policy with a gate, and no model to screen with; one that needs scores,
            and none; or what needs a label where ``sampling.label_free`` reads none.
        LedgerError, TargetsError: a ledger to continue from, or stored targets, of other data.
        RankError: too few samples for a step, or ranks differ in data, settings, weights, soft
            targets or ledger.
    """

    @digests_kept()
    def __init__(
        self,
        dataset: Dataset,
        *,
        epochs: float,
        batch_size: int,
        sampling: Sampling | None = None,
        model: nn.Module | None = None,
        forward: Callable[[Any], Tensor] | None = None,
        targets: Targets | None = None,
        seed: int = 0,
        ledger: Ledger | None = None,
        loading: DataLoading | None = None,
        ranks: Ranks | None = None,
    ):
        check_sizes(epochs, batch_size)
        check_types(
            sampling=(sampling, Sampling | None), loading=(loading, DataLoading | None),
            ranks=(ranks, Ranks | None), targets=(targets, Targets | None),
        )  # fmt: skip
        seed = check_seed(seed)
        sampling = Sampling(policy=All()) if sampling is None else sampling
        loading = DataLoading() if loading is None else loading
        self.policy, label_free, labels = (
            sampling.chosen_policy,
            sampling.label_free,
            loading.labels,
        )
        if model is not None:
            check_model(model)
        self.source = open_source(
            dataset,
            collate_fn=loading.collate_fn,
            num_workers=loading.num_workers,
            pin_memory=loading.pin_memory,
            seed=seed,
        )
        self.ranks = Ranks.here() if ranks is None else ranks
        self.gradient_accumulation_steps = loading.gradient_accumulation_steps
        self.ranks.check_alike(
            lambda: inputs_to_compare(
                dataset, targets, ledger, sampling, loading,
                epochs=epochs, batch_size=batch_size, seed=seed,
            )
        )  # fmt: skip
        samples = len(dataset)  # pyright: ignore[reportArgumentType]
        if samples == 0:
            raise UnsupportedData("the data set is empty: there is nothing to select from")
        check_policy(
            self.policy,
            model=model,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
        )
        self.epochs, self.batch_size, self.seed = float(epochs), batch_size, seed
        weights = weights_of(sampling, dataset)
        self.weights = None if weights is None else checked_weights(weights, samples)
        self.pool: Ids = np.arange(samples)
        if self.weights is not None:
            self.pool = np.flatnonzero(self.weights)
        if len(self.pool) == 1 and not loading.drop_last:
            self.batch_size = 1  # there is never another row to join
        if not self.ranks.alone and len(self.pool) < self.step_rows:
            raise RankError(
                f"{len(self.pool)} samples are less than a step of {self.ranks.world} ranks with "
                f"{loading.gradient_accumulation_steps} batches of {batch_size} rows each: lower "
                "batch_size"
            )
        self.targets = targets
        if label_free:
            check_label_free(self.policy, targets)
        self.length_bucket_batches = loading.length_bucket_batches
        self._lengths = lengths_of(dataset) if loading.length_bucket_batches else None
        self.drop_last, self.screen_batch = loading.drop_last, loading.screen_batch
        self.ledger = checked_ledger(ledger, self.policy, samples)
        if len(self.ledger) != samples:
            raise UnsupportedData(
                f"a ledger of {len(self.ledger)} samples for a data set of {samples}"
            )
        check_same_data(dataset, self.ledger, targets)
        self.meters = Meters()
        self._teachers = () if targets is None else tuple(targets.queries_of)
        self.meters.queries_of = dict.fromkeys(self._teachers, 0) | self.meters.queries_of
        self.epoch = 0
        """The epoch to come, or under way."""
        self._spent = 0  # samples backpropagated before the epoch to come
        self._current: Epoch | None = None
        self._under_way: Epoch | None = None  # what a state was taken in the middle of
        self.stop: Callable[[], bool] = lambda: False
        """Asked after each look that no step comes after; Stopped is raised where it says True.
        The state may then be taken, unless it was a screening that was stopped."""
        self.trained: dict[str, nn.Module] = {} if model is None else {"": model}
        self.optimizer: torch.optim.Optimizer | None = None
        self.watch: Watch | None = None
        """That both stay finite, from the first epoch on."""
        self._counted = self._counts()  # by the meters, and known to be so on all ranks
        read_labels = partial(labels_by, labels) if labels else (lambda data: split(data)[1])
        self.reader = Reader(
            self.source,
            targets,
            labels=(lambda data: None) if label_free else read_labels,
            listed=None if labels is not None or label_free else listed_labels(dataset),
            judged_by_teacher=self.policy.label_source == "teacher",
            join=loading.join or getattr(dataset, "join", None) or concatenate,
            repeats=is_view_indexed(dataset) or is_batch_indexed(dataset),
            views=self._views,
            now=lambda: (self.epoch, self._step),
            device=loading.device,
            meters=self.meters,
        )
        """Reads rows: the loop's batches, and any others."""
        self.screening = Screening(
            model,
            forward or (lambda data: call(model, inputs_of(data))),
            policy=self.policy,
            ledger=self.ledger,
            meters=self.meters,
            ranks=self.ranks,
            now=lambda: self._now,
        )
        fill(
            self.ledger,
            self.policy,
            dataset,
            reader=self.reader,
            pool=self.pool,
            scores=sampling.scores,
            label_free=label_free,
        )

    def __iter__(self) -> Iterator[Epoch]:
        self._counted = self._counts()
        self.watch = Watch(self.trained, self.optimizer) if self.trained else None
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
    def features(self) -> tuple[str, ...]:
        """The teacher's modules whose features batches are to have."""
        return self.reader.features

    @features.setter
    def features(self, paths: tuple[str, ...]) -> None:
        self.reader.features = paths

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
            NonFiniteLoss: something of the epoch so far, or a weight of ``model``, is not finite.
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
        return self.ranks.world * self.batch_size * self.gradient_accumulation_steps

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
    def _now(self) -> EpochContext:
        return EpochContext(self.epoch, self.epochs, self.seed, self._spent)

    def _plan(self) -> tuple[Plan, int, int]:
        """The epoch's plan in its order, how many sleepers were screened for it, and how many ids
        were deferred for steps that are whole."""
        at = self._now
        with self.meters.phase("ledger"):
            plan = self._planned(at)
        screened = len(plan.screen)
        if screened:
            with self.meters.phase("screen"):
                self._screen(plan.screen)
        with self.meters.phase("ledger"):
            if screened:
                plan = self._planned(at)
            step, deferred = 1, 0
            if not (plan.stop or self.gates_now(plan)):
                step = 1 if self.ranks.alone else self.step_rows
                lone = len(plan.ids) == 1 < self.batch_size and not self.drop_last
                rows = 2 if lone and self.ranks.alone else step
                plan, deferred = in_whole_steps(plan, self.ledger, self.pool, rows, self.policy, at)
            plan = ordered(
                plan,
                at,
                samples=len(self.ledger),
                part=self.part,
                step=step,
                regroup=self._regrouped,
            )
            if not self.ranks.alone:
                given = (part for part in (plan.ids, plan.weights, plan.forced) if part is not None)
                self.ranks.check_same(f"the plan of epoch {self.epoch}", *given)
            return plan, screened, deferred

    def _planned(self, at: EpochContext) -> Plan:
        """The policy's plan. Raises SelectionMisuse where it fails, or makes none."""
        try:
            plan = self.policy.plan(self.ledger, self.pool, at)
        except Exception as error:
            where = f"{type(self.policy).__name__}.plan fails in epoch {self.epoch}"
            blame(error, SelectionMisuse, where)
        if type(self.policy) not in OURS:
            check_plan(plan, len(self.ledger), self.pool, self.policy)
        return plan

    def gates_now(self, plan: Plan) -> bool:
        """Whether a plan's ids are read for the gate to judge, rather than all trained on."""
        return self.policy.when == "now" and plan.forced is None

    def _views(self, ids: Ids) -> Ids:
        """The view in which each sample is to be seen now."""
        views = self.ledger.views(ids, self.epoch)
        limit = None if self.targets is None else self.targets.views
        return views if limit is None else views % limit

    @property
    def _step(self) -> int:
        """The step to come of the epoch under way."""
        current = self._current
        return 0 if current is None or current.finished else current.step

    def _screen(self, ids: Ids) -> None:
        if self._lengths is not None:
            ids = by_length(ids, self._lengths)
        batches = self.reader.read(self.ranks.share(ids), self.screen_batch)
        self.screening.screen(batches, self.reader, self.stop)

    def _regrouped(self, ids: Ids) -> Ids:
        """In batches of rows of like length, where that is asked for."""
        if self._lengths is None:
            return ids
        rows = self.batch_size * self.ranks.world
        return bucketed(ids, self._lengths, rows, self.length_bucket_batches, self.seed, self.epoch)
