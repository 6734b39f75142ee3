"""What stands in the place of a DataLoader in a Lightning training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from frugalkd.data.source import check_map_style
from frugalkd.errors import SelectionMisuse
from frugalkd.integrations._planned import PlannedEpochs, full_batches
from frugalkd.selection import DataLoading
from frugalkd.selection.rows import Join


class FrugalLoader:
    """A map-style data set in batches that a :class:`FrugalCallback` chooses, in the place of the
    DataLoader that ``train_dataloader`` returns. It shuffles; batches look as ever, but for a last
    one of one row, which joins the batch before (see :class:`frugalkd.Selection`).

    Args:
        dataset, batch_size, collate_fn, num_workers, pin_memory, drop_last: as of torch's
            DataLoader.
        seed: of the order; the order is a function of (seed, epoch).
        screen_batch: rows of one batch when sleepers are looked at.
        labels: how to get labels int64 (rows,) from a batch; by default those of a pair or mapping.
        join: as of :class:`frugalkd.Selection`.

    Raises:
        UnsupportedData: the data are iterable.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        screen_batch: int = 256,
        labels: Callable[[Any], Tensor | None] | None = None,
        join: Join | None = None,
    ):
        check_map_style(dataset)
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.loading = DataLoading(
            collate_fn=collate_fn, labels=labels, join=join, num_workers=num_workers,
            pin_memory=pin_memory, drop_last=drop_last, screen_batch=screen_batch,
        )  # fmt: skip
        self.planned: PlannedEpochs | None = None
        """Whose batches these are, while a callback trains with them."""
        self.begin: Callable[[], None] = lambda: None
        """Asked before the first batch of an epoch, or of what is left of one."""

    @property
    def full(self) -> int:
        """Batches of an epoch in which everything takes part."""
        return full_batches(len(self.dataset), self.batch_size, self.loading.drop_last)

    def __len__(self) -> int:
        """Batches of the epoch under way; before there is one, of everything."""
        epoch = None if self.planned is None else self.planned.epoch
        return self.full if epoch is None else len(epoch)

    def __iter__(self) -> Iterator[Any]:
        if self.planned is None:
            raise SelectionMisuse(
                "nobody chooses the batches of this FrugalLoader: put a FrugalCallback among the "
                "trainer's callbacks"
            )
        self.begin()
        for batch in self.planned.batches():
            yield batch.data

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what a training goes on from travels in the callback's state. That there is this
        method tells Lightning that an epoch can be gone on with."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, likewise."""
