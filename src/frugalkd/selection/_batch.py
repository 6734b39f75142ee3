"""A batch: what a training loop holds in its hands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frugalkd.data.batches import checked_labels, checked_logits
from frugalkd.data.source import form
from frugalkd.errors import SelectionMisuse
from frugalkd.policies.policy import Mask
from frugalkd.selection._observations import Observations
from frugalkd.selection._reader import Reader
from frugalkd.selection.checks import check_batch
from frugalkd.selection.rows import Rows


class Batch:
    """Rows to train on.

    Attributes:
        ids: int64 numpy (rows,).
        weights: float32 (rows,) on the device.
        data: what the data set's collation gives, on the device.
        targets: the teacher's logits (rows, classes), or None.
        features: of the teacher, (rows, ...) by module path; none but where they were asked for.
        progress: of the whole training, in [0, 1), before this batch.
        begins_step, ends_step: whether it is the first, and the last, batch of an optimiser step.
        step_rows: rows of that step, of this rank.
        forced: bool numpy (rows,), rows that were not the gate's choice.
    """

    def __init__(
        self,
        *,
        rows: Rows,
        weights: Tensor | None,
        progress: float,
        forced: Mask,
        reader: Reader,
        observations: Observations,
    ):
        self.ids, _, self.data, self.targets, features = rows
        self.features = features or {}
        self.progress, self.forced = progress, forced
        self.observed, self.begins_step, self.ends_step = False, True, True
        self.step_rows = len(self.ids)
        self._weights, self._reader, self._observations = weights, reader, observations

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
        """int64 (rows,): the data's labels, or the teacher's top class where they have none."""
        return self._reader.label(self.data, self.targets)

    @property
    def weighted(self) -> bool:
        """Whether a row may weigh anything but 1."""
        return self._weights is not None

    def reduce(self, losses: Tensor, rows: int | None = None) -> Tensor:
        """sum(weight * loss) / rows, a scalar, from one loss per row.

        Where gradients of several batches are accumulated for one step, ``rows`` is those of all of
        them; by default ``step_rows``, what the selection knows of that. Several ranks average
        their gradients, and have as many rows each: together it is then over the global batch.

        Raises:
            SelectionMisuse: ``losses`` is not one value a row.
        """
        self._check_rows("losses", losses)
        if self._weights is not None:
            losses = self._weights * losses
        # Half precision is not enough for a sum.
        total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
        return total / (self.step_rows if rows is None else rows)

    def _check_rows(self, what: str, given: object) -> None:
        rows = len(self.ids)
        if not isinstance(given, Tensor) or given.shape != (rows,) or given.is_meta:
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
        checked_logits(logits, len(self.ids), "the training loop", SelectionMisuse)
        labels = self.labels if labels is None else checked_labels(labels)
        for what, given in (("labels", labels), ("losses", losses)):
            if given is not None:
                self._check_rows(what, given)
        check_batch(labels, self.ids, logits.shape[1])
        if losses is None:
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        judged_by = self._reader.judged_by(labels, self.targets)
        self._observations.add(
            self.ids, self.forced, logits.detach(), judged_by, losses.detach(), later
        )
        self.observed = True

    def stepped(self, bad: Tensor) -> None:
        """Record whether the optimiser step that was taken with this batch, once it is observed,
        was a good one. It is read with the losses, so that no step waits for the device.

        Args:
            bad: a float32 number on the device, 0 where the step's gradients were finite.
        """
        self._observations.stepped(bad)
