"""The student's own average as its teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.errors import TargetsError
from frugalkd.teachers.ema import DECAY, EMA
from frugalkd.teachers.live import LiveTeacher


class EMATeacher(LiveTeacher):
    """Self-distillation: the teacher is the moving average of the student's weights (the idea is
    Mean Teacher's: Tarvainen and Valpola, NIPS 2017, arXiv 1703.01780).

    ``frugalkd.distill`` updates it after each step; a loop of one's own calls :meth:`update`, and
    keeps :meth:`state_dict` in its checkpoints. *Our reading:* the published method adds noise of
    its own to what either model sees; here both see the same view, the student in train mode and
    its average in eval mode.

    Args:
        student: the model that is trained; a copy of it is made, where it is.
        decay: of :class:`~frugalkd.teachers.ema.EMA`, in [0, 1).
        forward, precision, channels_last: as of ``LiveTeacher``.

    Attributes:
        ema: the average; ``ema.model`` is the teacher.

    Raises:
        ValueError: the decay is impossible.
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
        """Take in the student's weights after another optimiser step."""
        self.ema.update(self.student)

    def begin_step(self, epoch: int, step: int) -> None:
        """Raises TargetsError where there were steps, and nobody told of them."""
        if (epoch, step) > (0, 0) and not self.ema.steps:
            raise TargetsError(
                "the student's average has missed all steps so far: call update() after each "
                "optimiser step, and load_state_dict() when a training goes on"
            )

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        """The student's data are its own."""

    @property
    def about(self) -> dict[str, str]:
        """What a checkpoint knows it by: not its weights, which the checkpoint has."""
        return {"teacher": f"the student's average, decay {self.ema.decay}"}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return self.ema.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.ema.load_state_dict(state)
