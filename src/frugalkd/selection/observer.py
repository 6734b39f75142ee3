"""From a model's outputs to the ledger: each sample's outcome, and whether it passes the gate.
Every verdict is entered by :func:`record`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.batches import checked_labels, checked_logits, run_model
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import FrugalKDError, ModelError, NonFiniteLoss, SelectionMisuse, Stopped, few
from frugalkd.ledger import dynamics
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome, fails
from frugalkd.models.identity import inference_mode
from frugalkd.outputs import ONE_CLASS
from frugalkd.policies import EpochContext, Ids, Mask, Plan, Policy
from frugalkd.policies.policy import check_rows
from frugalkd.runtime.failures import blame
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_number
from frugalkd.selection.finite import Watch
from frugalkd.selection.rows import Position, Reader, Rows

KEEP_LOGITS = 1 << 22
"""Logits of training batches that are kept to be judged together; more are judged at once."""

_COUNTS = (
    "samples_backpropagated", "student_forwards", "teacher_queries",
    "tokens_backpropagated", "tokens_forwarded", "token_queries",
)  # fmt: skip


def gate(logits: Tensor, labels: Tensor, tau: float = 0.9) -> Tensor:
    """Which rows fail the gate, bool (rows,): a misclassified row, or one below ``tau``.

    Args:
        logits: (rows, classes), any floating dtype.
        labels: int64 (rows,).
        tau: the top softmax probability from which a correct row passes; above 1 no row passes.

    Raises:
        FrugalKDError: a logit is NaN or the softmax of a row is not finite.
        SelectionMisuse, UnsupportedData, DataError, SettingError: logits, labels or ``tau`` are of
            another type, shape or range.
    """
    rows = len(logits) if isinstance(logits, Tensor) and logits.ndim else None
    checked_logits(logits, rows, "the caller of gate", SelectionMisuse)
    labels = checked_labels(labels)
    if labels.shape != logits.shape[:1]:
        raise SelectionMisuse(f"{len(labels)} labels for {len(logits)} rows of logits: one a row")
    ONE_CLASS.check(labels, np.arange(len(labels)), logits.shape[1])
    check_number("tau", tau, 0)
    seen = ONE_CLASS.outcome(logits, labels, {})
    bad = torch.nonzero(~torch.isfinite(seen.confidence)).flatten().tolist()
    if bad:
        raise FrugalKDError(f"logits are not finite in rows {bad[:8]}: no verdict can be given")
    return fails(seen.confidence, seen.correct, tau)


def record(
    policy: Policy, ledger: Ledger, at: EpochContext, ids: Ids, seen: Outcome, *, screening: bool
) -> Mask:
    """Let ``policy`` judge the outcome (arrays) of ``ids``, without duplicates, and enter the
    verdicts into the ledger; returns which rows failed. Raises SelectionMisuse where a method of
    the policy fails, or does not give one value a row."""
    name, learned = type(policy).__name__, None
    if ledger.has_dynamics:
        early = dynamics.counts_early(at.epoch, at.epochs)
        learned = dynamics.enter(ledger.columns, ids, seen, epoch=at.epoch, early=early)
    try:
        for column, values in policy.update_columns(seen, ids, ledger, at).items():
            ledger[column][ids] = values
        failed = policy.needs_training(seen, ids, ledger, at)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name} fails on the outcome of samples {few(ids.tolist())}")
    check_rows(failed, len(ids), "b", f"{name}.needs_training returns")
    streak = ledger.record(
        ids, epoch=at.epoch, confidence=seen.confidence, correct=seen.correct, failed=failed,
        screening=screening, learned=learned,
    )  # fmt: skip
    try:
        skipped = policy.skip_epochs(streak)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name}.skip_epochs fails")
    check_rows(skipped, len(ids), "iu", f"{name}.skip_epochs returns")
    if skipped.min(initial=0) < 0:
        raise SelectionMisuse(
            f"{name}.skip_epochs returns {skipped.min()}: return epochs, 0 or more"
        )
    # A screening decides about this very epoch, a training forward about the next.
    epochs = np.minimum(skipped.astype(np.uint64), 65535).astype(np.int64)  # whatever its dtype
    ledger["due"][ids] = np.minimum(at.epoch + epochs + (0 if screening else 1), 65535)
    return failed


class SharedCounts:
    """The meters' counts, once :meth:`share` was called those of all ranks."""

    def __init__(self, meters: Meters, ranks: Ranks, teachers: Iterable[str]):
        self._meters, self._ranks = meters, ranks
        meters.queries_of = dict.fromkeys(teachers, 0)
        self.restart()

    def restart(self) -> None:
        """The counts are those of all ranks now."""
        self._shared = self._read()

    def share(self) -> None:
        """Add what other ranks counted; every rank has to call this at the same place."""
        if self._ranks.alone:
            return
        self._shared = self._shared + self._ranks.sum(self._read() - self._shared)
        counts = iter(self._shared.astype(int).tolist())
        for name in _COUNTS:
            setattr(self._meters, name, next(counts))
        self._meters.queries_of = dict(zip(self._meters.queries_of, counts, strict=True))

    def _read(self) -> NDArray[np.float64]:
        counts = [getattr(self._meters, name) for name in _COUNTS]
        return np.array([*counts, *self._meters.queries_of.values()], np.float64)


