"""What ledger, store and scoring cost, once for all students, and after how many they have paid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from frugalkd.experiments.estimate.model import students_text, students_until_paid
from frugalkd.experiments.report.blocks import (
    NOTHING,
    Block,
    Cell,
    Table,
    amount,
    number,
    percent,
    seconds,
    short,
)
from frugalkd.experiments.report.headline import chosen
from frugalkd.experiments.runs.schema import Arm, Comparison, Run, Teacher

_COMPUTED = (
    "A live teacher's time is computed from this comparison: the rows that the arm trained on, at "
    "the seconds a row that filling the store took; a screening queries no teacher. Filling is in "
    "no arm's time. A ledger saves what its arm's training takes less than {}'s; an arm of mode "
    "regulated needs none."
)
_LEDGER_MODES = ("significance", "hybrid")
_CONVENTIONAL = 0.999
"""Of full training: a teacher that spends more trained on every sample."""

Row = list[Cell | str]


def costs(comparison: Comparison) -> list[Block]:
    """Tables of what is paid once, and of when it has paid, each where it has rows."""
    made: list[Block] = []
    once = [*_teachers(comparison.teachers), *_scorings(comparison.arms)]
    if once:
        headings = ["what", "accuracy %", "samples", "seconds"]
        made.append(Table("Paid once, for all students", headings, once))
    reference = comparison.named(comparison.reference)
    teachers = {teacher.teacher: teacher for teacher in comparison.teachers}
    stored = [arm for arm in (reference, chosen(comparison)) if arm is not None]
    paid = [
        *_against_conventional(comparison.teachers),
        *_ledgers(comparison.arms, teachers, reference),
        *_stores(stored, teachers),
    ]
    if paid:
        headings = ["what", "costs", "saves a student", "paid after"]
        made.append(Table("When it has paid for itself", headings, paid))
        made.append(_COMPUTED.format(short(comparison.reference)))
    return made or ["No teacher was trained and no store was filled for these runs."]


def _teachers(teachers: Sequence[Teacher]) -> Iterator[Row]:
    for teacher in teachers:
        name, store = short(teacher.teacher), teacher.targets
        if teacher.wall_seconds is not None:  # else pretrained, or not trained yet
            what = f"training the teacher {name}, and its ledger"
            accuracy = amount(teacher.accuracy and 100 * teacher.accuracy, 2)
            part = Cell(f"{percent(teacher.budget, 0)} of its training", teacher.budget)
            yield [what, accuracy, part, _seconds(teacher.wall_seconds)]
        if store is not None:
            what = f"storing the soft targets of {name}"
            yield [what, "", amount(store.rows), _seconds(store.seconds)]


def _scorings(arms: Sequence[Arm]) -> Iterator[Row]:
    """A scoring is made once for the arms of all budgets."""
    found = {arm.family: arm.scoring for arm in arms if arm.scoring is not None}
    for family, scoring in found.items():
        what = f"the scoring run of {short(family)} ({short(scoring.kind)})"
        yield [what, "", amount(scoring.samples_backpropagated), _seconds(scoring.wall_seconds)]


def _seconds(value: float) -> Cell:
    sign = "-" if value < 0 else ""
    return Cell(f"{sign}{seconds(abs(value))}", value)


def _against_conventional(teachers: Sequence[Teacher]) -> Iterator[Row]:
    """Of each self-regulated training of a teacher: its time against a conventional one's."""
    times = [(t, t.budget, t.wall_seconds) for t in teachers if t.budget]
    usual = next(((t, spent) for t, budget, spent in times if budget > _CONVENTIONAL), None)
    for teacher, budget, spent in times:
        if usual is None or usual[1] is None or spent is None or budget > _CONVENTIONAL:
            continue
        more = spent - usual[1]
        what = f"the ledger of {short(teacher.teacher)}, instead of {short(usual[0].teacher)}"
        cost = Cell(f"{seconds(abs(more))} {'less' if more < 0 else 'more'}", more)
        yield [what, cost, NOTHING, "at once" if more <= 0 else NOTHING]


def _ledgers(
    arms: Sequence[Arm], teachers: dict[str, Teacher], reference: Arm | None
) -> Iterator[Row]:
    """Of each arm that weighs by a ledger."""
    before = None if reference is None else reference.meters.wall_seconds
    for arm in arms:
        teacher, after = teachers.get(arm.teacher or ""), arm.meters.wall_seconds
        if arm.mode not in _LEDGER_MODES or teacher is None or teacher.wall_seconds is None:
            continue
        if before is not None and after is not None:
            what = f"the whole teacher {short(teacher.teacher)}, for its ledger: {short(arm.arm)}"
            yield _paid(what, teacher.wall_seconds, before, after)


def _stores(arms: Sequence[Arm], teachers: dict[str, Teacher]) -> Iterator[Row]:
    for arm in arms:
        teacher, queried = teachers.get(arm.stored_with or ""), arm.meters.samples_backpropagated
        store = None if teacher is None else teacher.targets
        if teacher is None or store is None or queried is None or store.rows < 1:
            continue
        live = queried * store.seconds / store.rows
        what = f"the store of {short(teacher.teacher)}, against querying live: {short(arm.arm)}"
        yield _paid(what, store.seconds, live, arm.meters.phases.get("store", 0.0))


def _paid(what: str, cost: float, before: float, after: float) -> Row:
    """``cost`` seconds, which take a student from ``before`` to ``after``."""
    count = students_until_paid(cost, before, after)
    return [what, _seconds(cost), _seconds(before - after), Cell(students_text(count), count)]


def run_costs(run: Run) -> list[Block]:
    """What a single run shows of it."""
    rows: list[Row] = []
    if run.kind == "teach":
        spent = f"{percent(run.budget, 0)} of its training, {seconds(run.meters.wall_seconds)}"
        rows.append(["training this teacher, and its ledger", spent])
    targets = run.targets
    if targets is not None and targets.kind == "stored":
        here = "by this run" if targets.filled_here else "before this run"
        if targets.filling is not None:
            here += f", ahead of its training, in {seconds(targets.filling.seconds)}"
        size = "" if targets.bytes is None else f", {targets.bytes / 1e6:,.2g} MB"
        rows.append(["rows stored", f"{number(targets.rows)} {here}{size}"])
    if run.scoring is not None:
        spent = f"{number(run.scoring.samples_backpropagated)} samples"
        rows.append(["scoring run", f"{spent}, {seconds(run.scoring.wall_seconds)}"])
    note = (
        "After how many students a ledger or a store has paid for itself, only a comparison can "
        "show: frugalkd compare."
    )
    return [Table("Paid once", ["what", "how much"], rows), note] if rows else [note]
