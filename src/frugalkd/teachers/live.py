"""Teachers that run on each batch."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, final

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


class ModelTeacher(Targets):
    """Runs a model in eval mode, without gradients, on the student's batches."""

    phase = "teacher"

    changes: bool = False
    """Whether it changes during the training, so that its outputs cannot be stored."""

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
        self._forward = forward or self._call

    @property
    @abstractmethod
    def about(self) -> dict[str, str]:
        """What decides its outputs, by name; computed at each access, of a live teacher from all
        weights."""

    @property
    def live_teachers(self) -> Mapping[str, ModelTeacher]:
        return {"teacher": self}

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        started = time.perf_counter()
        self.queries += len(ids)
        logits = self.run(data, ids)
        self.seconds += time.perf_counter() - started
        return logits

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        return probe_features(self.teacher, patterns, lambda: self.run(data), "the teacher")

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        with Taps(self.teacher, paths, always=True) as taps:
            logits = self.fetch(ids, views, data)
        return logits, taps.take()

    def run(self, data: Any, ids: Ids | None = None) -> Tensor:
        """The teacher's logits float32 for a batch (of the samples ``ids``), in eval mode; not
        counted as a query. Raises ModelError."""
        with inference_mode(self.teacher), self.autocast():
            return run_model(self._forward, data, ids, "the teacher").float()

    def classes(self, data: Any) -> int | None:
        return self.run(data).shape[1]

    def autocast(self) -> AbstractContextManager[Any]:
        """The teacher's precision, as a context."""
        return autocast(self.teacher, self.precision)

    def truth(self, labels: Tensor | None) -> NDArray[Any]:
        raise TargetsError(
            "a live teacher does not run on all samples beforehand: a ceiling needs stored targets "
            "(targets.kind: stored)"
        )

    def _call(self, data: Any) -> Tensor:
        inputs = inputs_of(data)
        if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return call(self.teacher, inputs, "the teacher")


@final
class LiveTeacher(ModelTeacher):
    """Runs the teacher in eval mode, without gradients, on the pixels of the student's batches.

    Args:
        teacher: any module that returns logits (rows, classes).
        forward: how to call it on a batch; by default on the batch's inputs.
        precision: ``bf16`` runs it under autocast, for a teacher that was trained so.
        channels_last: that memory format, for the teacher and for inputs (rows, C, H, W).

    Raises:
        ModelError: the teacher is no module, or has no weights yet.
        SettingError: another precision.
    """

    @property
    def about(self) -> dict[str, str]:
        layout = " channels-last" if self.channels_last else ""
        return {**identity(self.teacher), "precision": f"{self.precision}{layout}"}

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        """Refuse data that differ from the teacher's training data in what is known of both: class
        names and their order, normalisation, tokenizer. Raises TargetsError."""
        check_origin(self.teacher, dataset)
