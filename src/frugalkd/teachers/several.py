"""Several teachers behind the interface of one, and the pure functions that combine them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from frugalkd.data.batches import split
from frugalkd.data.source import Collate
from frugalkd.errors import TargetsError, UnknownName
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.teachers.encodings import Fidelity
from frugalkd.teachers.live import LiveTeacher, ModelTeacher
from frugalkd.teachers.stored import StoredTargets
from frugalkd.teachers.targets import Targets

Combine = Literal["mean", "weighted", "confidence", "random"]

_TEACHERS = ("teacher", "teacher's model", "libraries", "precision")
"""The entries of ``about`` that are the teacher's, not the data's."""
_TOLERANCE = 1e-4
"""Allowed difference of the sum of shares from 1, since they are written with a few digits."""


def shares_of(combine: Combine, weights: Sequence[float] | None, teachers: int) -> list[float]:
    """The share of each of ``teachers`` teachers, with the sum 1; equal without ``weights``. Raises
    TargetsError: fewer than two teachers, weights that are missing or have no use, not one per
    teacher, one that is not above 0, or another sum than 1."""
    if teachers < 2:
        raise TargetsError(f"{teachers} of several teachers: give two or more")
    if combine == "weighted" and weights is None:
        raise TargetsError("weighted teachers need weights: give each its share of 1")
    if combine in ("mean", "confidence") and weights is not None:
        raise TargetsError(f"combine {combine} has no use for weights: set it to weighted")
    if weights is None:
        return [1 / teachers] * teachers
    given = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != teachers:
        raise TargetsError(f"{teachers} teachers and the weights {given}: give each teacher one")
    if not all(weight > 0 for weight in weights):
        raise TargetsError(
            f"the teachers' weights {given} must be above 0: leave out teachers without weight"
        )
    total = sum(weights)
    if not abs(total - 1) <= _TOLERANCE:
        raise TargetsError(f"the teachers' weights {given} sum to {total:g}: give shares of 1")
    return [weight / total for weight in weights]


def confidence_shares(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Each teacher's share in each row, float32 (teachers, rows), each column with the sum 1: the
    larger, the higher its probability of the label.

    ``logits``: (rows, classes) of each teacher, two or more; ``labels``: int64 (rows,).
    """
    losses = [F.cross_entropy(each.float(), labels, reduction="none") for each in logits]
    return (1 - torch.softmax(torch.stack(losses), dim=0)) / (len(losses) - 1)


def mean_of(logits: Sequence[Tensor], shares: Tensor, temperature: float | None = None) -> Tensor:
    """The weighted mean of ``logits``, (rows, classes) of each teacher, float32 (rows, classes);
    ``shares``: (teachers,) or (teachers, rows).

    Without a ``temperature`` it is that of the logits: at every temperature its softmax is the
    normalised geometric mean of the teachers' own. With one, its softmax there is the weighted mean
    of the teachers' own, and the gradient of a KL divergence to it that of those to each teacher.
    """
    stacked = torch.stack([each.float() for each in logits])
    shares = shares.to(stacked).reshape(len(stacked), -1, 1)
    if temperature is None:
        return (shares * stacked).sum(dim=0)
    softmaxes = torch.log_softmax(stacked / temperature, dim=2)
    return temperature * torch.logsumexp(softmaxes + shares.log(), dim=0)


