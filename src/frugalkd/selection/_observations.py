"""What the device has to say of the batches that were trained on, on its way to the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, NonFiniteLoss, few
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome, joined_looks
from frugalkd.policies.policy import Ids, Mask
from frugalkd.runtime.meters import Meters
from frugalkd.selection._screening import Screening
from frugalkd.selection.finite import Watch

KEEP_LOGITS = 1 << 22
"""Logits that may wait for a look at many batches at once; more of them are looked at before."""


class _Trained(NamedTuple):
    """A batch that was trained on, as it waits to be read from the device."""

    ids: Ids
    forced: Mask
    losses: Tensor


class _Step(NamedTuple):
    """An optimiser step, as it waits to be read from the device."""

    batches: int  # that were observed before it was taken
    bad: Tensor


class _Read(NamedTuple):
    """Rows that were read from the device, as they wait to be told to the other ranks."""

    ids: Ids
    forced: Mask
    losses: NDArray[np.float32]
    seen: Outcome


class Observations:
    """Keeps what was observed in an epoch on the device, reads it when it is told to, tells the
    other ranks, and enters it into the ledger.

    Args:
        looks, ledger, meters, ranks: of the selection.
        epoch: its number, from 0.
        gradient_accumulation_steps: batches of one optimiser step.
        all_failed: what is trained on was judged before, and all of it failed (gate-now).
    """

    def __init__(
        self,
        looks: Screening,
        ledger: Ledger,
        meters: Meters,
        ranks: Ranks,
        *,
        epoch: int,
        gradient_accumulation_steps: int,
        all_failed: bool,
    ):
        self.batches = 0
        """That were observed."""
        self.counts = {"participations": 0, "idle": 0, "forced": 0}
        """Rows that are in the ledger, by what they were there."""
        self._first_pending = 0
        self._screening, self._ledger, self._meters, self._ranks = looks, ledger, meters, ranks
        self._epoch, self._accumulate, self._all_failed = (
            epoch,
            gradient_accumulation_steps,
            all_failed,
        )
        self._pending: list[_Trained] = []
        self._steps: list[_Step] = []
        self._unseen: list[tuple[Tensor, Tensor]] = []
        self._kept = 0
        self._seen: list[Outcome] = []
        self._read: list[_Read] = []

    def go_on(self, batches: int, counts: Mapping[str, int]) -> None:
        """Count from where the epoch was left."""
        self.batches = self._first_pending = batches
        self.counts = {name: counts[name] for name in self.counts}

    def add(
        self, ids: Ids, forced: Mask, logits: Tensor, labels: Tensor, losses: Tensor, later: bool
    ) -> None:
        """Keep what the device has to say of a batch; ``later``: nobody writes to these tensors
        again, so that they may be looked at with those of other batches."""
        if self._unseen and self._unseen[-1][0].shape[1] != logits.shape[1]:
            raise ModelError(
                f"the outputs for samples {few(ids.tolist())} have {logits.shape[1]} classes, and "
                f"those before had {self._unseen[-1][0].shape[1]}: give all the same"
            )
        self._meters.samples_backpropagated += len(ids)
        self._meters.student_forwards += len(ids)
        self.batches += 1
        self._pending.append(_Trained(ids, forced, losses))
        self._unseen.append((logits, labels))
        self._kept += logits.numel()
        if not later or self._kept > KEEP_LOGITS:
            self._look()

    def stepped(self, bad: Tensor) -> None:
        """Keep what the device has to say of the optimiser step that was taken with the batches
        since the one before: 0 where its gradients were finite."""
        self._steps.append(_Step(self.batches, bad))

    def _look(self) -> None:
        """Look at the logits that are kept, all at once, and let go of them; nobody waits."""
        if self._unseen:
            logits, labels = zip(*self._unseen, strict=True)
            self._seen.append(self._screening.see(torch.cat(logits), torch.cat(labels)))
            self._unseen, self._kept = [], 0

    def read(self, watch: Watch | None = None) -> None:
        """Read all that is pending from the device, and enter it into the ledger, or keep it for
        the other ranks.

        Raises:
            NonFiniteLoss: something of it, or of what ``watch`` is kept on, is not finite; nothing
                of it is entered.
        """
        if not self._pending:
            return
        with self._meters.phase("ledger"):
            self._look()
            pending, self._pending = self._pending, []
            looks, self._seen = self._seen, []
            ids = np.concatenate([entry.ids for entry in pending])
            forced = np.concatenate([entry.forced for entry in pending])
            seen = Outcome(*(_joined(parts) for parts in zip(*looks, strict=True)))
            losses = torch.cat([entry.losses for entry in pending]).float().cpu().numpy()
            self._refuse_non_finite([entry.ids for entry in pending], seen.confidence, losses)
            if watch is not None:
                last = pending[-1 - (self.batches - 1) % self._accumulate :]
                watch.check(
                    self._ranks,
                    epoch=self._epoch,
                    step=(self.batches - 1) // self._accumulate,
                    ids=np.concatenate([entry.ids for entry in last]),
                )
            self._first_pending = self.batches
            if self._ranks.alone:
                self._enter(seen, ids, forced, losses)
            else:
                self._read.append(_Read(ids, forced, losses, seen))

    def merge(self, watch: Watch | None = None) -> None:
        """Have all that was observed in the ledger, on every rank what all of them observed."""
        self.read(watch)
        if self._ranks.alone or not self._read:
            return
        read, self._read = self._read, []
        ids, forced, losses, seen = zip(*read, strict=True)
        self._enter(
            *self._screening.told(
                joined_looks(seen),
                np.concatenate(ids),
                np.concatenate(forced),
                np.concatenate(losses),
            )
        )

    def _enter(self, seen: Outcome, ids: Ids, forced: Mask, losses: NDArray[np.float32]) -> None:
        failed = np.ones(len(ids), dtype=bool)
        if not self._all_failed:
            failed = self._screening.enter(ids, seen, screening=False)
        participated = failed & ~forced
        self._ledger.trained(ids, participated=participated, forced=forced, losses=losses)
        self.counts["participations"] += int(participated.sum())
        self.counts["forced"] += int(forced.sum())
        self.counts["idle"] += int((~failed & ~forced).sum())

    def _refuse_non_finite(
        self, batches: list[Ids], confidence: NDArray[np.float32], losses: NDArray[np.float32]
    ) -> None:
        """Raise NonFiniteLoss, on every rank the same, for the first step that was bad: for the
        first batch of it that has a bad row, else for all of its rows."""
        number = np.repeat(np.arange(len(batches)), [len(ids) for ids in batches])
        output, loss = ~np.isfinite(confidence), ~np.isfinite(losses)
        start, end = self._first_bad_step()
        in_bad_step = (start <= number) & (number < end)
        bad = output | loss | in_bad_step
        if not bad.any() and self._ranks.alone:
            return
        number, begin, ids, output, loss = self._ranks.gathered(
            number[bad],
            np.where(in_bad_step, start, number)[bad],
            np.concatenate(batches)[bad],
            output[bad],
            loss[bad],
        )
        if not len(number):
            return
        begin = (self._first_pending + begin) // self._accumulate
        first, what = begin == begin.min(), "a gradient"
        rows = first & (output | loss)
        if rows.any():
            first, what = rows & (number == number[rows].min()), "the loss"
        raise NonFiniteLoss(
            epoch=self._epoch,
            step=(self._first_pending + int(number[first].min())) // self._accumulate,
            ids=ids[first].tolist(),
            what="the output" if output[first].any() else what,
        )

    def _first_bad_step(self) -> tuple[int, int]:
        """The pending batches from one up to another that the first bad step was taken with."""
        steps, self._steps = self._steps, []
        bad = torch.stack([step.bad for step in steps]).tolist() if steps else []
        ends = [step.batches - self._first_pending for step in steps]
        found = zip(bad, [0, *ends], ends, strict=False)
        return next(((start, end) for flag, start, end in found if flag), (0, 0))


def _joined(parts: Sequence[Tensor | None]) -> NDArray | None:
    """What several looks say, as one array; None where they do not say it."""
    known = [part for part in parts if part is not None]
    return torch.cat(known).cpu().numpy() if known else None
