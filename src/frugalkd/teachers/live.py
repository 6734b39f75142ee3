"""Teachers that run on each batch, and what decides their outputs."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import call, check_model, inputs_of, run_model
from frugalkd.data.class_names import class_names, class_order, names_text
from frugalkd.data.images import Pictures
from frugalkd.data.probe import batch_digests, data_digest
from frugalkd.data.source import Collate, is_batch_indexed
from frugalkd.data.table import TableData
from frugalkd.data.text import TextData
from frugalkd.errors import FrugalKDWarning, SettingError, TargetsError
from frugalkd.models.features import Features, Shape, Taps, probe_features
from frugalkd.models.identity import identity, inference_mode, this_torch
from frugalkd.models.origin import label_names, origin_of
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import PRECISIONS, autocast
from frugalkd.teachers.store import BATCH
from frugalkd.teachers.targets import Targets


def describe(teacher: nn.Module | None, dataset: Dataset) -> dict[str, str]:
    """What decides a teacher's outputs, by name: its :func:`~frugalkd.models.identity.identity`,
    and of the data the digest and the augmentation; where they have some, normalisation, tokenizer
    and class names."""
    augmentation = getattr(dataset, "augmentation", None)
    about = {
        **({} if teacher is None else identity(teacher)),
        "data set": data_digest(dataset),
        "augmentation": f"{augmentation} seed {getattr(dataset, 'seed', None)}",
    }
    if names := class_names(dataset):
        about["classes"] = names_text(names)
    if isinstance(dataset, Pictures):
        about["normalisation"] = f"mean {dataset.mean} std {dataset.std}"
    if isinstance(dataset, TextData):
        tokens = dataset.tokens
        about["tokenizer"] = f"{tokens.tokenizer}, at most {tokens.max_length} tokens"
    return about


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

    def describe(self, dataset: Dataset) -> dict[str, str]:
        """What decides its outputs on ``dataset``: :func:`describe`, :attr:`about`, and torch."""
        return {**describe(None, dataset), **self.about, **this_torch()}

    def describe_batch(self, dataset: Dataset, collate_fn: Collate | None) -> dict[str, str]:
        """What ``collate_fn`` makes of some samples, by name; {} where the data make their batches
        themselves. Raises TargetsError where it draws."""
        if collate_fn is None and is_batch_indexed(dataset):
            return {}
        batch = batch_digests(dataset, collate_fn)
        if batch is None:
            raise TargetsError(
                "collate_fn makes another batch of the same samples each time: draw in the data "
                "set's view(id, view), or use a live teacher"
            )
        return {BATCH: " ".join(batch)} if batch else {}

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

    def bad_rows(self, data: Any, rows: int) -> NDArray[np.bool_]:
        """Which of the rows of a batch the teacher gives an output that is not finite."""
        return ~torch.isfinite(self.run(data)).flatten(1).all(dim=1).cpu().numpy()

    def run(self, data: Any, ids: Ids | None = None) -> Tensor:
        """The teacher's logits float32 for a batch (of the samples ``ids``), in eval mode; not
        counted as a query. Raises ModelError."""
        with inference_mode(self.teacher), self.autocast():
            return run_model(self._forward, data, ids, "the teacher").float()

    def classes(self, data: Any) -> int | None:
        return None if data is None else self.run(data).shape[1]

    @property
    def knows_truth(self) -> bool:
        return not self.changes and super().knows_truth

    def truth(self, labels: Tensor | None) -> NDArray[np.float32] | None:
        if self.changes:
            raise TargetsError(
                "a ceiling is a part of what the teacher gives, and this one changes with each "
                "step: use a teacher that is trained"
            )
        return super().truth(labels)

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.teacher, self.precision)

    def _call(self, data: Any) -> Tensor:
        return call(self.teacher, inputs_of(data, channels_last=self.channels_last))


@final
class LiveTeacher(ModelTeacher):
    """Runs the teacher in eval mode, without gradients, on the pixels of the student's batches.

    Args:
        teacher: any module that returns logits (rows, classes).
        forward: how to call it on a batch; by default on the batch's inputs.
        precision: ``bf16`` runs it under autocast, for a teacher that was trained so.
        channels_last: that memory format, for the teacher and for inputs (rows, C, H, W).

    Raises:
        ModelError: the teacher is not a module, or has no weights yet.
        SettingError: another precision.
    """

    @property
    def about(self) -> dict[str, str]:
        layout = " channels-last" if self.channels_last else ""
        return {**identity(self.teacher), "precision": f"{self.precision}{layout}"}

    def check(self, dataset: Dataset) -> None:
        """Refuse data that differ from the teacher's training data in what is known of both: class
        names and their order, normalisation, tokenizer. Raises TargetsError, naming what differs;
        another tokenizer of as many tokens is a FrugalKDWarning."""
        origin, names = origin_of(self.teacher), class_names(dataset)
        class_order(origin.classes, names, "same")
        if not origin.classes:  # the spelling of a config's names means little, their order much
            own, wanted = (
                tuple(map(str.casefold, each)) for each in (label_names(self.teacher), names)
            )
            if sorted(own) == sorted(wanted):
                class_order(own, wanted, "same")
        if isinstance(dataset, Pictures) and origin.mean:
            there, here = (origin.mean, origin.std), (dataset.mean, dataset.std)
            if there != here:
                raise TargetsError(
                    f"the teacher was trained on pictures of mean {there[0]} and std {there[1]}, "
                    f"and these are normalised by {here[0]} and {here[1]}: give the data the "
                    "teacher's mean and std"
                )
        known = origin.columns.columns
        if isinstance(dataset, TableData) and known not in ((), dataset.columns.columns):
            raise TargetsError(
                "the teacher was trained on a table of other columns, or that was standardised by "
                "another part of it: make the features of the data by the teacher's columns "
                "(TableData with load(...).columns.inputs of the table)"
            )
        if isinstance(dataset, TextData) and origin.vocabulary:
            tokens = dataset.tokens
            message = (
                f"the teacher was trained on texts of the tokenizer {origin.tokenizer!r} "
                f"({origin.vocabulary} tokens), and these are of {tokens.tokenizer!r} "
                f"({tokens.vocabulary} tokens)"
            )
            if origin.vocabulary != tokens.vocabulary:
                raise TargetsError(f"{message}: give the data the teacher's tokenizer")
            if origin.tokenizer != tokens.tokenizer:
                warnings.warn(message, FrugalKDWarning, stacklevel=2)


@final
class HeadTeacher(ModelTeacher):
    """The last linear layer of the teacher of ``live``, on batches of its inputs in place of those
    of ``dataset``: what it gives, and all that decides it, is the teacher's on ``dataset``. Its
    rows count as queries of ``live``."""

    def __init__(self, live: LiveTeacher, head: nn.Linear, dataset: Dataset):
        super().__init__(head, precision=live.precision)
        self._live, self._dataset = live, dataset

    @property
    def about(self) -> dict[str, str]:
        return self._live.about

    def describe(self, dataset: Dataset) -> dict[str, str]:
        return self._live.describe(self._dataset)

    def describe_batch(self, dataset: Dataset, collate_fn: Collate | None) -> dict[str, str]:
        return self._live.describe_batch(self._dataset, collate_fn)

    def check(self, dataset: Dataset) -> None:
        self._live.check(self._dataset)

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        before = self.seconds
        logits = super().fetch(ids, views, data)
        self._live.queries += len(ids)
        self._live.seconds += self.seconds - before
        return logits