@final
class SeveralTeachers(Targets):
    """Several teachers as one, each of them live or stored.

    Args:
        teachers: two or more: models, which run live, or soft targets; by name, or they are called
            ``teacher 1`` and so on.
        combine: ``mean``, all with equal shares; ``weighted``, by ``weights``; ``confidence``, in
            each sample by their probability of its label (:func:`confidence_shares`); ``random``,
            one of them per step, drawn by ``weights`` where there are some: no other runs.
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
        TargetsError: fewer than two teachers, weights that are not shares of 1 or have no use,
            teachers of different classes, or stored targets that keep too little for such a mean.
    """

    no_features = (
        "several teachers have no features in common: use an objective that reads logits, or one "
        "teacher"
    )

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
        self.shares = shares_of(combine, weights, len(teachers))
        if temperature is not None and not temperature > 0:
            raise TargetsError(f"the temperature of a mean must be positive, not {temperature}")
        self.teachers: dict[str, Targets] = {}
        for name, each in teachers.items():
            check_types(**{name: (each, nn.Module | Targets)})
            self.teachers[name] = LiveTeacher(each) if isinstance(each, nn.Module) else each
        self._each = list(self.teachers.values())
        self.combine: Combine = combine
        self.reads_labels = combine == "confidence"
        self.fills_as_visited = any(each.fills_as_visited for each in self._each)
        self.keeps = min(each.keeps for each in self._each)
        self.knows_top = all(each.knows_top for each in self._each)
        self.temperature = self._common_temperature(temperature)
        self.views = min(
            (each.views for each in self._each if each.views is not None), default=None
        )
        self.phase = "teacher" if all(each.phase == "teacher" for each in self._each) else "store"
        self._labels = labels or (lambda data: split(data)[1])
        self._seed, self._step = seed, (0, 0)
        self._shares = torch.tensor(self.shares)
        self.classes(None)

    def _common_temperature(self, temperature: float | None) -> float | None:
        """The only temperature of the combination, None for any."""
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

    def classes(self, data: Any) -> int | None:
        """Raises TargetsError where they differ."""
        counts = {name: each.classes(data) for name, each in self.teachers.items()}
        return self._same_classes({name: count for name, count in counts.items() if count})

    def _same_classes(self, counts: Mapping[str, int]) -> int | None:
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise TargetsError(f"the teachers have different numbers of classes ({listed})")
        return next(iter(counts.values()), None)

    def begin_step(self, epoch: int, step: int) -> None:
        self._step = epoch, step
        for each in self._each:
            each.begin_step(epoch, step)

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        if self.combine == "random":
            return self.drawn(*self._step).fetch(ids, views, data)
        logits = {name: each.fetch(ids, views, data) for name, each in self.teachers.items()}
        self._same_classes({name: each.shape[1] for name, each in logits.items()})
        labels = self._labels(data) if self.reads_labels else None
        return self.together(list(logits.values()), labels, self.temperature)

    def drawn(self, epoch: int, step: int) -> Targets:
        """The teacher that ``random`` draws for a step."""
        point = draws.uniform(self._seed, draws.stream("teacher"), epoch, [step])
        place = int(np.searchsorted(np.cumsum(self.shares)[:-1], point[0], side="right"))
        return self._each[place]

    def together(
        self, logits: Sequence[Tensor], labels: Tensor | None, temperature: float | None
    ) -> Tensor:
        """The combination of the teachers' logits (rows, classes), float32 (rows, classes); of
        ``random`` the expected one. Raises TargetsError for ``confidence`` without ``labels`` int64
        (rows,)."""
        shares = self._shares = self._shares.to(logits[0].device)  # once
        if self.reads_labels:
            if labels is None:
                raise TargetsError(
                    "combine confidence needs labels, and these data have none: set it to mean or "
                    "weighted"
                )
            shares = confidence_shares(logits, labels)
        return mean_of(logits, shares, temperature)

    @property
    def knows_truth(self) -> bool:
        drawn = self.combine == "random" and bool(self.live_teachers)
        return not drawn and super().knows_truth and all(each.knows_truth for each in self._each)

    def truth(self, labels: Tensor | None) -> NDArray[np.float32] | None:
        """Of the first view, and of ``random`` the expected one. Raises TargetsError too where one
        of them is not stored, and one is drawn in each step."""
        known, logits = [each.truth(labels) for each in self._each], []
        if any(each is None for each in known):
            if self.combine == "random":
                raise TargetsError(
                    "a ceiling needs all teachers of a random draw, and one runs in each step: set "
                    "targets.kind to stored and targets.fill to ahead, or combine to mean"
                )
            return super().truth(labels)
        for each in self._each:
            assert isinstance(each, StoredTargets), "other targets do not know the truth"
            logits.append(torch.from_numpy(each.all_logits()))
        softmax = self.temperature is not None or self.combine == "random"
        together = self.together(logits, labels, 1.0 if softmax else None)
        labels = together.argmax(dim=1) if labels is None else labels.cpu()
        return torch.softmax(together, dim=1).gather(1, labels[:, None])[:, 0].numpy()

    @property
    def live_teachers(self) -> Mapping[str, ModelTeacher]:
        return {
            name: live
            for name, each in self.teachers.items()
            for live in each.live_teachers.values()
        }

    @property
    def queries_of(self) -> Mapping[str, int]:
        return {name: each.queries for name, each in self.teachers.items()}

    @property
    def queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(self.queries_of.values())

    @property
    def seconds(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(each.seconds for each in self._each)

    @property
    def about(self) -> dict[str, str]:
        """What a checkpoint compares: the teachers and their shares."""
        who = []
        for share, each in zip(self.shares, self._each, strict=True):
            about = getattr(each, "about", {})
            entries = " ".join(about[name] for name in _TEACHERS if name in about)
            who.append(f"{share:.6g} {entries or type(each).__name__}")
        return {"teacher": f"{self.combine} of {', '.join(who)}"}

    def check(self, dataset: Dataset) -> None:
        for each in self._each:
            each.check(dataset)

    def compare_batches(self, dataset: Dataset, collate_fn: Collate | None) -> None:
        for each in self._each:
            each.compare_batches(dataset, collate_fn)

    def sync(self) -> None:
        for each in self._each:
            each.sync()
