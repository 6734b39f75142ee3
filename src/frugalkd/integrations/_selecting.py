"""The selection that a Trainer's arguments ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frugalkd.api import weights_from
from frugalkd.checks import first_look
from frugalkd.data.probe import data_digest, streams_restored
from frugalkd.data.source import check_map_style
from frugalkd.errors import DataError
from frugalkd.integrations._hugging_face import (
    AsDict,
    Padding,
    asking,
    check_labelled,
    class_names,
    labels_of,
)
from frugalkd.ledger import Ledger
from frugalkd.selection import Selection
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, Targets

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
    args, rows = trainer.args, trainer._train_batch_size
    with_columns = trainer._get_collator_with_removed_columns(trainer.data_collator, "training")
    collate, forward = AsDict(with_columns), asking(model)
    targets, weights = _targets(trainer), trainer.weights
    if targets is None and len(data):
        with streams_restored():
            check_labelled(data[0])
    if trainer.significance is not None:
        weights = weights_from(trainer.significance, data, trainer.gamma)
    taking_part = len(data) if weights is None else int(np.count_nonzero(weights))
    ledger = Ledger.new(len(data), labels=labels_of(data), extra=trainer.policy.columns)
    selection = Selection(
        data,
        policy=trainer.policy,
        epochs=_epochs(trainer, taking_part),
        batch_size=rows,
        seed=args.seed if args.data_seed is None else args.data_seed,
        weights=weights,
        scores=trainer.scores,
        targets=targets,
        model=model,
        forward=forward,
        collate=collate,
        join=Padding(trainer.processing_class),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        drop_last=args.dataloader_drop_last,
        screen_batch=args.eval_batch_size,
        device=args.device,
        ledger=ledger,
    )
    if args.dataloader_drop_last and len(selection.pool) < rows:
        raise DataError(
            f"dataloader_drop_last leaves nothing of {len(selection.pool)} samples in batches of "
            f"{rows}: lower per_device_train_batch_size"
        )
    selection.classes = first_look(
        model, data, targets, pool=selection.pool, forward=forward, device=args.device,
        collate=collate,
    )  # fmt: skip
    ledger.about = {"data": data_digest(data), "policy": str(trainer.policy)}
    if names := class_names(data):
        ledger.about["classes"] = "\n".join(names)
    return selection


def _targets(trainer: FrugalMixin) -> Targets | None:
    """None where the objective reads none, as in :func:`frugalkd.distill`."""
    teacher, objective = trainer.teacher, trainer.objective
    if teacher is None or objective is None or not objective.needs_targets:
        return None
    if isinstance(teacher, Targets):
        return teacher
    live = LiveTeacher(teacher, asking(teacher))
    if trainer.store is None:
        return live
    return FirstVisitTargets(live, trainer.train_dataset, Path(trainer.store))  # pyright: ignore


def _epochs(trainer: FrugalMixin, samples: int) -> float:
    """Epochs to train; ``max_steps`` are those of training on all of ``samples``."""
    args, size = trainer.args, trainer._train_batch_size
    if args.max_steps <= 0:
        return args.num_train_epochs
    batches = samples // size if args.dataloader_drop_last else -(-samples // size)
    return args.max_steps / max(1, -(-batches // args.gradient_accumulation_steps))
