"""The pilot from end to end, and what it comes to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from frugalkd.data import randomness
from frugalkd.errors import SettingError
from frugalkd.experiments.estimate.arithmetic import (
    EVERYONE,
    PAYS_BELOW,
    Size,
    mode_estimate,
    student_seconds,
    students_until_paid,
    teacher_seconds,
)
from frugalkd.experiments.estimate.forecast import NOBODY
from frugalkd.experiments.estimate.part import part_of
from frugalkd.experiments.estimate.result import (
    BreakEven,
    Costs,
    Estimate,
    Flops,
    ModeEstimate,
    Pilot,
    Share,
    TargetsKind,
    TeacherEstimate,
)
from frugalkd.experiments.estimate.setting import Setting, prepare
from frugalkd.experiments.estimate.student_side import (
    CEILING,
    Shares,
    Store,
    StudentPilot,
    StudentTimes,
    bounded,
)
from frugalkd.experiments.estimate.teacher_side import (
    TeacherFound,
    fill,
    pilot_teacher,
    time_asking,
)
from frugalkd.experiments.estimate.timing import Timing
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.models.flops import flops_of_data
from frugalkd.policies.modes import MODES
from frugalkd.runtime.devices import autocast
from frugalkd.teachers import StoredTargets

NOISY = 0.15
"""The spread of equal stretches of work from which the machine counts as noisy."""

_FAR = 6.0
"""Doublings from the miniature to the whole from which the forecast is called thin."""

Say = Callable[[str], None]


def estimate(
    recipe: Recipe,
    *,
    teacher: Path | None = None,
    seconds: float = 20.0,
    say: Say | None = None,
) -> Estimate:
    """What selection will pay on the recipe's model pair, from a pilot of about ``seconds``.

    Args:
        recipe: its student section says the model, the objective, the gate, and the targets.
        teacher: a folder made by ``teach``: its ledger and its counts are used. Without one
            (and without ``teacher.weights``) costs are those of an untrained teacher, which are the
            same, and the student's miniatures learn from the labels alone.
        seconds: of the pilot, reading the data apart; small steps take what a few of them take.
        say: told what is being measured.

    Raises:
        SettingError: ``seconds`` is not positive and finite.
        LedgerError, ModelError, DataError, RunFolderError: as a distillation would.
        UnsupportedData: the data have views, and no ``subset(ids)``.
    """
    if not 0 < seconds < math.inf:
        raise SettingError(f"seconds must be positive and finite, not {seconds}")
    say = say or _silent
    setting = prepare(recipe, teacher)
    started = time.perf_counter()
    student = StudentPilot(setting)
    asked = student.objective.needs_targets
    say("the teacher, asked")
    ask, filling, first = _ask(setting, seconds) if asked else (None, None, _no_store(setting))
    say("the teacher's own training")
    found = pilot_teacher(setting, (0.28 if setting.counted is None else 0.1) * seconds)
    say("the student's step")
    times = student.time(first, 0.07 * seconds)
    say("the student in miniature")
    left = max(0.3 * seconds, 0.9 * seconds - (time.perf_counter() - started))
    shares = student.shares(times, filling.seconds if filling else 0.0, left)
    say("the steps once more")
    times += student.time(first, 0.07 * seconds)
    if ask is not None:
        ask += time_asking(setting, 0.03 * seconds)
    costs = Costs(
        step=times.step.seconds,
        screen=times.screen.seconds,
        ask=ask.seconds if ask else 0.0,
        fill=filling.seconds if filling else 0.0,
        teacher_step=found.step.seconds,
        teacher_screen=found.screen.seconds,
    )
    pilot = _describe(shares, times, costs, time.perf_counter() - started)
    return _put_together(setting, student, costs, found, shares, pilot, first.stored)


def _silent(line: str) -> None:
    pass


def _no_store(setting: Setting) -> Store:
    return Store(part_of(setting.data, setting.samples), None)


def _ask(setting: Setting, seconds: float) -> tuple[Timing, Timing, Store]:
    """What asking the teacher costs, live and into a store; and a small store."""
    ask = time_asking(setting, 0.05 * seconds)
    least = 2 * setting.recipe.student.training.batch_size
    rows = max(least, 3 * 256, int(0.06 * seconds / ask.seconds))
    part = part_of(setting.data, min(setting.samples, rows))
    stored, filling = fill(setting, part, 1)
    return ask, filling, Store(part, stored)


def _describe(shares: Shares, times: StudentTimes, costs: Costs, seconds: float) -> Pilot:
    curve, run = shares.curve, shares.run
    predicted = curve.rows * (sum(curve.kept) * costs.step + sum(curve.screened) * costs.screen)
    return Pilot(
        seconds=seconds,
        rows=shares.scale.rows,
        epochs=shares.scale.epochs,
        small_rows=shares.small_rows,
        kept=curve.mean,
        spread=max(times.step.spread, times.screen.spread),
        check=predicted / run.meters.wall_seconds,
    )


def _put_together(
    setting: Setting,
    student: StudentPilot,
    costs: Costs,
    found: TeacherFound,
    shares: Shares,
    pilot: Pilot,
    stored: StoredTargets | None,
) -> Estimate:
    recipe, training = setting.recipe, setting.recipe.student.training
    size = _size(setting, stored)
    flops = _flops(setting, student)
    known = shares.modes
    every = {**bounded(known["regulated"], found), **known}
    asked = student.objective.needs_targets
    rows = _rows(setting, every, costs, flops, size, asked)
    chosen = _verdict_mode(setting)
    row = next(row for row in rows if row.mode == chosen)
    of_teacher = _teacher(setting, costs, found)
    result = Estimate(
        recipe=recipe.name,
        samples=setting.samples,
        epochs=training.epochs,
        batch_size=training.batch_size,
        device=setting.device.type,
        threads=recipe.threads,
        costs=costs,
        flops=flops,
        r_flops=flops.teacher_forward / flops.student_forward if flops.student_forward else 0.0,
        r_time=costs.ask / costs.screen,
        teacher_per_step_flops=_per_step(flops),
        teacher_per_step_time=costs.ask / costs.step,
        modes=rows,
        teacher=of_teacher,
        break_even=_break_even(rows, every[chosen], costs, size, of_teacher),
        verdict_mode=chosen,
        pays=None if _silent_on(row, pilot) else row.pays,
        verdict=_verdict(row, told=not _silent_on(row, pilot)),
        pilot=pilot,
        warnings=[*setting.warnings, *_doubts(setting, student, pilot)],
    )
    return result


def _per_step(flops: Flops) -> float:
    step = flops.student_forward + flops.student_backward
    return flops.teacher_forward / step if step else 0.0


def _size(setting: Setting, stored: StoredTargets | None) -> Size:
    """``stored``: of a part of the data, as those of all samples will be; None where none are."""
    targets, training = setting.recipe.student.targets, setting.recipe.student.training
    stores = [] if stored is None else [stored.store, *stored.features.values()]
    all_samples = {"samples": setting.samples, "views": targets.views, "shards": 1}
    disk = sum(replace(store.header, **all_samples).disk_bytes for store in stores)
    return Size(setting.samples, training.epochs, targets.views, disk)


def _flops(setting: Setting, student: StudentPilot) -> Flops:
    model, live = student.model(), setting.live
    of_student = flops_of_data(
        model,
        setting.data,
        setting.device,
        precision=partial(autocast, model, student.training.precision),
    )
    of_teacher = flops_of_data(live.teacher, setting.data, setting.device, precision=live.autocast)
    return Flops(
        of_student["forward"], of_student["backward"], of_teacher["forward"], of_teacher["backward"]
    )


def _rows(
    setting: Setting,
    every: dict[str, Share],
    costs: Costs,
    flops: Flops,
    size: Size,
    asked: bool,
) -> list[ModeEstimate]:
    """Vanilla in both ways, then every mode that selects, with the recipe's targets."""
    storable = asked and not randomness(setting.data)
    asks = setting.recipe.student.targets.kind
    assert asks != "ema", "the setting refuses it"
    kind: TargetsKind = asks if asked else "none"
    if asked and not storable:
        setting.warnings.append(
            "these data give other pixels each time they are asked: soft targets cannot be stored"
        )
    kinds: list[TargetsKind] = ["live", "stored"] if storable else [kind]
    rows = [mode_estimate("vanilla", EVERYONE, costs, flops, size, each) for each in kinds]
    for name, mode in MODES.items():
        if mode.gated or mode.weighted:
            rows.append(mode_estimate(name, every[name], costs, flops, size, kind))
    if storable and "ceiling" in every:
        name = f"ceiling {CEILING:g}"
        rows.append(mode_estimate(name, every["ceiling"], costs, flops, size, "stored"))
    return rows


