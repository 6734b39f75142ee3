"""What a Trainer's checkpoint needs besides, to go on in the middle of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from frugalkd.errors import RunFolderError
from frugalkd.files.opening import named
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.selection.finite import bad_gradients

STATE = "frugalkd.safetensors"
"""In a checkpoint's folder: the selection's state, no pickle."""
LEDGER = "ledger.safetensors"
"""Beside it: the ledger so far."""


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint's folder holds of the selection. Raises RunFolderError."""
    if not (folder / STATE).is_file():
        raise RunFolderError(
            f"{folder} has no {STATE}: a plain Trainer wrote it, or it was cut off: name another "
            "checkpoint"
        )
    return load_tree(folder / STATE)


class Keeper(transformers.TrainerCallback):
    """Says how far a frugal trainer is, ends with the plan, and adds to checkpoints."""

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._state: dict[str, Any] | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """With gradients that are clipped. A scaler of losses skips steps whose gradients are not
        finite, which is no fault."""
        batch = self._trainer.planned.batch
        if batch is not None and self._trainer.accelerator.scaler is None:
            batch.stepped(bad_gradients(kwargs["optimizer"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimiser step."""
        self._look(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The plan's epoch ends too, and with its last one the training, as after max_steps."""
        planned = self._trainer.planned
        planned.finish()
        if planned.done and not control.should_training_stop:
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"
            late = args.eval_delay <= state.global_step
            control.should_evaluate |= args.eval_strategy == "steps" and late
        self._look(state, control)

    def _look(self, state: Any, control: Any) -> None:
        """Say the epoch; before a checkpoint is written, see whether something is not finite."""
        state.epoch = self._trainer.planned.epochs_done
        if control.should_save:
            self._state = self._trainer.selection.state_dict()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has written its checkpoint."""
        folder = named(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._state is not None and folder.is_dir() and not args.save_only_model:
            save_tree(folder / STATE, self._trainer._kept(self._state))
            self._trainer.ledger.save(folder / LEDGER)
        self._state = None