@dataclass(frozen=True)
class Context:
    """What the epochs of a selection share: its own attributes, and ``forward`` (the logits of a
    batch's data; of outputs ``by_loss`` with ``targets`` and ``progress``), ``weights`` float32
    (samples,), ``project`` (what takes outputs to the teacher's width), ``should_stop`` (called
    after each screening batch) and ``watch`` (what has to stay finite). ``model`` is None where
    nothing is screened."""

    policy: Policy
    ledger: Ledger
    meters: Meters
    ranks: Ranks
    reader: Reader
    counts: SharedCounts
    model: nn.Module | None
    forward: Callable[[Any], Tensor]
    epochs: float
    batch_size: int
    gradient_accumulation_steps: int
    drop_last: bool
    weights: NDArray[np.float32] | None
    position: Position
    project: Callable[[Tensor], Tensor] = field(default=lambda outputs: outputs)
    should_stop: Callable[[], bool] = field(default=lambda: False)
    watch: Watch | None = None

    def gates_now(self, plan: Plan) -> bool:
        """Whether a plan's ids are read for the gate to judge, rather than all trained on."""
        return self.policy.when == "now" and plan.forced is None

    @property
    def planned_rows(self) -> float | None:
        """What the policy may spend in all, in rows; None without a limit."""
        total = self.policy.planned_rows(len(self.ledger), self.epochs)
        if total and self.weights is not None:  # a small pool cannot spend more than all of itself
            total = min(total, np.count_nonzero(self.weights) * self.epochs)
        return total

    def progress_at(self, at: EpochContext) -> float:
        """Of the whole training, in [0, 1], as an epoch begins: what is spent of the limit, or of
        the epochs."""
        total = self.planned_rows
        return min(1.0, self.policy.paid(at) / total) if total else at.epoch / self.epochs

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step, on all ranks together."""
        return self.ranks.world * self.batch_size * self.gradient_accumulation_steps


class Observer:
    """Enters an epoch's outcomes into the ledger: of screening passes at once, of training batches
    when they are read from the device, and of several ranks when these are merged. ``batches``
    counts those that were trained on, ``counts`` the rows that are entered."""

    def __init__(self, context: Context, at: EpochContext):
        self.at, self._context = at, context
        self.batches = self._first_pending = 0
        self.counts = {"participations": 0, "idle": 0, "forced": 0}
        self._pending: list[tuple[Ids, Mask, Mask, Tensor]] = []  # trained on, not yet read
        self._steps: list[tuple[int, Tensor]] = []  # batches observed before it, whether bad
        self._logits: list[tuple[Tensor, ...]] = []  # and labels, not yet judged
        self._kept, self._judged = 0, False
        self._outcomes: list[Outcome] = []  # of pending batches, on the device
        self._read: list[tuple[Outcome, Ids, Mask, Mask, NDArray[np.float32]]] = []  # to be merged

    def begin(
        self, *, judged: bool, batches: int = 0, counts: Mapping[str, int] | None = None
    ) -> None:
        """Begin with training batches, after ``batches`` with these ``counts`` where the epoch is
        resumed. ``judged``: all rows have failed the gate before they are trained on (gate-now)."""
        self._judged = judged
        self.batches = self._first_pending = batches
        self._context.position.step = batches // self._context.gradient_accumulation_steps
        if counts is not None:
            self.counts = {name: counts[name] for name in self.counts}

    # Screening passes.

    def evaluate(self, rows: Rows) -> tuple[Rows, Outcome]:
        """A forward pass of ``rows`` in eval mode without gradients: the rows, with targets where
        the teacher stands in for labels, and their outcome (arrays)."""
        context = self._context
        forward: Callable[..., Tensor] = context.forward
        assert context.model is not None, "refused when the selection was made"
        rows, labels, given = context.reader.with_labels(rows)
        if context.reader.output.by_loss:
            targets = context.reader.with_targets(rows).targets
            forward = partial(forward, targets=targets, progress=context.progress_at(self.at))
        with inference_mode(context.model):
            logits = context.project(run_model(forward, rows.data, rows.ids))
            for each in (labels,) if given is labels else (labels, given):
                context.reader.output.check(each, rows.ids, logits.shape[1])
            seen = self._outcome(logits, labels, given)
        context.meters.student_forwards += len(rows.ids)
        context.meters.tokens_forwarded += context.reader.tokens(rows.ids)
        return rows, seen.each(lambda part: part.cpu().numpy())

    def _outcome(self, outputs: Tensor, right: Tensor, given: Tensor) -> Outcome:
        """Of what the gate goes by, and with training dynamics of the labels ``given``."""
        reader, entropy = self._context.reader, self._context.policy.needs_entropy
        own = given if self._context.ledger.has_dynamics else None
        return reader.output.outcome(outputs, right, reader.reference, entropy=entropy, given=own)

    def screen(self, batches: Iterable[Rows]) -> None:
        """Screen this rank's share of skipped samples before the epoch's plan. Raises Stopped after
        a batch."""
        waiting: list[tuple[Ids, Outcome]] = []
        for rows in batches:
            rows, seen = self.evaluate(rows)
            if self._context.ranks.alone:
                self.judge(rows.ids, seen)
            else:
                waiting.append((rows.ids, seen))
            if self._context.should_stop():
                raise Stopped(f"stopped in the screening before epoch {self.at.epoch}")
        if waiting:
            ids, parts = zip(*waiting, strict=True)
            self.judge(*self.together(np.concatenate(ids), Outcome.joined(parts)))

    def judge(self, ids: Ids, seen: Outcome) -> Mask:
        """Enter the outcome (arrays) of a screening pass; returns which rows fail. Raises
        NonFiniteLoss where an output is not finite, or an earlier step was not."""
        bad = ids[~np.isfinite(seen.confidence)].tolist()
        if bad:
            self.read(watched=False)
            epoch, step = self.at.epoch, self.batches
            raise NonFiniteLoss(epoch=epoch, step=step, ids=bad, what="a screening's output")
        return self._record(ids, seen, screening=True)

    def together(self, ids: Ids, seen: Outcome) -> tuple[Ids, Outcome]:
        """The ids and outcomes that all ranks have screened, each sample once, in rank order."""
        seen, ids = self._gathered(seen, ids)
        once = np.sort(np.unique(ids, return_index=True)[1])
        return ids[once], seen.each(lambda part: part[once])

    # Training batches.

    def observe(
        self,
        ids: Ids,
        forced: Mask,
        mixed: Mask,
        logits: Tensor,
        labels: tuple[Tensor, Tensor],
        losses: Tensor,
        later: bool,
    ) -> None:
        """Keep a batch's outputs on the device until :meth:`read`. Rows ``mixed`` with others are
        not judged; ``labels`` are those that the gate goes by and those given, ``later`` is as of
        ``Batch.observe``."""
        context = self._context
        if self._logits and self._logits[-1][0].shape[1] != logits.shape[1]:
            raise ModelError(
                f"the outputs for samples {few(ids.tolist())} have {logits.shape[1]} classes, and "
                f"those before had {self._logits[-1][0].shape[1]}: give all the same"
            )
        context.meters.samples_backpropagated += len(ids)
        context.meters.student_forwards += len(ids)
        tokens = context.reader.tokens(ids)
        context.meters.tokens_backpropagated += tokens
        context.meters.tokens_forwarded += tokens
        self.batches += 1
        context.position.step = self.batches // context.gradient_accumulation_steps
        self._pending.append((ids, forced, mixed, losses))
        self._logits.append((logits, *labels))
        self._kept += logits.numel()
        if not later or self._kept > KEEP_LOGITS:
            self._judge_kept()

    def stepped(self, bad: Tensor) -> None:
        """Keep ``bad``, 0 on the device if the gradients of the last optimiser step were finite."""
        self._steps.append((self.batches, bad))

    def _judge_kept(self) -> None:
        if self._logits:
            logits, labels, given = zip(*self._logits, strict=True)
            right = torch.cat(labels)
            given = right if all(map(operator.is_, labels, given)) else torch.cat(given)
            self._outcomes.append(self._outcome(torch.cat(logits), right, given))
            self._logits, self._kept = [], 0

    def read(self, *, watched: bool = True) -> None:
        """Read all that is pending from the device, and enter it into the ledger, or keep it for
        the other ranks; ``watched``: check what the selection watches, too. Raises NonFiniteLoss
        where something is not finite; nothing of it is entered then."""
        context = self._context
        if not self._pending:
            return
        with context.meters.phase("ledger"):
            self._judge_kept()
            pending, self._pending = self._pending, []
            outcomes, self._outcomes = self._outcomes, []
            batches, forced, mixed, losses = zip(*pending, strict=True)
            ids, forced, mixed = map(np.concatenate, (batches, forced, mixed))
            seen = Outcome.joined(outcomes, torch.cat).each(lambda part: part.cpu().numpy())
            losses = torch.cat(losses).float().cpu().numpy()
            self._refuse_non_finite(batches, ids, seen.confidence, losses)
            if watched and context.watch is not None:
                step, before = divmod(self.batches - 1, context.gradient_accumulation_steps)
                last = np.concatenate(batches[-1 - before :])
                context.watch.check(context.ranks, epoch=self.at.epoch, step=step, ids=last)
            self._first_pending = self.batches
            self._read.append((seen, ids, forced, mixed, losses))
            if context.ranks.alone:
                self._enter()

    def merge(self) -> None:
        """Enter all that was observed into the ledger, on every rank that of all ranks."""
        self.read()
        if self._read:
            self._enter()

    def _enter(self) -> None:
        seen, *columns = zip(*self._read, strict=True)
        self._read = []
        ids, forced, mixed, losses = map(np.concatenate, columns)
        kinds = forced + 2 * mixed.astype(np.uint8)  # one byte a row for the other ranks
        seen, ids, kinds, losses = self._gathered(Outcome.joined(seen), ids, kinds, losses)
        forced, mixed = (kinds & 1).astype(bool), (kinds & 2).astype(bool)
        failed = np.ones(len(ids), dtype=bool)
        if not self._judged:
            plain: Any = slice(None)
            if mixed.any():  # they stay as they were judged
                self._context.ledger.visited(ids[mixed], epoch=self.at.epoch)
                plain = ~mixed
            seen = seen.each(lambda part: part[plain])
            failed[plain] = self._record(ids[plain], seen, screening=False)
        participated = failed & ~forced
        self._context.ledger.trained(ids, participated=participated, forced=forced, losses=losses)
        idle = ~failed & ~forced
        for name, rows in (("participations", participated), ("forced", forced), ("idle", idle)):
            self.counts[name] += int(rows.sum())

    def _record(self, ids: Ids, seen: Outcome, *, screening: bool) -> Mask:
        context = self._context
        return record(context.policy, context.ledger, self.at, ids, seen, screening=screening)

    def _gathered(self, seen: Outcome, *columns: NDArray) -> tuple[Any, ...]:
        """An outcome and ``columns`` (rows,) of all ranks, each joined in their order."""
        known = [part for part in seen if part is not None]
        joined = self._context.ranks.gathered(*known, *columns)
        parts = iter(joined[: len(known)])
        return seen.each(lambda _: next(parts)), *joined[len(known) :]

    def _refuse_non_finite(
        self, batches: Sequence[Ids], ids: Ids, confidence: NDArray, losses: NDArray
    ) -> None:
        """Raise NonFiniteLoss, on every rank the same, for the first step that was bad: for the
        first batch of it that has a bad row, else for all of its rows."""
        number = np.repeat(np.arange(len(batches)), [len(rows) for rows in batches])
        output, loss = ~np.isfinite(confidence), ~np.isfinite(losses)
        start, end = self._first_bad_step()
        in_bad_step = (start <= number) & (number < end)
        bad = output | loss | in_bad_step
        if not bad.any() and self._context.ranks.alone:
            return
        number, begin, ids, output, loss = self._context.ranks.gathered(
            number[bad], np.where(in_bad_step, start, number)[bad], ids[bad], output[bad], loss[bad]
        )
        if not len(number):
            return
        accumulated = self._context.gradient_accumulation_steps
        begin = (self._first_pending + begin) // accumulated
        first, what = begin == begin.min(), "a gradient"
        rows = first & (output | loss)
        if rows.any():
            first, what = rows & (number == number[rows].min()), "the loss"
        raise NonFiniteLoss(
            epoch=self.at.epoch,
            step=(self._first_pending + int(number[first].min())) // accumulated,
            ids=ids[first].tolist(),
            what="the output" if output[first].any() else what,
        )

    def _first_bad_step(self) -> tuple[int, int]:
        """The pending batches from one up to another that the first bad step was taken with."""
        steps, self._steps, start = self._steps, [], 0
        bad = torch.stack([bad for _, bad in steps]).tolist() if steps else []
        for flag, (batches, _) in zip(bad, steps, strict=True):
            end = batches - self._first_pending
            if flag:
                return start, end
            start = end
        return 0, 0