def _verdict_mode(setting: Setting) -> str:
    """The recipe's own mode, if it selects."""
    mode = setting.recipe.student.mode
    return mode if mode is not None and mode != "vanilla" else "regulated"


def _silent_on(row: ModeEstimate, pilot: Pilot) -> bool:
    """Whether the miniature was too small to see anybody pass, so that it cannot say no."""
    return bool(pilot.small_rows and pilot.kept > NOBODY and row.of_vanilla.low < PAYS_BELOW)


def _verdict(row: ModeEstimate, *, told: bool) -> str:
    ratio = row.of_vanilla
    about = (
        f"{ratio.point:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) of the time of vanilla with the "
        "same targets"
    )
    if not told:
        return (
            "this pilot is too short to say whether selection pays: nobody passed the gate in it; "
            f"{row.mode} is expected to take {about}"
        )
    if not row.pays:
        return f"selection will not pay here: {row.mode} is expected to take {about}"
    if ratio.high >= PAYS_BELOW:
        return f"selection may pay here: {row.mode} is expected to take {about}"
    return f"selection pays here: {row.mode} is expected to take {about}"


def _teacher(setting: Setting, costs: Costs, found: TeacherFound) -> TeacherEstimate:
    epochs = setting.teacher_role.training.epochs
    alone = teacher_seconds(EVERYONE, costs, setting.samples, epochs).point
    share = setting.counted or found.share
    assert share is not None, "what no folder says is piloted"
    return TeacherEstimate(
        known=setting.known,
        ledger=setting.weights is not None,
        conventional=alone,
        self_regulated=teacher_seconds(share, costs, setting.samples, epochs),
        kept=share.kept,
        counted=setting.counted is not None,
        folder_seconds=setting.folder_seconds,
    )


