"""The moving average of a model's weights over its training, and as the student's own teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal, final

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frugalkd.data.batches import check_model
from frugalkd.errors import ModelError, SettingError, TargetsError
from frugalkd.runtime.failures import blame
from frugalkd.teachers.live import ModelTeacher

DECAY = 0.999
"""The default decay: an average over about the last thousand steps."""


class EMA:
    """An exponential moving average of ``model``'s weights, updated after each optimiser step.

    After step n (from 1) the average is ``d * average + (1 - d) * weights`` with ``d = min(decay,
    1 - 1 / n)``: the plain mean of all steps so far, until there are enough of them for the decay.
    The initial weights do not count. This warm start is that of the authors' code of Mean Teacher
    (Tarvainen and Valpola, NIPS 2017, arXiv 1703.01780).

    Floating-point buffers, BatchNorm's statistics among them, are averaged too; others are copied.

    Args:
        model: on its device; a copy of it is made, or ModelError raised.
        decay: in [0, 1), or SettingError raised.
    """

    def __init__(self, model: nn.Module, decay: float = DECAY):
        if not isinstance(decay, Real) or not 0 <= decay < 1:
            raise SettingError(f"the decay of a moving average must be in [0, 1), not {decay}")
        self.decay = decay
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
        """The average as a model, in eval mode, without gradients."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Average the weights of ``model`` after another step. Waits for no device."""
        self._averaged.update_parameters(model)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the average's own state dict, and the updates so far."""
        return {"steps": self.steps, "model": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`, bit for bit."""
        self.model.load_state_dict(state["model"])
        self.steps = int(state["steps"])
        self._averaged.n_averaged.fill_(self.steps)

    def _blend(self, averaged: Any, current: Any, number: Tensor | int) -> None:
        """Tensors of one device and type, in place."""
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            keep = min(self.decay, 1 - 1 / (self.steps + 1))
            get_ema_multi_avg_fn(keep)(averaged, current, number)
        else:
            for mine, other in zip(averaged, current, strict=True):
                mine.copy_(other)


@final
class EMATeacher(ModelTeacher):
    """Self-distillation: the teacher is the moving average of the student's weights (the idea is
    Mean Teacher's: Tarvainen and Valpola, NIPS 2017, arXiv 1703.01780).

    ``frugalkd.distill`` updates it after each step; your own loop calls :meth:`update`, and keeps
    :meth:`state_dict` in its checkpoints. *Our reading:* the published method adds separate noise
    to the inputs of each model; here both receive the same view, the student in train mode and its
    average in eval mode.

    Args:
        student, decay: as of :class:`EMA`.
        forward, precision, channels_last: as of ``LiveTeacher``.

    Attributes:
        ema: the average; ``ema.model`` is the teacher.
    """

    changes = True

    def __init__(
        self,
        student: nn.Module,
        decay: float = DECAY,
        *,
        forward: Callable[[Any], Tensor] | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        channels_last: bool = False,
    ):
        self.ema, self.student = EMA(student, decay), student
        super().__init__(self.ema.model, forward, precision=precision, channels_last=channels_last)

    def update(self) -> None:
        """Average the student's weights after another optimiser step."""
        self.ema.update(self.student)

    def begin_step(self, epoch: int, step: int) -> None:
        """Raises TargetsError where there were steps, and no update."""
        if (epoch, step) > (0, 0) and not self.ema.steps:
            raise TargetsError(
                "the student's average has missed all steps so far: call update() after each "
                "optimiser step, and load_state_dict() when a training is resumed"
            )

    @property
    def about(self) -> dict[str, str]:
        """Without its weights, which a checkpoint has."""
        return {"teacher": f"the student's average, decay {self.ema.decay}"}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self.ema.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.ema.load_state_dict(state)
