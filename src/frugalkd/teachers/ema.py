"""The moving average of a model's weights over its training."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frugalkd.data.batches import check_model
from frugalkd.errors import ModelError, SettingError
from frugalkd.runtime.failures import blame

DECAY = 0.999
"""Of the average: about the last thousand steps count."""


class EMA:
    """An exponential moving average of ``model``'s weights, updated after each optimiser step.

    After step n (from 1) the average is ``d * average + (1 - d) * weights`` with ``d = min(decay,
    1 - 1 / n)``: the plain mean of all steps so far, until there are enough of them for the decay.
    The first weights, from before any step, have no part in it. This warm start is that of the
    authors' code of Mean Teacher (Tarvainen and Valpola, NIPS 2017, arXiv 1703.01780).

    Buffers of floating point, BatchNorm's statistics among them, are averaged alike; others are
    copied.

    Args:
        model: on its device; a copy of it is made.
        decay: in [0, 1).

    Raises:
        SettingError: the decay is impossible.
        ModelError: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, decay: float = DECAY):
        self.decay = check_decay(decay)
        check_model(model)
        try:
            self._averaged = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
            self._averaged.requires_grad_(False).eval()
        except Exception as error:
            blame(error, ModelError, "the model cannot be copied, which its average needs")
        self.steps = 0
        """Updates so far."""

    @property
    def model(self) -> nn.Module:
        """The average as a model, in eval mode, without gradients; before the first update, the
        model as it was when the copy was made."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` after another step. Waits for no device."""
        self._averaged.update_parameters(model)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the average's own state dict, and the updates so far."""
        return {"steps": self.steps, "model": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, bit for bit."""
        self.model.load_state_dict(state["model"])
        self.steps = int(state["steps"])
        self._averaged.n_averaged.fill_(self.steps)

    def _blend(self, averaged: Any, current: Any, number: Tensor | int) -> None:
        """One device and type of tensors, in place."""
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            keep = min(self.decay, 1 - 1 / (self.steps + 1))
            get_ema_multi_avg_fn(keep)(averaged, current, number)
        else:
            for mine, other in zip(averaged, current, strict=True):
                mine.copy_(other)


def check_decay(decay: float) -> float:
    """``decay`` itself. Raises SettingError unless it is in [0, 1)."""
    if not isinstance(decay, Real) or not 0 <= decay < 1:
        raise SettingError(f"the decay of a moving average must be in [0, 1), not {decay}")
    return decay
