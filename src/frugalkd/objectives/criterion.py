"""The objective of a training: it receives the features that it reads, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.data.batches import form, run_model
from frugalkd.errors import ModelError, ObjectiveError, SelectionMisuse
from frugalkd.models.features import Features, Taps, feature_paths, find_paths, probe_features
from frugalkd.models.identity import inference_mode
from frugalkd.objectives import FeatureObjective, Objective, Shapes, Step, StepFeatures
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import features_read, paths_of, why_not_by_row
from frugalkd.outputs import OUTPUTS
from frugalkd.runtime.failures import blame
from frugalkd.selection import Batch
from frugalkd.teachers import Targets


class Bound(NamedTuple):
    """An objective that reads features: of which modules, of which shapes, and its ``parts``."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    parts: nn.Module
    shapes: Shapes


class Learned(NamedTuple):
    """What a training step has of a batch: ``loss`` with its gradient, and, for ``batch.observe``,
    ``outputs`` (rows, classes) and ``losses`` (rows,), unweighted."""

    loss: Tensor
    outputs: Tensor
    losses: Tensor


class Criterion:
    """An objective for the batches of one training; :func:`bind` makes one for an objective that
    reads features. It is a context: within it the student's features of a forward pass with
    gradients are kept until the criterion is called."""

    def __init__(
        self,
        objective: Objective,
        bound: tuple[Bound | None, ...] = (),
        taps: Taps | None = None,
        projection: nn.Linear | None = None,
    ):
        if not bound and features_read(objective):
            raise ModelError(
                f"{type(objective).__name__} reads features, and has no models to read them from: "
                "let frugalkd.distill train, or make it by frugalkd.objectives.criterion.bind"
            )
        if problem := why_not_by_row(objective):
            raise ObjectiveError(problem)
        self.objective, self.projection = objective, projection
        self.parts = nn.ModuleList(each.parts for each in bound if each is not None)
        """What is trained and kept beside the student."""
        if projection is not None:
            self.parts.append(projection)
        self._bound, self._taps = bound, taps or Taps(nn.Module(), ())

    @property
    def features(self) -> tuple[str, ...]:
        """The teacher's modules whose features are read, for ``Selection.attach``."""
        named = (path for each in self._bound if each is not None for path in each.teacher)
        return tuple(dict.fromkeys(named))

    def project(self, outputs: Tensor) -> Tensor:
        """The student's outputs at the teacher's width, where there is a ``projection``, else
        themselves: for the call, for ``batch.observe`` and for ``Selection.attach``."""
        return outputs if self.projection is None else self.projection(numerics.full(outputs))

    def learn(
        self, forward: Callable[[Any], Tensor], data: Any, labels: Tensor, batch: Batch
    ) -> Learned:
        """The loss of a batch with ``labels``, whose ``data`` go through ``forward`` with
        gradients. Raises ModelError where that fails, and as the call."""
        outputs = self.project(run_model(forward, data, batch.ids))
        losses = self(outputs, labels, batch)
        return Learned(batch.reduce(losses), outputs, losses)

    def __call__(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """One loss per sample, unweighted, of the selection's batch whose forward pass came last,
        from its logits (rows, classes), or :meth:`project` of its outputs, and its labels.

        Raises:
            SelectionMisuse: features are to be read, and there are none of this batch.
            ObjectiveError: the objective fails, or does not return one loss per row.
        """
        weights = batch.weights if batch.weighted else None
        step = Step(logits, batch.targets, labels, weights, batch.progress)
        if self._bound:
            step = step._replace(seen=tuple(self._seen(batch, logits.device)))
        name, rows = type(self.objective).__name__, len(logits)
        try:
            losses = self.objective.losses(step)
        except Exception as error:
            of = f"logits {tuple(logits.shape)}"
            if step.targets is not None:
                of += f" and targets {tuple(step.targets.shape)}"
            blame(error, ObjectiveError, f"{name} fails on {of}")
        if not isinstance(losses, Tensor) or losses.shape != (rows,):
            raise ObjectiveError(
                f"{name} gives {form(losses)} for {rows} rows: give one loss a row"
            )
        detached = logits.requires_grad and not losses.requires_grad
        if not losses.dtype.is_floating_point or detached:
            raise ObjectiveError(
                f"{name} gives losses of type {losses.dtype} without a gradient: compute them from "
                "the logits by differentiable operations"
            )
        return losses

    def flops_per_row(self, rows: int, classes: int, device: torch.device) -> dict[str, float]:
        """FLOPs of one row of a batch of ``rows``, ``forward`` and ``backward``, of what an
        objective that reads features computes beside the student: adapters, products of rows. No
        state and no random stream changes."""
        seen = tuple(None if each is None else _zeros(each, rows, device) for each in self._bound)
        outputs = torch.zeros(rows, classes, device=device, requires_grad=True)
        labels = OUTPUTS[self.objective.learns].from_teacher(outputs.detach())
        projection = copy.deepcopy(self.projection) or nn.Identity()
        forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with torch.random.fork_rng(), torch.enable_grad():
            with forward:
                logits = projection(outputs)
                step = Step(logits, torch.zeros_like(logits), labels, seen=seen)
                loss = self.objective.losses(step).sum()
            with backward:
                loss.backward()
        counted = {"forward": forward, "backward": backward}
        return {name: counter.get_total_flops() / rows for name, counter in counted.items()}

    def _seen(self, batch: Batch, device: torch.device) -> Iterator[StepFeatures | None]:
        of_student, of_teacher = self._taps.take(), batch.features
        ids = torch.from_numpy(batch.ids).to(device, non_blocking=True)
        for each in self._bound:
            if each is None:
                yield None
                continue
            student = _named(
                of_student, each.student,
                "student: call it once for each batch, with gradients, within 'with criterion:'",
            )  # fmt: skip
            teacher = _named(
                of_teacher, each.teacher,
                "teacher: call selection.attach(features=criterion.features) before any epoch",
            )  # fmt: skip
            yield StepFeatures(student, teacher, each.parts, ids)

    def __enter__(self) -> Criterion:
        self._taps.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._taps.__exit__(*reason)


def check_paths(objective: Objective, student: nn.Module) -> None:
    """Raises ModelError, before a teacher is queried, where ``student`` has not the features that
    ``objective`` reads."""
    for term in objective.terms:
        if isinstance(term, FeatureObjective):
            find_paths(paths_of(term.student), feature_paths(student), "the student")


def bind(
    objective: Objective,
    student: nn.Module,
    targets: Targets | None,
    *,
    batch: Callable[[], Any],
    forward: Callable[[Any], Tensor],
    samples: int,
    labels: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Criterion:
    """``objective`` for a training of ``student``. Neither the models nor a random stream change.
    Where it learns embeddings of another width than the student's, a linear layer takes those to
    it, which is one of the criterion's ``parts``.

    Args:
        student: on the device that it is trained on.
        targets: a live teacher, or stored targets with features.
        batch: returns some rows of data on that device, on which both models run to find the
            shapes of their features, or of embeddings; not called where neither is needed.
        forward: the student's logits for a batch of data.
        samples: of the data set.
        labels: int64 (samples,), where the data set has them beforehand.
        seed: of the initial weights of adapters.

    Raises:
        ModelError: a path means no module, the nearest ones being listed; or features are not what
            the objective needs.
        TargetsError: the targets give no such features.
    """
    embeds = objective.learns == "embeddings"
    if not (features_read(objective) or embeds):
        return Criterion(objective)
    device = next(student.parameters()).device
    data = batch()
    projection = None
    if embeds:
        assert targets is not None, "refused before"
        projection = _projection(objective, student, targets, data, forward, device, seed)
    if not features_read(objective):
        return Criterion(objective, projection=projection)
    known = None if labels is None else torch.from_numpy(labels)
    bound: list[Bound | None] = []
    for place, term in enumerate(objective.terms):
        if not isinstance(term, FeatureObjective):
            bound.append(None)
            continue
        assert targets is not None, "refused before"
        patterns = paths_of(term.student)
        given = probe_features(student, patterns, lambda: forward(data), "the student")
        wanted = targets.feature_shapes(paths_of(term.teacher), data)
        shapes = Shapes(tuple(given.values()), tuple(wanted.values()), samples, known)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + place)
            try:
                parts = term.parts(shapes).to(device)
            except (ValueError, ModelError) as error:
                raise ModelError(f"{type(term).__name__}: {error}") from None
        bound.append(Bound(tuple(given), tuple(wanted), parts, shapes))
    paths = (path for each in bound if each is not None for path in each.student)
    taps = Taps(student, tuple(dict.fromkeys(paths)))
    return Criterion(objective, tuple(bound), taps, projection)


def _projection(
    objective: Objective,
    student: nn.Module,
    targets: Targets,
    data: Any,
    forward: Callable[[Any], Tensor],
    device: torch.device,
    seed: int,
) -> nn.Linear | None:
    """From the student's width to the teacher's; None where they are equal."""
    with inference_mode(student):
        own = run_model(forward, data, None).shape[1]
    wanted = targets.classes(data)
    if wanted is None or own == wanted:
        return None
    if not objective.project:
        raise ModelError(
            f"the model gives embeddings of {own} numbers and the teacher of {wanted}, and "
            f"{type(objective).__name__} projects none: set project to true, or end the model with "
            "a linear layer"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Linear(own, wanted).to(device)


def _named(features: Features, paths: tuple[str, ...], advice: str) -> tuple[Tensor, ...]:
    for path in paths:
        if path not in features:
            raise SelectionMisuse(f"no feature {path} of the {advice}")
    return tuple(features[path] for path in paths)


def _zeros(bound: Bound, rows: int, device: torch.device) -> StepFeatures:
    """Features of zeros, and a copy of the parts."""
    student, teacher = (
        tuple(torch.zeros(rows, *shape, device=device) for shape in shapes)
        for shapes in (bound.shapes.student, bound.shapes.teacher)
    )
    for feature in student:
        feature.requires_grad_()
    ids = torch.arange(rows, device=device) % bound.shapes.samples
    return StepFeatures(student, teacher, copy.deepcopy(bound.parts), ids)
