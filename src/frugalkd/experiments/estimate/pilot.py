"""Trainings in miniature: what they keep, and what their rows cost."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Subset

from frugalkd.data.source import is_view_indexed, open_source
from frugalkd.errors import FrugalKDWarning, UnsupportedData
from frugalkd.experiments.estimate.model import Curve, Fit, Share, exactly, forecast
from frugalkd.experiments.recipes.schema import Recipe, StudentRole, TeacherRole
from frugalkd.experiments.runs.from_recipe import make_model
from frugalkd.experiments.runs.targets import encoding_of
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import CrossEntropy
from frugalkd.objectives.objective import features_read
from frugalkd.policies import EpochContext, Plan, Sampling, SelfRegulation
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of
from frugalkd.teachers import FillOptions, LiveTeacher, StoredTargets
from frugalkd.training.api import distill
from frugalkd.training.run import Run

Weights = NDArray[np.float32]
FILL_BATCH = 256
FORWARD = 1 / 3
"""What a forward pass costs of a training step, if it was not measured."""


class Part(NamedTuple):
    """Some samples of a data set as a data set, and their stored soft targets."""

    ids: Ids
    data: Any
    targets: StoredTargets | None = None


def part_of(source: Any, rows: int) -> Part:
    """``rows`` random samples; a smaller part lies within a larger one. Raises UnsupportedData."""
    ids = np.sort(np.random.default_rng(0).permutation(len(source))[:rows])
    if len(ids) == len(source):
        return Part(ids, source)
    if hasattr(source, "subset"):
        return Part(ids, source.subset(ids))
    if is_view_indexed(source):
        raise UnsupportedData(
            f"{type(source).__name__} has views: give it a method subset(ids), so that a pilot can "
            "train on a part of it"
        )
    return Part(ids, Subset(source, ids.tolist()))


@dataclass(frozen=True)
class _Screening(SelfRegulation):
    """All samples are screened, and none is trained on."""

    def set_aside(self, samples: int, seed: int) -> None:
        return None

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        waiting = pool[ledger["visits"][pool] == 0]
        return Plan(pool[:0], screen=waiting, stop=not len(waiting))


@dataclass(frozen=True)
class Trainee:
    """The student or the teacher of a recipe, its training data, and its gate."""

    recipe: Recipe
    role: StudentRole | TeacherRole
    data: Any
    gate: SelfRegulation

    def model(self) -> nn.Module:
        """The model before its training."""
        return make_model(self.role.model, self.data, self.recipe.seed)

    def scale(self, probe: Part, seconds: float, trainings: float, more: float) -> tuple[int, int]:
        """Rows and epochs of the largest miniature for ``seconds``, if each of its rows is in so
        many ``trainings`` and takes ``more`` seconds an epoch: at least 4 batches and 5 epochs (or
        all), all epochs if that leaves 16 batches to each. ``probe`` gives the time of a row.
        """
        ends = [each["wall_seconds"] for each in self.miniature(probe, 2, self.gate)[1].history]
        row = trainings * (ends[-1] - ends[0]) / len(probe.ids) + more
        samples, training, visits = len(self.data), self.role.training, seconds / row
        epochs = max(1, int(training.epochs))
        if visits >= samples * epochs:
            return samples, epochs
        few = min(epochs, max(5, int(visits / (16 * training.batch_size))))
        return min(samples, max(4 * training.batch_size, int(visits / few))), few

    def miniature(
        self, part: Part, epochs: int, gate: SelfRegulation, weights: Weights | None = None
    ) -> tuple[Curve, Run]:
        """Train a new model on ``part`` under ``gate``, without its epochs on all samples.
        ``weights`` are those of all samples."""
        weights = None if weights is None else weights[part.ids]
        rows = len(part.ids) if weights is None else int((weights > 0).sum())
        run = self._train(part, epochs, replace(gate, warmup=0, final_full_epochs=0), weights)
        screened = "planned" if gate.when == "now" else "screened"
        kept, read = ([record[key] / rows for record in run.history] for key in ("rows", screened))
        return Curve(rows, kept, read, first_is_all=gate.when == "last-visit"), run

    def fit(self, part: Part, epochs: float, gate: SelfRegulation) -> Fit:
        """Train a new model on three quarters of ``part``, on all of them in every epoch, and then
        screen all of it."""
        policy = replace(gate, warmup=math.ceil(epochs), final_full_epochs=0, probe=0.25)
        trained = self._train(part, epochs, policy).model
        aside = policy.set_aside(len(part.ids), self.recipe.seed)
        assert aside is not None
        settings = {each.name: getattr(gate, each.name) for each in fields(gate)}
        ledger = self._train(part, 1, _Screening(**settings), model=trained).ledger
        seen, unseen = ledger.correct[~aside].mean(), ledger.correct[aside].mean()
        failing = (ledger["streak"][~aside] == 0).mean()
        return Fit(int((~aside).sum()), float(failing), float(seen - unseen), float(unseen))

    def _train(
        self,
        part: Part,
        epochs: float,
        policy: SelfRegulation,
        weights: Weights | None = None,
        model: nn.Module | None = None,
    ) -> Run:
        """The training of ``model``, or of a new one, on ``part``; without soft targets from the
        labels alone."""
        training = replace(self.role.training, epochs=float(epochs), recalibrate_bn=0)
        objective = self.role.objective.build()
        if objective.needs_targets and part.targets is None:
            alone = self.recipe.teacher.objective.build()
            objective = CrossEntropy() if objective.learns == "one-class" else alone
        # What holds of a small part, such as a class without samples, says nothing about the whole.
        with warnings.catch_warnings(action="ignore", category=FrugalKDWarning):
            return distill(
                self.model() if model is None else model,
                part.data,
                teacher=part.targets,
                sampling=Sampling(
                    policy=policy,
                    weights=weights,
                    label_free=part.targets is not None and getattr(self.role, "label_free", False),
                ),
                objective=objective,
                training=training,
                seed=self.recipe.seed,
                device=self.recipe.device,
            )

    def miniatures(
        self,
        part: Callable[[int], Part],
        scale: tuple[int, int],
        ceiling: float | None = None,
        weights: Weights | None = None,
    ) -> tuple[dict[str, Share], list[Curve], tuple[float, float], Ledger]:
        """Two miniatures of each mode, on ``scale`` (rows, epochs) and on a quarter of the rows,
        or a single one that is the whole training. ``part`` makes a part of so many rows. Modes
        that need a ``ceiling`` or ``weights`` (of all samples) are left out without.

        Returns:
            The share of each mode; and of *regulated* the curves, the larger one first, and the
            larger one's :func:`row_costs` and ledger.
        """
        (rows, epochs), samples, length = scale, len(self.data), self.role.training.epochs
        whole = scale == (samples, max(1, int(length)))
        parts = [part(each) for each in ([rows] if whole else [rows, max(1, rows // 4)])]
        made = [self.miniature(each, epochs, self.gate) for each in parts]
        regulated = [curve for curve, _ in made]
        shares = {"regulated": forecast(regulated, regulated, self.gate, samples, length)}
        if ceiling is not None:
            gate = replace(self.gate, ceiling=ceiling)
            curves = [self.miniature(each, epochs, gate)[0] for each in parts]
            shares["ceiling"] = forecast(curves, regulated, gate, samples, length)
        if weights is not None:
            pool = float((weights > 0).mean())
            shares["significance"] = Share(exactly(pool), pool)
            if all((weights[each.ids] > 0).any() for each in parts):
                curves = [self.miniature(each, epochs, self.gate, weights)[0] for each in parts]
                shares["hybrid"] = forecast(curves, regulated, self.gate, samples, length, pool)
        run = made[0][1]
        return shares, regulated, row_costs(run, regulated[0]), run.ledger


def row_costs(run: Run, curve: Curve) -> tuple[float, float]:
    """Seconds of a row in training steps and in screenings, each with loading. Of steps it is the
    lower quartile over the epochs but the first, because other processes can only add time."""
    phases, ends = run.meters.phases, [record["wall_seconds"] for record in run.history]
    kept, screened = (curve.rows * np.array(each) for each in (curve.kept, curve.screened))
    load = (phases["load"] + phases["wait"]) / (kept.sum() + screened.sum())
    screen = float(phases["screen"] / screened.sum() + load) if screened.any() else 0.0
    used = np.flatnonzero(kept)
    used = used[1:] if len(used) > 1 else used
    steps = (np.diff(ends, prepend=0.0) - screen * screened)[used] / kept[used]
    step = float(np.percentile(steps, 25))
    return step, screen or FORWARD * step


def time_queries(live: LiveTeacher, data: Any, rows: int, seconds: float) -> tuple[float, float]:
    """Seconds of a row of a live query in batches of ``rows``, without loading; and how these
    spread: interquartile range over median."""
    ids, times = np.arange(min(rows, len(data))), []
    with open_source(data) as source:
        batch = send_to_device(next(source.batches([(ids, 0 * ids)])), device_of(live.teacher))
    while len(times) < 4 or (len(times) < 100 and sum(times) < seconds):
        began = time.perf_counter()
        live.fetch(ids, 0 * ids, batch).cpu()
        times.append(time.perf_counter() - began)
    low, middle, high = np.percentile(times[1:], [25, 50, 75])
    return float(low) / len(ids), float((high - low) / middle)


def fill(recipe: Recipe, live: LiveTeacher, part: Part, views: int) -> tuple[Part, float]:
    """``part`` with soft targets in a temporary file, and the seconds of a row."""
    times: list[tuple[int, float]] = []
    targets = StoredTargets.fill(
        live,
        part.data,
        views=views,
        encoding=encoding_of(recipe),
        features=features_read(recipe.student.objective.build()),
        batch_size=FILL_BATCH,
        device=device_of(live.teacher),
        options=FillOptions(
            on_progress=lambda done, total: times.append((done, time.perf_counter()))
        ),
    )
    (first, began), (last, ended) = times[0], times[-1]  # the first batch makes the file
    seconds = (ended - began) / max(1, last - first)
    return part._replace(targets=targets), seconds
