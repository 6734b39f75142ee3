"""Several teachers behind the seam of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.batches import split
from frugalkd.errors import TargetsError, UnknownName
from frugalkd.models.features import Features, Shape
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.teachers.combining import (
    Combine,
    confidence_shares,
    mean_logits,
    mean_softmax,
    shares_of,
)
from frugalkd.teachers.fidelity import Fidelity
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.stored import StoredTargets
from frugalkd.teachers.targets import Targets

NOT_TOGETHER = (
    "several teachers have no features in common: take an objective that reads logits, or one "
    "teacher"
)

_TEACHERS = ("teacher", "teacher's model", "libraries", "precision")
"""What ``about`` says of a teacher, not of the data."""


class SeveralTeachers(Targets):
    """Several teachers as one, each of them live or stored.

    ``combine`` says how: ``mean``, all count alike; ``weighted``, by ``weights``; ``confidence``,
    in each sample by how likely they find its label
    (:func:`~frugalkd.teachers.combining.confidence_shares`); ``random``, one of them a step, drawn
    by ``weights`` where there are some, and nobody else is asked.

    Args:
        teachers: two or more: models, which are asked live, or soft targets; by name, or they are
            called ``teacher 1`` and so on.
        combine: as above.
        weights: of each teacher, above 0, with the sum 1.
        temperature: None: the mean is that of logits, which serves every objective. A number, the
            objective's: it is that of the softmaxes at this temperature, and ``KD`` then has the
            gradient of the mean of its losses against each teacher.
        labels: how to get labels int64 (rows,) from a batch's data, for ``confidence``; by default
            those of a pair or a mapping.
        seed: of the draws of ``random``, which are a function of (seed, epoch, step).

    Attributes:
        teachers: the soft targets of each, by name.

    Raises:
        UnknownName: no such ``combine``.
        TargetsError: less than two teachers, weights that are no shares of 1 or have no use,
            teachers of different classes, or stored targets that keep too little for such a mean.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module | Targets] | Mapping[str, nn.Module | Targets],
        combine: Combine = "mean",
        *,
        weights: Sequence[float] | None = None,
        temperature: float | None = None,
        labels: Callable[[Any], Tensor | None] | None = None,
        seed: int = 0,
    ):
        if combine not in get_args(Combine):
            raise UnknownName("way to combine teachers", str(combine), get_args(Combine))
        if not isinstance(teachers, Mapping):
            teachers = {f"teacher {place}": each for place, each in enumerate(teachers, start=1)}
        check_seed(seed)
        if len(teachers) < 2:
            raise TargetsError(f"{len(teachers)} of several teachers: give two or more")
        if combine == "weighted" and weights is None:
            raise TargetsError("weighted teachers need weights: give each its share of 1")
        if combine in ("mean", "confidence") and weights is not None:
            raise TargetsError(f"combine {combine} has no use for weights: set it to weighted")
        if temperature is not None and not temperature > 0:
            raise TargetsError(f"the temperature of a mean must be positive, not {temperature}")
        self.teachers: dict[str, Targets] = {}
        for name, each in teachers.items():
            check_types(**{name: (each, nn.Module | Targets)})
            self.teachers[name] = LiveTeacher(each) if isinstance(each, nn.Module) else each
        self.combine: Combine = combine
        self.shares = shares_of(weights, len(teachers))
        self.reads_labels = combine == "confidence"
        self.fills_as_visited = any(each.fills_as_visited for each in self._each)
        self.keeps = min(each.keeps for each in self._each)
        self.knows_top = all(each.knows_top for each in self._each)
        self.temperature = self._common_temperature(temperature)
        limits = [each.views for each in self._each if each.views is not None]
        self.views = min(limits, default=None)
        self.phase = "teacher" if all(each.phase == "teacher" for each in self._each) else "store"
        self._labels = labels or (lambda data: split(data)[1])
        self._seed, self._step = seed, (0, 0)
        self._shares = torch.tensor(self.shares)
        self.classes(None)

    @property
    def _each(self) -> list[Targets]:
        return list(self.teachers.values())

    def _common_temperature(self, temperature: float | None) -> float | None:
        """The only one at which the combination is to be read, None for any."""
        stored = {name: each.temperature for name, each in self.teachers.items()}
        fixed = {name: own for name, own in stored.items() if own is not None}
        if self.combine == "random":
            temperature = next(iter(fixed.values()), None)
        elif fixed and (temperature is None or self.combine == "confidence"):
            what = "confidence" if self.combine == "confidence" else "a mean of logits"
            raise TargetsError(
                f"{next(iter(fixed))} was stored for one temperature, which {what} cannot be made "
                "of: set targets.encoding to float16, or average to softmax (temperature=)"
            )
        elif temperature is not None:
            self.keeps = min(self.keeps, Fidelity.SOFTMAX)
        other = [f"{name} ({own:g})" for name, own in fixed.items() if own != temperature]
        if other:
            raise TargetsError(
                f"{', '.join(other)} was stored for another temperature than {temperature:g}: fill "
                "a store for it, or set targets.encoding to float16"
            )
        return temperature

    # What they are asked.

    def classes(self, data: Any) -> int | None:
        """Raises TargetsError where they have different ones. Without ``data`` (None) nobody is
        asked."""
        known = {
            name: each.classes(data)
            for name, each in self.teachers.items()
            if data is not None or isinstance(each, StoredTargets)
        }
        return self._same_classes({name: count for name, count in known.items() if count})

    def _same_classes(self, counts: Mapping[str, int]) -> int | None:
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise TargetsError(f"the teachers have different numbers of classes ({said})")
        return next(iter(counts.values()), None)

    def begin_step(self, epoch: int, step: int) -> None:
        self._step = epoch, step
        for each in self._each:
            each.begin_step(epoch, step)

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        """Raises TargetsError where the teachers have different classes, or there are no labels for
        ``confidence``."""
        if self.combine == "random":
            return self.drawn(*self._step).fetch(ids, views, data)
        said = {name: each.fetch(ids, views, data) for name, each in self.teachers.items()}
        self._same_classes({name: logits.shape[1] for name, logits in said.items()})
        labels = self._labels(data) if self.reads_labels else None
        return self.together(list(said.values()), labels, self.temperature)

    def drawn(self, epoch: int, step: int) -> Targets:
        """Whom ``random`` asks in a step."""
        point = draws.uniform(self._seed, draws.stream("teacher"), epoch, [step])
        place = int(np.searchsorted(np.cumsum(self.shares)[:-1], point[0], side="right"))
        return self._each[place]

    def together(
        self, logits: Sequence[Tensor], labels: Tensor | None, temperature: float | None
    ) -> Tensor:
        """What the teachers' logits (rows, classes) make together, float32 (rows, classes); of
        ``random`` what is to be expected. ``temperature`` as for the class.

        Raises:
            TargetsError: ``confidence`` without ``labels`` int64 (rows,).
        """
        shares = self._shares = self._shares.to(logits[0].device)  # once
        if self.reads_labels:
            if labels is None:
                raise TargetsError(
                    "combine confidence asks for labels, and these data have none: set it to mean "
                    "or weighted"
                )
            shares = confidence_shares(logits, labels)
        if temperature is None:
            return mean_logits(logits, shares)
        return mean_softmax(logits, shares, temperature)

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        raise TargetsError(NOT_TOGETHER)

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        raise TargetsError(NOT_TOGETHER)

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        """As the seam says; of the first view, and of ``random`` what is to be expected.

        Raises:
            TargetsError: one of them is not stored, or at one temperature alone.
        """
        for each in self._each:
            if not isinstance(each, StoredTargets) or each.temperature is not None:
                each.truth(labels)  # says why not
        stored = [each for each in self._each if isinstance(each, StoredTargets)]
        logits = [torch.from_numpy(each.all_logits()) for each in stored]
        softmax = self.temperature is not None or self.combine == "random"
        said = self.together(logits, labels, 1.0 if softmax else None)
        labels = said.argmax(dim=1) if labels is None else labels.cpu()
        return torch.softmax(said, dim=1).gather(1, labels[:, None])[:, 0].numpy()

    # What they cost, and what they are.

    @property
    def live_teachers(self) -> Mapping[str, LiveTeacher]:
        return {
            name: live
            for name, each in self.teachers.items()
            for live in each.live_teachers.values()
        }

    @property
    def queries_of(self) -> Mapping[str, int]:
        """Rows that have gone through each of them so far, by name."""
        return {name: each.queries for name, each in self.teachers.items()}

    @property
    def queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(self.queries_of.values())

    @property
    def seconds(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(each.seconds for each in self._each)

    @property
    def about(self) -> dict[str, str]:
        """Whom they are made of, for a checkpoint to know them again."""

        def digest(each: Targets) -> str:
            about = getattr(each, "about", {})
            said = [about[name] for name in _TEACHERS if name in about]
            return " ".join(said) or type(each).__name__

        pairs = zip(self.shares, self._each, strict=True)
        who = ", ".join(f"{share:.6g} {digest(each)}" for share, each in pairs)
        return {"teacher": f"{self.combine} of {who}"}

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        for each in self._each:
            each.check(None, dataset)

    def sync(self) -> None:
        for each in self._each:
            each.sync()
