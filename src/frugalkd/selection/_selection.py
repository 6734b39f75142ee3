"""Selection: data set + policy + targets -> epochs of batches, for any training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, inputs_of, refuse_not_finite
from frugalkd.data.probe import digests_kept
from frugalkd.data.source import bucketed, by_length, check_map_style, lengths_of
from frugalkd.distributed.ranks import Ranks, text_of
from frugalkd.errors import (
    FrugalKDWarning,
    RankError,
    SelectionMisuse,
    SettingError,
    Stopped,
    UnsupportedData,
    few,
)
from frugalkd.ledger.ledger import ASIDE, Ledger
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import POLICIES, All, EpochContext, Ids, Plan, Sampling
from frugalkd.policies.keeping import lowest
from frugalkd.policies.label_noise import RULE
from frugalkd.policies.policy import check_plan
from frugalkd.runtime import draws
from frugalkd.runtime.failures import blame
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import (
    MOST_ROWS,
    check_integer,
    check_number,
    check_seed,
    check_types,
)
from frugalkd.selection._epoch import Epoch
from frugalkd.selection.checks import check_first_batch, check_weights
from frugalkd.selection.finite import Watch
from frugalkd.selection.inputs import (
    check_fit,
    check_mixed,
    checked_ledger,
    checked_weights,
    fill,
    inputs_to_compare,
    warn_of_few_visits,
    weights_of,
)
from frugalkd.selection.observer import Context, Observer, SharedCounts
from frugalkd.selection.rows import DataLoading, Position, Reader
from frugalkd.teachers import Targets

REFERENCE = 4096
"""Samples of the pool, at most, that scores refer to (:mod:`frugalkd.outputs`): the mean of what is
right for them is off by a 64th of its spread, and a live teacher need not run on all."""


class Selection:
    """Chooses the samples that a model trains on, epoch by epoch, and records their outcomes.

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

    A batch has a single row only with ``batch_size=1``: BatchNorm needs two. A single row that
    remains is added to the previous batch, which then has ``batch_size + 1`` rows. If it is the
    only row of its epoch, the skipped sample that is due next is added, as a forced row. If there
    is none, the row is deferred: it is counted, and stays active.

    With several ranks (torchrun, accelerate launch) each rank creates the same selection and
    receives its own part of each global batch; all ranks get the same number of batches, of
    ``batch_size`` rows each. Wrap the model in your loop (DistributedDataParallel averages
    gradients, so that the loss is that of the global batch), and pass the unwrapped one as
    ``model``.

    Args:
        dataset: map-style; a sample's id is its position. With a method ``batch(ids, views)`` it
            loads whole batches, with ``view(id, view)`` a sample's view, else by ``[id]``.
        epochs: number of epochs; if it is fractional, the last one is shorter. With a cost, those
            of full training that it is a fraction of.
        batch_size: rows of a batch.
        sampling: which samples are used and what they weigh; by default all of them, in every
            epoch.
        model: the model to train. Policies with a gate need it, also with ``forward``: a screening
            pass runs in eval mode and restores the mode afterwards.
        forward: how to get logits (rows, classes) from a batch's data when screening; by default
            ``model(inputs)``. Where the output is tokens or distances it is needed, is called with
            ``targets`` and ``progress``, too, and gives the mean losses of blocks (rows, 1), or
            distances (rows, heads).
        targets: where soft targets come from, or None.
        seed: of the order and of every draw; the order is a function of (seed, epoch).
        ledger: a new one, such as ``Ledger.new(samples, folder=...)``; by default it is in memory.
        loading: how batches are loaded, and on which device they are.
        ranks: the processes that train this model together; by default those of torch.distributed.
            ``Ranks()``: this process alone.

    Raises:
        UnsupportedData: an iterable data set, or an empty one.
        SettingError: a number out of range; a cost that pays for nothing (as the first epoch
            begins); weights of the wrong length, negative, not finite, or
            none above 0.
        ModelError: ``model`` is not a module, or its weights are not initialised.
        SelectionMisuse: the policy has a gate and ``model`` is missing; it needs scores and there
            are none; or something needs labels with ``sampling.label_free``.
        LedgerError: ``ledger`` is of other data, or the record of a training.
        TargetsError: stored targets of other data.
        RankError: too few samples for a step, or ranks differ in data, settings, weights or soft
            targets.
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
        forward: Callable[..., Tensor] | None = None,
        targets: Targets | None = None,
        seed: int = 0,
        ledger: Ledger | None = None,
        loading: DataLoading | None = None,
        ranks: Ranks | None = None,
    ):
        check_number("epochs", epochs, 0, 60_000)
        if epochs == 0:
            raise SettingError("epochs must be above 0")
        check_integer("batch_size", batch_size, 1, MOST_ROWS)
        check_types(
            sampling=(sampling, Sampling | None), loading=(loading, DataLoading | None),
            ranks=(ranks, Ranks | None), targets=(targets, Targets | None),
        )  # fmt: skip
        seed = check_seed(seed)
        sampling = Sampling(policy=All()) if sampling is None else sampling
        loading = DataLoading() if loading is None else loading
        ranks = Ranks.here() if ranks is None else ranks
        sampling = sampling.fitted(targets)
        policy = sampling.chosen_policy
        if model is not None:
            check_weights(model)
        check_map_style(dataset)
        ranks.check_same_inputs(
            lambda: inputs_to_compare(
                dataset, targets, sampling, loading,
                epochs=epochs, batch_size=batch_size, seed=seed,
            )
        )  # fmt: skip
        samples = len(dataset)  # pyright: ignore[reportArgumentType]
        if samples == 0:
            raise UnsupportedData("the data set is empty: there is nothing to select from")
        check_fit(policy, sampling, loading, model=model, targets=targets)
        check_mixed(dataset, policy, sampling, targets)
        if forward is None and policy.needs_screening and OUTPUTS[sampling.output].by_loss:
            raise SelectionMisuse(
                f"how to screen {OUTPUTS[sampling.output].plural} is not known: pass forward=, "
                "which takes a batch's data, targets= and progress=, and returns what observe takes"
            )
        weights = weights_of(sampling, dataset)
        weights = None if weights is None else checked_weights(weights, samples)
        aside = policy.set_aside(samples, seed)
        used = np.ones(samples, dtype=bool) if weights is None else weights > 0
        self.pool: Ids = np.flatnonzero(used if aside is None else used & ~aside)
        if len(self.pool) == 1 and not loading.drop_last:
            batch_size = 1  # there is never another row to join
        grouped = loading.length_bucket_batches > 0
        self._lengths = lengths_of(dataset, loading.lengths) if grouped else None
        ledger = checked_ledger(ledger, sampling, dataset)
        if aside is not None and ASIDE in ledger.columns:
            ledger[ASIDE][:] = used & aside
        if targets is not None:
            targets.check(dataset)
            if ranks.first:
                targets.compare_batches(dataset, loading.collate_fn)
        self.targets, self.seed, self.meters = targets, seed, Meters()
        self.policy, self.ledger, self.ranks, self.weights = policy, ledger, ranks, weights
        self.epochs, self._given_epochs = sampling.epochs_of(float(epochs)), float(epochs)
        check_number("epochs, of which a cost allows more than are given,", self.epochs, 0, 60_000)
        warn_of_few_visits(policy, self.epochs)
        self.batch_size, self.drop_last = batch_size, loading.drop_last
        self._dataset, self._sampling, self._loading = dataset, sampling, loading
        self._position = Position()
        self._spent = 0  # samples backpropagated before the epoch to come
        self._screened = 0  # samples screened, for the current epoch too
        self._current: Epoch | None = None
        self._under_way: dict[str, Any] | None = None  # state of an epoch to be resumed
        self._trained: Mapping[str, nn.Module] = {} if model is None else {"": model}
        self._optimizer: torch.optim.Optimizer | None = None
        self.reader = Reader(
            dataset, targets, sampling, loading,
            seed=seed, ledger=ledger, meters=self.meters, position=self._position,
        )  # fmt: skip
        """Reads rows: the loop's batches, and any others."""
        self.source = self.reader.source
        teachers = {} if targets is None else targets.queries_of
        self._context = Context(
            policy=policy, ledger=ledger, meters=self.meters, ranks=ranks, reader=self.reader,
            counts=SharedCounts(self.meters, ranks, teachers), model=model,
            forward=forward or (lambda data: call(model, inputs_of(data))), epochs=self.epochs,
            batch_size=batch_size, drop_last=loading.drop_last, weights=weights,
            gradient_accumulation_steps=loading.gradient_accumulation_steps,
            position=self._position,
        )  # fmt: skip
        if not ranks.alone and len(self.pool) < self._context.step_rows:
            raise RankError(
                f"{len(self.pool)} samples are less than a step of {ranks.world} ranks with "
                f"{loading.gradient_accumulation_steps} batches of {batch_size} rows each: lower "
                "batch_size"
            )
        fill(ledger, policy, dataset, sampling, reader=self.reader, pool=self.pool)

    def attach(
        self,
        *,
        modules: Mapping[str, nn.Module] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        features: tuple[str, ...] = (),
        project: Callable[[Tensor], Tensor] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Set, before the first epoch, what a training loop creates after the selection.

        Args:
            modules, optimizer: their weights, buffers and state are checked to be finite, named
                with these prefixes; by default the weights and buffers of ``model``.
            features: the teacher's modules whose features are added to batches.
            project: what takes the model's outputs to the teacher's width, for screening; what the
                loop observes has been through it too.
            should_stop: called after each screening batch that no step follows. Where it returns
                True, Stopped is raised; :meth:`state_dict` can then be called, unless the
                screening before an epoch was stopped.
        """
        self._trained = self._trained if modules is None else modules
        self._optimizer, self.reader.features = optimizer, features
        called = {"project": project, "should_stop": should_stop}
        given = {name: function for name, function in called.items() if function is not None}
        self._context = replace(self._context, **given)

    def check_first_batch(self, forward: Callable[[Any], Tensor] | None = None) -> int:
        """Run the model on the first samples, by default with the selection's ``forward``, and
        return its number of outputs, or classes. From then on labels are checked against it when
        they are read. Raises as :func:`~frugalkd.selection.checks.check_first_batch`."""
        assert self._context.model is not None, "a selection with a model"
        classes = check_first_batch(
            self._context.model, self._dataset, self.targets, pool=self.pool,
            forward=forward or self._context.forward, device=torch.device(self._loading.device),
            collate_fn=self._loading.collate_fn, label_free=self._sampling.label_free,
            read_labels=self._loading.labels, known_labels=self.ledger.labels,
            output=self.reader.output,
        )  # fmt: skip
        listed = self.reader.listed
        if listed is None:
            self.reader.classes = classes
        else:
            self.reader.output.check(torch.from_numpy(listed[self.pool]), self.pool, classes)
        return classes

    def __iter__(self) -> Iterator[Epoch]:
        self._context.counts.restart()
        watch = Watch(self._trained, self._optimizer) if self._trained else None
        self._context = replace(self._context, watch=watch)
        self._complete_truth()
        self._complete_reference()
        while self.epoch < self.epochs:
            state, self._under_way = self._under_way, None
            least = self.batch_size if self.drop_last else 1
            at = EpochContext(
                self.epoch, self.epochs, self.seed, self._spent, self._screened,
                least=least if self.ranks.alone else self._context.step_rows,
            )  # fmt: skip
            observer = Observer(self._context, at)
            if state is not None:
                epoch = Epoch.from_state(self._context, observer, state)
            else:
                plan, screened, deferred = self._plan(observer)
                if plan.stop:
                    break
                epoch = Epoch(self._context, observer, plan, screened, deferred)
            self._current = epoch
            yield epoch
            if not epoch.finished:
                raise SelectionMisuse(
                    f"epoch {self.epoch} was left before its last batch: finish its loop, or break "
                    "out of both loops"
                )
            self._position.epoch += 1
            self._spent += int(epoch.summary["rows"])
        if not self._spent and self.ranks.first:
            warnings.warn(
                "nothing was trained: every sample passed the gate, or no epoch had a sample, or "
                "with drop_last a whole batch (raise epochs, the budget or the cost, or lower "
                "batch_size)",
                FrugalKDWarning,
                stacklevel=2,
            )

    def __len__(self) -> int:
        """Number of epochs, rounded up."""
        return math.ceil(self.epochs)

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one."""
        return self._position.epoch

    @property
    def budget(self) -> float:
        """Samples backpropagated so far, as a fraction of training on all in every given epoch."""
        return self.meters.samples_backpropagated / (len(self.ledger) * self._given_epochs)

    @property
    def cost(self) -> float:
        """What the training cost so far, screening included and teacher queries not, as a fraction
        of training on all samples in every given epoch."""
        screened = self.meters.student_forwards - self.meters.samples_backpropagated
        rows = self.meters.samples_backpropagated + screened / 3
        return rows / (len(self.ledger) * self._given_epochs)

    def count_together(self) -> None:
        """Sum the meters' counts over all ranks; every rank has to call this at the same place."""
        self._context.counts.share()

    def check_finite(self, epoch: int, step: int, ids: Ids) -> None:
        """Raises NonFiniteLoss, on every rank, where a weight or buffer stopped being finite after
        the last epoch; ``epoch``, ``step`` and this rank's samples are named."""
        watch = self._context.watch
        assert watch is not None, "there were epochs"
        watch.check(self.ranks, epoch=epoch, step=step, ids=ids)

    def state_dict(self) -> dict[str, Any]:
        """The state from which a selection with the same arguments resumes. Call it before an
        epoch, after it, or between two batches, once the last one was observed. Every rank has to
        call it at the same place, and gets the same state but for the seconds of its meters.

        Raises:
            SelectionMisuse: the current batch was not observed, or a step is incomplete.
            NonFiniteLoss: something of the epoch so far, or a weight of ``model``, is not finite.
        """
        current, coming, spent = self._current, self.epoch, self._spent
        inside = self._under_way
        if current is not None and current.index == coming and current.begun:
            inside = None
            if current.finished:
                coming, spent = coming + 1, spent + int(current.summary["rows"])
            else:
                inside = current.state_dict()
        self.count_together()
        return {
            "epoch": coming,
            "world": self.ranks.world,
            "seed": self.seed,
            "choice": self._choice(),
            "epochs": self.ledger.epochs,
            "spent": spent,
            "screened": self._screened,
            "meters": self.meters.state(),
            "under_way": inside,
            "columns": {k: torch.from_numpy(v.copy()) for k, v in self.ledger.columns.items()},
            "reference": {k: torch.from_numpy(v) for k, v in self.ledger.reference.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`. If it was taken within an epoch, the remaining batches
        of that epoch come first.

        With another number of ranks the ledger is kept, and the batches differ: a FrugalKDWarning.

        Raises:
            SelectionMisuse: the state is of another seed, another number of samples, another
                policy, cost or weights, or of a ledger with other columns.
        """
        columns = {name: column.numpy().copy() for name, column in state["columns"].items()}
        if state["seed"] != self.seed or len(columns["visits"]) != len(self.ledger):
            raise SelectionMisuse("this state belongs to a selection with another seed or data set")
        ours, theirs = self._choice(), state["choice"]
        if other := few([name for name in ours if theirs.get(name) != ours[name]]):
            raise SelectionMisuse(
                f"this state belongs to a selection with another {other}: give what it was made "
                "with"
            )
        if other := sorted(columns.keys() ^ self.ledger.columns.keys()):
            raise SelectionMisuse(
                f"this state belongs to a selection with other ledger columns ({few(other)}): give "
                "the same Sampling.dynamics"
            )
        world = state["world"]
        if world != self.ranks.world and self.ranks.first:
            warnings.warn(
                f"resuming with {self.ranks.world} ranks from a state of {world}: the ledger "
                "carries over, the samples come in other batches and another order",
                FrugalKDWarning,
                stacklevel=2,
            )
        self._position.epoch, self._position.step = state["epoch"], 0
        self._current = None
        self.ledger.columns = columns
        self.ledger.epochs = state["epochs"]
        reference = state.get("reference", {})
        self.ledger.reference = {name: part.numpy() for name, part in reference.items()}
        self._spent, self._screened = state["spent"], state["screened"]
        self.meters.restore(state["meters"])
        self._context.counts.restart()
        self._under_way = state["under_way"]

    def _choice(self) -> dict[str, str]:
        """What decides the plans, by name."""
        noise = getattr(self.policy, "label_noise", "off")
        return {
            "policy": text_of(self.policy),
            "cost": text_of(self._sampling.cost),
            "weights": text_of(self.weights),
            **({} if noise == "off" else {"version of label_noise": str(RULE)}),
        }

    def _complete_truth(self) -> None:
        """Query the teacher about all samples, where a ceiling needs it and nothing is known."""
        column = self.ledger.columns.get("teacher_truth")
        if column is None or not np.isnan(column[self.pool]).all():
            return
        context = self._context
        found = [(self.pool[:0], np.empty(0, dtype=np.float32))]
        for part in self.reader.truth(context.ranks.share(self.pool), self._loading.screen_batch):
            found.append(part)
            if context.should_stop():
                raise Stopped("stopped while the teacher ran ahead, before the first epoch")
        ids, truth = context.ranks.gathered(*map(np.concatenate, zip(*found, strict=True)))
        column[ids] = truth

    def _complete_reference(self) -> None:
        """Find out what is right for a part of the pool, where scores refer to that."""
        reader, ledger = self.reader, self.ledger
        if reader.output.needs_reference and not ledger.reference:
            drawn = draws.subset(
                self.pool, min(REFERENCE, len(self.pool)), self.seed, draws.stream("reference"), 0
            )
            right, by_teacher = self._right_of(drawn)
            ledger.reference = reader.output.reference(right, by_teacher=by_teacher)
        reader.reference = {
            name: torch.from_numpy(part).to(reader.device)
            for name, part in ledger.reference.items()
        }

    def _right_of(self, ids: Ids) -> tuple[Tensor, bool]:
        """What is right for the samples ``ids``, float32 (rows, ...) in main memory, and whether
        the teacher decides; listed labels without reading the samples."""
        reader, ranks, found = self.reader, self._context.ranks, []
        if (listed := reader.listed_right) is not None:
            right = torch.from_numpy(listed[ids]).float()
            reader.output.check(right, ids, right.shape[1])
            return right, False
        by_teacher = not reader.output.labelled
        for rows in reader.read(ranks.share(ids), self._loading.screen_batch):
            rows = reader.with_targets(rows) if by_teacher else rows
            rows, right, _ = reader.with_labels(rows)
            by_teacher = rows.targets is not None
            if rows.targets is not None:
                refuse_not_finite(rows.targets, rows.ids, "the teacher", reader.output)
            found.append(right.float().cpu())
            reader.output.check(found[-1], rows.ids, right.shape[1])
            if self._context.should_stop():
                raise Stopped("stopped while the teacher ran ahead, before the first epoch")
        return torch.from_numpy(ranks.gathered(torch.cat(found).numpy())[0]), by_teacher

    def _plan(self, observer: Observer) -> tuple[Plan, int, int]:
        """The epoch's plan in its order, how many skipped samples were screened for it, and how
        many ids were deferred for whole steps."""
        context, at = self._context, observer.at
        alone = context.ranks.alone
        with self.meters.phase("ledger"):
            plan = self._planned(at)
        screened = len(plan.screen)
        if screened:
            with self.meters.phase("screen"):
                ids = plan.screen
                if self._lengths is not None:
                    ids = by_length(ids, self._lengths)
                rows = self._loading.screen_batch
                observer.screen(self.reader.read(context.ranks.share(ids), rows))
                self._screened += screened
                observer.at = at = replace(at, screened=self._screened)
        with self.meters.phase("ledger"):
            if screened:
                plan = self._planned(at)
                if len(plan.screen):  # nothing would screen them, nor limit the plan
                    raise SelectionMisuse(
                        f"{type(self.policy).__name__}.plan gives {len(plan.screen)} samples to "
                        f"screen once the screening of epoch {self.epoch} is over: give all at once"
                    )
            step, deferred = 1, 0
            if not (plan.stop or context.gates_now(plan)):
                step = 1 if alone else context.step_rows
                lone = len(plan.ids) == 1 < context.batch_size and not context.drop_last
                plan, deferred = self._in_whole_steps(plan, 2 if lone and alone else step, at)
            plan = self._ordered(plan, step, at)
            if not alone:
                given = (part for part in (plan.ids, plan.weights, plan.forced) if part is not None)
                context.ranks.check_same(f"the plan of epoch {self.epoch}", *given)
            return plan, screened, deferred

    def _planned(self, at: EpochContext) -> Plan:
        """The policy's plan. Raises SelectionMisuse where it fails, or makes none."""
        try:
            plan = self.policy.plan(self.ledger, self.pool, at)
        except Exception as error:
            where = f"{type(self.policy).__name__}.plan fails in epoch {self.epoch}"
            blame(error, SelectionMisuse, where)
        if type(self.policy) not in POLICIES.values():  # frugalkd's own are tested instead
            check_plan(plan, len(self.ledger), self.pool, self.policy)
        if (column := self.ledger.columns.get("disbelieved")) is not None:
            since = column[plan.disbelieved]
            column[:] = 0
            column[plan.disbelieved] = np.where(since > 0, since, at.epoch)
        return plan

    def _in_whole_steps(self, plan: Plan, rows: int, at: EpochContext) -> tuple[Plan, int]:
        """The plan made a multiple of ``rows`` ids long, so that every rank takes as many steps,
        and how many ids were deferred for that.

        The skipped samples nearest their due epoch are added, forced. Where they are not enough, or
        importance weights stand for them already, what is above a multiple is deferred, and stays
        active: of a policy that screens the most confident, else a random draw. A plan of less than
        one step is filled in any case, with any others; an empty one stays empty.
        """
        planned, ledger = len(plan.ids), self.ledger
        lacking = -planned % rows
        if not lacking:
            return plan, 0
        others = np.setdiff1d(self.pool, plan.ids, assume_unique=True)
        if planned >= rows:
            others = others[ledger["due"][others] > at.epoch]
        if planned < rows or (plan.weights is None and len(others) >= lacking):
            ids = lowest(others, lacking, ledger["due"].take, partial(at.uniform, "woken"))
            forced = np.ones(planned + len(ids), dtype=bool)
            forced[:planned] = False if plan.forced is None else plan.forced
            weights = plan.weights
            if weights is not None:
                weights = np.concatenate([weights, np.ones(len(ids), dtype=weights.dtype)])
            ids = np.concatenate([plan.ids, ids])
            return replace(plan, ids=ids, weights=weights, forced=forced), 0

        def confidence(places: Ids) -> NDArray:
            return np.nan_to_num(ledger["confidence"][plan.ids[places]], nan=-1.0)

        def chance(places: Ids) -> NDArray:
            return at.uniform("deferred", plan.ids[places])

        by_confidence = self.policy.needs_screening and plan.weights is None
        keys = (confidence, chance) if by_confidence else (chance,)
        over = planned % rows
        return plan.where(lowest(np.arange(planned), planned - over, *keys)), over

    def _ordered(self, plan: Plan, step: int, at: EpochContext) -> Plan:
        """The part of a plan that its epoch trains, in its order, a function of seed and epoch; a
        multiple of ``step`` rows where the plan is one."""
        ids = draws.order(plan.ids, at.seed, draws.stream("order"), at.epoch)
        steps = round(at.part * len(ids) / step)
        ids = ids[: step * (steps if step == 1 else max(1, steps))]
        if self._lengths is not None:  # rows of like length in a batch
            rows, batches = self.batch_size * self.ranks.world, self._loading.length_bucket_batches
            ids = bucketed(ids, self._lengths, rows, batches, self.seed, self.epoch)
        if plan.weights is None and plan.forced is None:
            return replace(plan, ids=ids)
        place = np.empty(len(self.ledger), dtype=np.int64)
        place[plan.ids] = np.arange(len(plan.ids))
        return plan.where(place[ids])
