"""The student's part of the pilot: what a step costs, and miniatures of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from frugalkd.experiments.estimate.forecast import (
    Curve,
    fall_of,
    fall_per_doubling,
    kept_fraction,
    screening_rate,
)
from frugalkd.experiments.estimate.looks import screening_look
from frugalkd.experiments.estimate.miniature import Scale, choose_scale, run_miniature
from frugalkd.experiments.estimate.part import Part, Within, part_of
from frugalkd.experiments.estimate.result import Range, Share, exactly
from frugalkd.experiments.estimate.setting import Setting
from frugalkd.experiments.estimate.teacher_side import KEPT_WHERE_TWO, TeacherFound, fill, sleep_of
from frugalkd.experiments.estimate.timing import Timing, time_looks, time_training
from frugalkd.experiments.runs.material import make_model
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import All, Policy, Sampling, SelfRegulation
from frugalkd.teachers import StoredTargets
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from frugalkd.training.trainer import Run

CEILING = 0.9
"""The ceiling of the row *with ceiling*, where the recipe names none."""

LABELS_ALONE = 0.75, 1.25
"""What the ends are multiplied by where a miniature learns from the labels alone. Soft targets made
the gate pass more on Fashion-MNIST (0.86 to 0.89 of the rows kept), less on the digits (1.16)."""

MOST_VIEWS = 4
"""Views that a pilot stores of a sample at the most: enough for the pixels to differ."""


@dataclass(frozen=True)
class StudentTimes:
    """Of a row: a training step, a screening."""

    step: Timing
    screen: Timing

    def __add__(self, other: StudentTimes) -> StudentTimes:
        """Both together: the same work, at two times."""
        return StudentTimes(self.step + other.step, self.screen + other.screen)


@dataclass(frozen=True)
class Shares:
    """What each mode keeps, and the miniature that says so."""

    modes: dict[str, Share]
    scale: Scale
    small_rows: int
    curve: Curve
    run: Run


@dataclass(frozen=True)
class Store:
    """Soft targets of a part of the data; None where the objective needs none."""

    part: Part
    stored: StoredTargets | None


class StudentPilot:
    """Trains the recipe's student on parts of its data."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.role = setting.recipe.student
        self.objective = self.role.objective.build()
        self.training = self.role.training
        self.learns_from_teacher = self.objective.needs_targets and setting.known != "untrained"
        """Without a teacher that knows anything a miniature learns from the labels alone."""

    def model(self) -> nn.Module:
        """The student before its training."""
        return make_model(self.role.model, self.setting.data, self.setting.recipe.seed).to(
            self.setting.device
        )

    def train(
        self,
        part: Part,
        training: Training,
        policy: Policy,
        store: Store,
        *,
        weighted: bool = False,
        labels_alone: bool = False,
    ) -> Run:
        """Distil a new student on ``part``, which lies within the store's."""
        setting = self.setting
        targets = None
        if store.stored is not None and not labels_alone:
            targets = Within(store.stored, store.part, part)
        weights = None
        if weighted:
            assert setting.weights is not None
            weights = setting.weights[part.ids]
        return distill(
            self.model(),
            part.data,
            teacher=targets,
            sampling=Sampling(policy=policy, weights=weights),
            objective=CrossEntropy() if labels_alone else self.objective,
            training=training,
            seed=setting.recipe.seed,
            device=setting.recipe.device,
        )

    def time(self, store: Store, seconds: float) -> StudentTimes:
        """Time a step and a screening."""
        step = time_training(
            lambda part, training: self.train(part, training, All(), store),
            store.part,
            self.training,
            0.8 * seconds,
        )
        setting = self.setting
        screen = time_looks(
            screening_look(self.model(), self.training, setting.recipe.device),
            setting.data,
            self.training.screen_batch,
            setting.device,
            0.2 * seconds,
            with_loading=True,
        )
        return StudentTimes(step, screen)

    def shares(self, times: StudentTimes, fill_row: float, seconds: float) -> Shares:
        """Run the miniatures, for about ``seconds`` together, and forecast what each mode keeps.

        Args:
            times: what rows cost, to choose the size by.
            fill_row: seconds of asking the teacher for a row.
            seconds: for all of it.
        """
        setting, gate = self.setting, self.setting.regulation
        weighted = setting.weights is not None
        ceilings = self.learns_from_teacher and _knows_truth(self.role.targets.encoding)
        scale, views = self._scale(times, fill_row, seconds, weighted, ceilings)
        large = part_of(setting.data, scale.rows)
        stored = fill(setting, large, views)[0] if self.learns_from_teacher else None
        store = Store(large, stored)

        labels_alone = self.objective.needs_targets and not self.learns_from_teacher

        def miniature(part: Part, gate: SelfRegulation, weighted: bool = False):
            pool = None
            if weighted and setting.weights is not None:
                pool = int((setting.weights[part.ids] > 0).sum())
            return run_miniature(
                lambda part, training, policy: self.train(
                    part,
                    training,
                    policy,
                    store,
                    weighted=weighted,
                    labels_alone=labels_alone,
                ),
                part,
                self.training,
                gate,
                scale.epochs,
                pool,
            )

        plain = replace(gate, ceiling=None) if not ceilings else gate
        first_is_all = gate.when == "last-visit"
        small = None if scale.whole else large.some(max(1, scale.rows // 4))

        def fall(large: Curve, gate: SelfRegulation, weighted: bool = False) -> float:
            if small is None:
                return 0.0
            return fall_per_doubling(
                miniature(small, gate, weighted)[0], large, first_is_all=first_is_all
            )

        def share(curve: Curve, fall: Range, pool: float = 1.0) -> Share:
            rows, epochs = round(pool * setting.samples), self.training.epochs
            kept = kept_fraction(curve, fall, rows, epochs, first_is_all=first_is_all)
            if gate.confidence > 1 and gate.ceiling is None:  # nobody can pass
                kept = exactly(1.0)
            elif labels_alone:
                low, high = LABELS_ALONE
                kept = Range(kept.point, low * kept.low, min(1.0, high * kept.high))
            made = Share(
                kept.map(lambda value: pool * value),
                pool,
                screening_rate(curve, sleep_of(gate), epochs),
                reads_all=not first_is_all,
            )
            return _forced(made, gate, epochs)

        curve, run = miniature(large, plain)
        of_regulated = fall(curve, plain)
        modes = {"regulated": share(curve, exactly(of_regulated))}
        if ceilings and gate.ceiling is None:
            capped = replace(gate, ceiling=CEILING)
            seen, _ = miniature(large, capped)
            own = fall_of(fall(seen, capped), of_regulated, seen)
            modes["ceiling"] = share(seen, own)
        if setting.weights is not None:
            pool = float((setting.weights > 0).mean())
            modes["significance"] = Share(exactly(pool), pool)
            if all((setting.weights[part.ids] > 0).any() for part in (large, small or large)):
                seen, _ = miniature(large, plain, weighted=True)
                own = fall_of(fall(seen, plain, weighted=True), of_regulated, seen)
                modes["hybrid"] = share(seen, own, pool)
        small_rows = 0 if small is None else len(small.ids)
        return Shares(modes, scale, small_rows, curve, run)

    def _scale(
        self, times: StudentTimes, fill_row: float, seconds: float, weighted: bool, ceilings: bool
    ) -> tuple[Scale, int]:
        """The size of the miniatures, and the stored views of a sample."""
        kept, looked = KEPT_WHERE_TWO
        looked = 1.0 if self.setting.regulation.when == "now" else looked
        trainings = 1.35 + 1.1 * ceilings + 0.9 * weighted
        row = trainings * (kept * times.step.seconds + looked * times.screen.seconds)
        epochs = max(1, int(self.training.epochs))
        views = min(self._views, epochs)
        if self.learns_from_teacher:
            row += views * fill_row / min(epochs, 10)
        scale = choose_scale(
            row, seconds, self.setting.samples, self.training.epochs, self.training.batch_size
        )
        return scale, min(views, scale.epochs)

    @property
    def _views(self) -> int:
        """Views to store in the pilot: those of the recipe, but few."""
        augment = self.role.augment
        if not (augment.crop or augment.flip):
            return 1
        live = self.role.targets.kind == "live"
        return MOST_VIEWS if live else min(MOST_VIEWS, self.role.targets.views)


def _knows_truth(encoding: str) -> bool:
    """Whether stored targets say the teacher's probability at temperature 1."""
    return encoding in ("float16", "float32")


def _forced(share: Share, gate: SelfRegulation, epochs: float) -> Share:
    """Put back the epochs in which everything takes part, which the miniature leaves out."""
    forced = min(1.0, (gate.warmup + gate.final_full_epochs) / epochs)
    if not forced:
        return share
    return replace(
        share, kept=share.kept.map(lambda kept: forced * share.pool + (1 - forced) * kept)
    )


def bounded(regulated: Share, teacher: TeacherFound) -> dict[str, Share]:
    """What can be said of modes that need a ledger, or a teacher that knows something, without
    one: bounds, and their geometric middle.

    A sample that ever took part in the teacher's training is in *significance*: no fewer than the
    teacher keeps in the mean epoch, no more than ever took part in its miniature. *hybrid* lies
    between independence of the two gates and all of the pool.
    """
    own = regulated.kept
    least = own if teacher.share is None else teacher.share.kept
    most = max(teacher.ever, least.point)
    pool = Range(float(np.sqrt(least.point * most)), min(least.low, most), most)
    hybrid = Range(
        min(float(np.sqrt(own.point * pool.point)), pool.point), own.low * pool.low, pool.high
    )
    low = 0.5 * own.low
    return {
        "significance": Share(pool, pool.point, rough=True),
        "hybrid": Share(hybrid, pool.point, regulated.screen_rate, regulated.reads_all, rough=True),
        "ceiling": replace(
            regulated,
            kept=Range(float(np.sqrt(low * own.high)), low, own.high),
            rough=True,
        ),
    }
