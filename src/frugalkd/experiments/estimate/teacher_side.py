"""The teacher's part of the pilot: what asking it costs, and what its own training costs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import nn

from frugalkd.experiments.estimate.forecast import fall_per_doubling, kept_fraction, screening_rate
from frugalkd.experiments.estimate.looks import asking, screening_look
from frugalkd.experiments.estimate.miniature import choose_scale, run_miniature
from frugalkd.experiments.estimate.part import Part, part_of
from frugalkd.experiments.estimate.result import Share, exactly
from frugalkd.experiments.estimate.setting import Setting, gate_of
from frugalkd.experiments.estimate.timing import Timing, time_looks, time_training
from frugalkd.experiments.runs.material import make_model
from frugalkd.experiments.runs.targets import encoding_of
from frugalkd.objectives.objective import features_read
from frugalkd.policies import All, Policy, Sampling
from frugalkd.teachers import StoredTargets
from frugalkd.training.api import train_teacher
from frugalkd.training.settings import Training
from frugalkd.training.trainer import Run

FILL_BATCH = 256
"""Rows in which a store is filled."""

KEPT_WHERE_TWO = 0.65, 0.13
"""Rows kept and screened of a small miniature, to choose its size by; nothing else uses them."""


@dataclass(frozen=True)
class TeacherFound:
    """What a teacher's own training costs.

    Attributes:
        step, screen: of a row, as in ``Costs``.
        share: what its gate would keep; None where its folder says what it took.
        ever: the part of the samples that took part at least once in the miniature; 1.0 without.
    """

    step: Timing
    screen: Timing
    share: Share | None
    ever: float


def time_asking(setting: Setting, seconds: float) -> Timing:
    """One row asked live, at the student's batch size."""
    return time_looks(
        asking(setting.live),
        setting.data,
        setting.recipe.student.training.batch_size,
        setting.device,
        seconds,
        with_loading=False,
    )


def fill(setting: Setting, part: Part, views: int) -> tuple[StoredTargets, Timing]:
    """Soft targets of ``part`` in a nameless file, and what a row of them took."""
    ends: list[tuple[int, float]] = [(0, time.perf_counter())]
    stored = StoredTargets.fill(
        setting.live,
        part.data,
        views=views,
        encoding=encoding_of(setting.recipe),
        features=features_read(setting.recipe.student.objective.build()),
        batch_size=FILL_BATCH,
        device=setting.device,
        listener=lambda done, of: ends.append((done, time.perf_counter())),
    )
    if len(ends) > 3:  # the first batch makes the file
        ends = ends[1:]
    rows, clock = np.diff(np.array(ends, dtype=np.float64), axis=0).T
    return stored, Timing(tuple(clock / rows))


def pilot_teacher(setting: Setting, seconds: float) -> TeacherFound:
    """Time the teacher's own training, and where nothing is known of it train it in miniature."""
    role, gate = setting.teacher_role, gate_of(setting.teacher_role)
    data, samples = setting.teacher_data, setting.samples
    training = role.training

    def train(part: Part, settings: Training, policy: Policy) -> Run:
        return train_teacher(
            _fresh(setting),
            part.data,
            sampling=Sampling(policy=policy),
            objective=role.objective.build(),
            training=settings,
            seed=setting.recipe.seed,
            device=setting.recipe.device,
        )

    counted = setting.counted is not None
    part_for_time = 0.7 if counted else 0.25
    step = time_training(
        lambda part, settings: train(part, settings, All()),
        part_of(data, samples),
        training,
        part_for_time * seconds,
    )
    look = screening_look(_fresh(setting), training, setting.recipe.device)
    screen = time_looks(
        look, data, training.screen_batch, setting.device, 0.1 * seconds, with_loading=True
    )
    if counted:
        return TeacherFound(step, screen, None, 1.0)
    kept, looked = KEPT_WHERE_TWO
    row = 1.35 * (kept * step.seconds + looked * screen.seconds)
    scale = choose_scale(row, 0.65 * seconds, samples, training.epochs, training.batch_size)
    large = part_of(data, scale.rows)
    curve, run = run_miniature(train, large, training, gate, scale.epochs)
    first_is_all = gate.when == "last-visit"
    fall = 0.0
    if not scale.whole:
        small, _ = run_miniature(
            train, large.some(max(1, scale.rows // 4)), training, gate, scale.epochs
        )
        fall = fall_per_doubling(small, curve, first_is_all=first_is_all)
    share = Share(
        kept_fraction(curve, exactly(fall), samples, training.epochs, first_is_all=first_is_all),
        screen_rate=screening_rate(curve, sleep_of(gate), training.epochs),
        reads_all=not first_is_all,
    )
    return TeacherFound(step, screen, share, float((run.ledger.significance > 0).mean()))


def sleep_of(gate: Policy):
    """The gate's epochs of sleep after a number of passes, as a plain function."""
    return lambda streak: int(gate.skip_epochs(np.array([streak], dtype=np.uint8))[0])


def _fresh(setting: Setting) -> nn.Module:
    """The teacher before its training."""
    return make_model(setting.teacher_role.model, setting.data, setting.recipe.seed)
