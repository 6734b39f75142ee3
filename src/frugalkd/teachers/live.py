"""A teacher that is asked for each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, inputs_of, run_model
from frugalkd.errors import SettingError, TargetsError
from frugalkd.models.features import Features, Shape, Taps, probe_features
from frugalkd.models.identity import identity
from frugalkd.models.inference import inference_mode
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import PRECISIONS, autocast
from frugalkd.teachers.about import check_origin
from frugalkd.teachers.targets import Targets


class LiveTeacher(Targets):
    """Runs the teacher in eval mode, without gradients, on the pixels that the student sees.

    Args:
        teacher: any module that returns logits (rows, classes).
        forward: how to call it on a batch; by default on the batch's inputs.
        precision: ``bf16`` asks it under autocast, for a teacher that was trained so.
        channels_last: that memory format, for the teacher and for inputs (rows, C, H, W).

    Raises:
        ModelError: the teacher is no module, or has no weights yet.
        SettingError: another precision.
    """

    phase = "teacher"

    changes: bool = False
    """Whether it is trained meanwhile, so that no answer may be kept."""

    def __init__(
        self,
        teacher: nn.Module,
        forward: Callable[[Any], Tensor] | None = None,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        channels_last: bool = False,
    ):
        check_model(teacher, "the teacher")
        if precision not in PRECISIONS:
            raise SettingError(f"precision is {precision!r}: give {' or '.join(PRECISIONS)}")
        self.teacher = teacher
        self.views = None
        self.queries = 0
        self.precision: Literal["fp32", "bf16"] = precision
        self.channels_last = channels_last
        if channels_last:
            teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.own_forward = forward is not None
        self._forward = forward or self._plain

    @property
    def about(self) -> dict[str, str]:
        """What decides its answers: the teacher's identity and the precision that it is asked
        in."""
        layout = " channels-last" if self.channels_last else ""
        return {**identity(self.teacher), "precision": f"{self.precision}{layout}"}

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        """Refuse data that differ from what the teacher was trained on in what is known of both:
        class names and their order, normalisation, tokenizer. Raises TargetsError."""
        check_origin(self.teacher, dataset)

    @property
    def live_teachers(self) -> Mapping[str, LiveTeacher]:
        return {"teacher": self}

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        started = time.perf_counter()
        self.queries += len(ids)
        logits = self.look(data, ids)
        self.seconds += time.perf_counter() - started
        return logits

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        return probe_features(self.teacher, patterns, lambda: self.look(data), "the teacher")

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        with Taps(self.teacher, paths, always=True) as taps:
            logits = self.fetch(ids, views, data)
        return logits, taps.take()

    def look(self, data: Any, ids: Ids | None = None) -> Tensor:
        """The teacher's logits float32 for a batch (of the samples ``ids``), in eval mode; not
        counted as a query. Raises ModelError."""
        with inference_mode(self.teacher), self.asking():
            return run_model(self._forward, data, ids, "the teacher").float()

    def classes(self, data: Any) -> int | None:
        return self.look(data).shape[1]

    def asking(self) -> AbstractContextManager[Any]:
        """The precision in which the teacher is asked, as a context."""
        return autocast(self.teacher, self.precision)

    def _plain(self, data: Any) -> Tensor:
        inputs = inputs_of(data)
        if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return call(self.teacher, inputs, "the teacher")

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        raise TargetsError(
            "a live teacher is not asked for all samples beforehand: a ceiling needs stored "
            "targets (targets.kind: stored)"
        )
