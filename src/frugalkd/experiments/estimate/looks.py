"""What a forward-only look is, for the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import find_batch_size
from torch import nn

from frugalkd.data.batches import split
from frugalkd.models.inference import inference_mode
from frugalkd.selection.observer import outcome_of
from frugalkd.teachers import LiveTeacher
from frugalkd.training.settings import Training
from frugalkd.training.trainer import ForwardFn, accelerator_for


def screening_look(model: nn.Module, training: Training, device: str) -> Callable[[Any], Any]:
    """A screening of a batch: forward pass in eval mode, and the verdicts brought home."""
    accelerator = accelerator_for(training.precision, device)
    memory = torch.channels_last if training.channels_last else torch.preserve_format
    model.to(accelerator.device, memory_format=memory)  # pyright: ignore[reportCallIssue]
    call = ForwardFn(model, training, accelerator)

    def screen(data: Any) -> Any:
        with inference_mode(model):
            logits = call(data)
        labels = split(data)[1]
        labels = logits.argmax(dim=1) if labels is None else labels
        return outcome_of(logits, labels).each(lambda part: part.cpu())

    return screen


def asking(live: LiveTeacher) -> Callable[[Any], Any]:
    """A live teacher asked for a batch."""

    def ask(data: Any) -> Any:
        rows = find_batch_size(data) or 0
        return live.fetch(np.arange(rows), np.zeros(rows, dtype=np.int64), data)

    return ask
