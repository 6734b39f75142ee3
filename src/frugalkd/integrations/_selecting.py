"""The selection that a Trainer's arguments ask for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from frugalkd.data.probe import streams_restored
from frugalkd.data.source import check_map_style
from frugalkd.integrations._hugging_face import (
    AsDict,
    Padding,
    asking,
    check_labelled,
    labels_of,
)
from frugalkd.integrations._planned import full_batches
from frugalkd.selection import DataLoading, Selection

if TYPE_CHECKING:
    from frugalkd.integrations.transformers import FrugalMixin


def make_selection(trainer: FrugalMixin) -> Selection:
    """A new selection of a trainer's data, once a first look has found nothing wrong.

    Raises:
        UnsupportedData, DataError, ModelError, LedgerError, TargetsError: as the trainer says.
    """
    data: Any = trainer.train_dataset
    model: Any = trainer.model
    check_map_style(data)
    args, setting = trainer.args, trainer.setting
    with_columns = trainer._get_collator_with_removed_columns(trainer.data_collator, "training")
    teacher = setting.teacher
    targets = setting.targets(data, asking(teacher) if isinstance(teacher, nn.Module) else None)
    if targets is None and len(data):
        with streams_restored():
            check_labelled(data[0])
    return setting.select(
        data,
        epochs=partial(_epochs, trainer),
        targets=targets,
        forward=asking(model),
        model=model,
        batch_size=trainer._train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        loading=DataLoading(
            collate_fn=AsDict(with_columns),
            join=Padding(trainer.processing_class),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            device=args.device,
            drop_last=args.dataloader_drop_last,
            screen_batch=args.eval_batch_size,
        ),
        known_labels=labels_of(data),
    )


def _epochs(trainer: FrugalMixin, samples: int) -> float:
    """Epochs to train; ``max_steps`` are those of training on all of ``samples``."""
    args, size = trainer.args, trainer._train_batch_size
    if args.max_steps <= 0:
        return args.num_train_epochs
    batches = full_batches(samples, size, args.dataloader_drop_last)
    return args.max_steps / max(1, -(-batches // args.gradient_accumulation_steps))