def _break_even(
    rows: list[ModeEstimate], chosen: Share, costs: Costs, size: Size, teacher: TeacherEstimate
) -> BreakEven:
    by = {(row.mode, row.targets): row for row in rows}
    kind = next(row.targets for row in rows if row.mode == "regulated")
    vanilla, regulated = by["vanilla", kind], by["regulated", kind]
    best = min(by["hybrid", kind].seconds.point, by["significance", kind].seconds.point)
    store = store_mode = None
    if ("vanilla", "stored") in by and ("vanilla", "live") in by:
        filled = by["vanilla", "stored"]
        live = by["vanilla", "live"]
        store = students_until_paid(filled.fill_seconds, live.seconds.point, filled.seconds.point)
        store_mode = students_until_paid(
            chosen.pool * filled.fill_seconds,
            student_seconds(chosen, costs, size, "live").point,
            student_seconds(chosen, costs, size, "stored").point,
        )
    whole = teacher.self_regulated.point
    return BreakEven(
        store=store,
        store_mode=store_mode,
        ledger=students_until_paid(whole, vanilla.seconds.point, best),
        ledger_trained_anyway=students_until_paid(
            whole - teacher.conventional, vanilla.seconds.point, best
        ),
        ledger_over_regulated=students_until_paid(whole, regulated.seconds.point, best),
    )


def _doubts(setting: Setting, student: StudentPilot, pilot: Pilot) -> list[str]:
    """What to doubt the figures for."""
    said = []
    if pilot.spread > NOISY:
        said.append(
            f"the machine was noisy: equal stretches of work spread by {100 * pilot.spread:.0f} % "
            "(interquartile range over median); times are rough, run it again on an idle machine"
        )
    if not 0.7 <= pilot.check <= 1.4:
        said.append(
            f"the costs explain {100 * pilot.check:.0f} % of what the miniature took: times are "
            "rough"
        )
    if pilot.small_rows and pilot.kept > NOBODY:
        said.append(
            f"hardly a sample passed the gate in the miniature ({pilot.rows:,} samples, "
            f"{pilot.epochs} epochs): it cannot say how many will in the whole training; give more "
            "--seconds"
        )
    visits = setting.samples * setting.recipe.student.training.epochs
    if visits > 2**_FAR * pilot.rows * pilot.epochs:
        said.append(
            f"the miniature had {pilot.rows:,} samples and {pilot.epochs} epochs, little for this "
            "pair: kept fractions are thin; give more --seconds"
        )
    if setting.known == "untrained" and student.objective.needs_targets:
        said.append(
            "no teacher: the kept fractions are those of a student that learns from the labels "
            "alone; rows marked ~ are only bounded; --teacher DIR tells more"
        )
    return said
