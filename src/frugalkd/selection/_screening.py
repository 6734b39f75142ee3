"""Looks at rows: what the model says of them now, the policy's verdict, the ledger's entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.batches import run_model
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import NonFiniteLoss, Stopped
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome, joined_looks
from frugalkd.models.inference import inference_mode
from frugalkd.policies import EpochContext, Policy
from frugalkd.policies.policy import Ids, Mask
from frugalkd.runtime.meters import Meters
from frugalkd.selection._reader import Reader
from frugalkd.selection.checks import check_batch
from frugalkd.selection.entering import enter
from frugalkd.selection.gating import look
from frugalkd.selection.rows import Rows


class Screening:
    """Screening with ``model`` for a policy, and enters the verdicts into the ledger.

    Args:
        model: what is trained; None where the policy never looks before training.
        forward: logits (rows, classes) of a batch's data.
        policy, ledger, meters, ranks: of the selection.
        now: the moment that a verdict is of.
    """

    def __init__(
        self,
        model: nn.Module | None,
        forward: Callable[[Any], Tensor],
        *,
        policy: Policy,
        ledger: Ledger,
        meters: Meters,
        ranks: Ranks,
        now: Callable[[], EpochContext],
    ):
        self._model, self._forward = model, forward
        self._policy, self._ledger, self._meters = policy, ledger, meters
        self._ranks, self._now = ranks, now

    def look(self, rows: Rows, labels: Tensor) -> Outcome:
        """A look without gradients, as arrays; ``labels`` int64 (rows,)."""
        assert self._model is not None, "refused when the selection was made"
        with inference_mode(self._model):
            logits = run_model(self._forward, rows.data, rows.ids)
            check_batch(labels, rows.ids, logits.shape[1])
            seen = self.see(logits, labels)
        self._meters.student_forwards += len(rows.ids)
        return seen.each(lambda part: part.cpu().numpy())

    def see(self, logits: Tensor, labels: Tensor) -> Outcome:
        """All that the policy wants to know of logits (rows, classes)."""
        return look(logits, labels, entropy=self._policy.needs_entropy)

    def judge(self, ids: Ids, seen: Outcome, *, step: int = 0) -> Mask:
        """Enter the verdicts of a look before training, and say which rows fail.

        ``step`` is the epoch's step to come, for the error where an output is not finite.
        """
        bad = ids[~np.isfinite(seen.confidence)]
        if len(bad):
            raise NonFiniteLoss(
                epoch=self._now().epoch, step=step, ids=bad.tolist(), what="a screening's output"
            )
        return self.enter(ids, seen, screening=True)

    def enter(self, ids: Ids, seen: Outcome, *, screening: bool) -> Mask:
        """Judge a look (arrays) and enter it into the ledger; returns which rows failed."""
        return enter(self._policy, self._ledger, self._now(), ids, seen, screening=screening)

    def screen(self, batches: Iterable[Rows], reader: Reader, stop: Callable[[], bool]) -> None:
        """Look at sleepers, of which ``batches`` are this rank's share.

        Raises:
            Stopped: ``stop`` said so after a batch.
        """
        waiting: list[tuple[Ids, Outcome]] = []  # with several ranks: told once all have looked
        for rows in batches:
            rows, labels = reader.with_labels(rows)
            seen = self.look(rows, labels)
            if self._ranks.alone:
                self.judge(rows.ids, seen)
            else:
                waiting.append((rows.ids, seen))
            if stop():
                raise Stopped(f"stopped in the screening before epoch {self._now().epoch}")
        if waiting:
            ids, looks = zip(*waiting, strict=True)
            self.judge(*self.together(np.concatenate(ids), joined_looks(looks)))

    def together(self, ids: Ids, seen: Outcome) -> tuple[Ids, Outcome]:
        """What all ranks have seen before training, of each sample once, in the ranks' order."""
        seen, ids = self.told(seen, ids)
        once = np.sort(np.unique(ids, return_index=True)[1])
        return ids[once], seen.each(lambda part: part[once])

    def told(self, seen: Outcome, *columns: NDArray) -> tuple[Any, ...]:
        """What all ranks have seen, and their ``columns`` (rows,), each joined in their order."""
        said = [part for part in seen if part is not None]
        joined = self._ranks.gathered(*said, *columns)
        rest = iter(joined[: len(said)])
        return seen.each(lambda _: next(rest)), *joined[len(said) :]
