"""What ledger, store and scoring cost, once for all students, and after how many they have paid."""

from __future__ import annotations

from collections.abc import Sequence

from frugalkd.experiments.estimate.arithmetic import students_text, students_until_paid
from frugalkd.experiments.report.blocks import Cell, Note, Table
from frugalkd.experiments.report.headline import chosen
from frugalkd.experiments.report.text import NOTHING, number, percent, seconds, short
from frugalkd.experiments.runs.schema import Arm, Comparison, Run, Teacher

_RECKONED = (
    "A live teacher's time is computed from this comparison: the rows that the arm trained on, at "
    "the seconds a row that filling the store took; a screening queries no teacher. Filling is in "
    "no arm's time."
)
_LEDGER = (
    "A ledger saves what its arm's training takes less than {}'s; an arm of mode regulated needs "
    "none."
)
_LEDGER_MODES = ("significance", "hybrid")


def costs(comparison: Comparison) -> list[Table | Note]:
    """Tables of what is paid once, and of when it has paid, each where there is something in it."""
    made: list[Table | Note] = []
    once = [*_teachers(comparison.teachers), *_scorings(comparison.arms)]
    if once:
        made.append(
            Table(
                "Paid once, for all students",
                ["what", "accuracy %", "samples", "seconds"],
                once,
                [False, True, True, True],
            )
        )
    reference, arm = comparison.named(comparison.reference), chosen(comparison)
    students_of = [a for a in (reference, arm) if a is not None]
    paid = [*_ledgers(comparison, reference), *_stores(comparison, students_of)]
    if paid:
        made.append(
            Table(
                "When it has paid for itself",
                ["what", "costs", "saves a student", "paid after"],
                paid,
                [False, True, True, True],
            )
        )
        made.append(Note(_RECKONED + " " + _LEDGER.format(short(comparison.reference))))
    return made or [Note("No teacher was trained and no store was filled for these runs.")]


def _teachers(teachers: Sequence[Teacher]) -> list[list[Cell]]:
    rows = []
    for teacher in teachers:
        name = short(teacher.teacher)
        accuracy = None if teacher.accuracy is None else 100 * teacher.accuracy
        if teacher.wall_seconds is not None:  # else pretrained, or not trained yet
            rows.append(
                [
                    Cell(f"training the teacher {name}, and its ledger"),
                    Cell(NOTHING if accuracy is None else f"{accuracy:.2f}", accuracy),
                    Cell(f"{percent(teacher.budget, 0)} of its training", teacher.budget),
                    Cell(seconds(teacher.wall_seconds), teacher.wall_seconds),
                ]
            )
        if teacher.targets is not None:
            store = teacher.targets
            rows.append(
                [
                    Cell(f"storing the soft targets of {name}"),
                    Cell(""),
                    Cell(number(store.rows), store.rows),
                    Cell(seconds(store.seconds), store.seconds),
                ]
            )
    return rows


def _scorings(arms: Sequence[Arm]) -> list[list[Cell]]:
    """A scoring is made once for the arms of all budgets."""
    found = {arm.family: arm.scoring for arm in arms if arm.scoring is not None}
    return [
        [
            Cell(f"the scoring run of {short(family)} ({short(scoring.kind)})"),
            Cell(""),
            Cell(number(scoring.samples_backpropagated), scoring.samples_backpropagated),
            Cell(seconds(scoring.wall_seconds), scoring.wall_seconds),
        ]
        for family, scoring in found.items()
    ]


def _ledgers(comparison: Comparison, reference: Arm | None) -> list[list[Cell]]:
    """Of each arm that weighs by a ledger; and of a self-regulated training against another."""
    rows = []
    by_name = {teacher.teacher: teacher for teacher in comparison.teachers}
    conventional = next((t for t in comparison.teachers if t.budget and t.budget > 0.999), None)
    for teacher in comparison.teachers:
        if conventional is None or not teacher.budget or teacher.budget > 0.999:
            continue
        if teacher.wall_seconds is None or conventional.wall_seconds is None:
            continue
        more = teacher.wall_seconds - conventional.wall_seconds
        what = f"the ledger of {short(teacher.teacher)}, instead of {short(conventional.teacher)}"
        saved = "less" if more < 0 else "more"
        rows.append(
            [
                Cell(what),
                Cell(f"{seconds(abs(more))} {saved}", more),
                Cell(NOTHING),
                Cell("at once" if more <= 0 else NOTHING),
            ]
        )
    for arm in comparison.arms:
        teacher = by_name.get(arm.teacher or "")
        if arm.mode not in _LEDGER_MODES or teacher is None or reference is None:
            continue
        before, after = reference.meters.wall_seconds, arm.meters.wall_seconds
        if teacher.wall_seconds is None or before is None or after is None:
            continue
        count = students_until_paid(teacher.wall_seconds, before, after)
        rows.append(
            [
                Cell(
                    f"the whole teacher {short(teacher.teacher)}, for its ledger: {short(arm.arm)}"
                ),
                *_paid(teacher.wall_seconds, before - after, count),
            ]
        )
    return rows


def _stores(comparison: Comparison, arms: Sequence[Arm]) -> list[list[Cell]]:
    by_name = {teacher.teacher: teacher for teacher in comparison.teachers}
    rows = []
    for arm in arms:
        teacher = by_name.get(arm.stored_with or "")
        asked = arm.meters.samples_backpropagated
        if teacher is None or teacher.targets is None or asked is None or teacher.targets.rows < 1:
            continue
        store = teacher.targets
        live = asked * store.seconds / store.rows
        stored = arm.meters.phases.get("store", 0.0)
        count = students_until_paid(store.seconds, live, stored)
        rows.append(
            [
                Cell(
                    f"the store of {short(teacher.teacher)}, against asking live: {short(arm.arm)}"
                ),
                *_paid(store.seconds, live - stored, count),
            ]
        )
    return rows


def _paid(cost: float, saving: float, count: int | None) -> list[Cell]:
    sign = "" if saving >= 0 else "-"
    return [
        Cell(seconds(cost), cost),
        Cell(f"{sign}{seconds(abs(saving))}", saving),
        Cell(students_text(count), count),
    ]


def run_costs(run: Run) -> list[Table | Note]:
    """What a single run says of it."""
    rows = []
    if run.kind == "teach":
        spent = f"{percent(run.budget, 0)} of its training, {seconds(run.meters.wall_seconds)}"
        rows.append([Cell("training this teacher, and its ledger"), Cell(spent)])
    if run.targets is not None and run.targets.kind == "stored":
        here = "by this run" if run.targets.filled_here else "before this run"
        if (filling := run.targets.filling) is not None:
            here += f", ahead of its training, in {seconds(filling.seconds)}"
        size = "" if run.targets.bytes is None else f", {run.targets.bytes / 1e6:,.2g} MB"
        rows.append([Cell("rows stored"), Cell(f"{number(run.targets.rows)} {here}{size}")])
    if run.scoring is not None:
        spent = f"{number(run.scoring.samples_backpropagated)} samples"
        rows.append([Cell("scoring run"), Cell(f"{spent}, {seconds(run.scoring.wall_seconds)}")])
    said: list[Table | Note] = (
        [Table("Paid once", ["what", "how much"], rows, [False, False])] if rows else []
    )
    return [
        *said,
        Note(
            "After how many students a ledger or a store has paid for itself, only a comparison "
            "can say: frugalkd compare."
        ),
    ]
