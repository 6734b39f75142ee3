"""The sections of a comparison's page, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frugalkd.experiments.comparison.summary import FIELDS
from frugalkd.experiments.report import figures
from frugalkd.experiments.report.again import FILE, compare_command, recipe_yaml
from frugalkd.experiments.report.blocks import Cell, Code, Note, Page, Section, Table, page
from frugalkd.experiments.report.costs import costs
from frugalkd.experiments.report.frontier import frontier
from frugalkd.experiments.report.gallery import Pictures
from frugalkd.experiments.report.headline import chosen, headline, how_chosen, random_of
from frugalkd.experiments.report.ledgers import gallery_blocks, significance_blocks
from frugalkd.experiments.report.text import NOTHING, points, short
from frugalkd.experiments.runs.schema import Arm, Comparison, LedgerSummary, Spread

_BARS = 40
"""Arms of the figure of phases."""


def comparison_page(comparison: Comparison, pictures: Pictures) -> Page:
    """Everything that a comparison's page says."""
    look = _look(comparison)
    taught = _taught(comparison)
    sections = [
        Section("frontier", "What it costs, what it gives", _frontiers(comparison, look)),
        Section("arms", "The arms", _tables(comparison)),
        Section("participation", "Who took part, and when", _participation(comparison, look)),
        Section(
            "significance", "Significance by class", significance_blocks(taught, "significance")
        ),
        Section(
            "samples", "The samples at both ends", gallery_blocks(taught, pictures, "significance")
        ),
        Section("time", "Where the time went", _phases(comparison)),
        Section("costs", "What ledger and store cost", costs(comparison)),
        Section("again", "Run it again", _again(comparison)),
    ]
    return page(
        f"{short(comparison.name)}: {len(comparison.arms)} arms",
        f"{short(comparison.name)} · {_seeds(comparison)} · {short(comparison.split or 'no')} data",
        headline(comparison),
        how_chosen(comparison),
        sections,
    )


def _seeds(comparison: Comparison) -> str:
    count = len(comparison.seeds)
    few = " (descriptive: a claim needs 10)" if count < 10 else ""
    said = f"{count} seed{'' if count == 1 else 's'}"
    if not comparison.complete and comparison.complete_seeds is not None:
        said = f"{len(comparison.complete_seeds)} of {said} complete"
    return said + few


def _look(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Colours and symbols; the arms that the headline speaks of are always shown."""
    look = figures.styles(comparison.arms, comparison.reference)
    for arm in _told(comparison):
        look[arm.family]["shown"] = True
    return look


def _told(comparison: Comparison) -> list[Arm]:
    """The arms that the headline speaks of, the reference apart."""
    arm = chosen(comparison)
    if arm is None:
        return []
    random = random_of(comparison, arm)
    return [arm] if random is None else [arm, random]


def _taught(comparison: Comparison) -> LedgerSummary | None:
    """The ledger of the teacher that most arms learned from, of those that tell samples apart."""
    arms = [arm.teacher for arm in comparison.arms]
    found = [teacher for teacher in comparison.teachers if teacher.summary is not None]
    found.sort(
        key=lambda t: (t.summary is not None and t.summary.always == 1, -arms.count(t.teacher))
    )
    return found[0].summary if found else None


def _frontiers(comparison: Comparison, look: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    arms, reference = comparison.arms, comparison.reference
    named = {reference, *(arm.arm for arm in _told(comparison))}
    made: list[Any] = [
        frontier(arms, look, axis, reference, named)
        for axis in ("budget", "time")
        if any(_has_cost(arm, axis) for arm in arms)
    ]
    if not made:
        return [Note("No run has given an accuracy yet.")]
    bars = (
        "Bars are 95 % intervals of the mean over seeds, cut where they would leave the plot; the "
        "tables have them whole. Arms of the same samples stand side by side."
    )
    none = "No arm has the accuracy of two seeds: there is no interval."
    several = any(arm.accuracy.ci95 is not None for arm in arms)
    return [*made, Note(bars if several else none)]


def _has_cost(arm: Arm, axis: str) -> bool:
    cost = arm.budget if axis == "budget" else arm.wall_ratio
    return cost.mean is not None and arm.accuracy.mean is not None


def _tables(comparison: Comparison) -> list[Any]:
    if not comparison.arms:
        return [Note(_not_complete(comparison))]
    made: list[Any] = [_arms(comparison)]
    said = (
        "± is half of the 95 % interval over seeds; differences are paired, in points. Samples: "
        "backpropagated, of full distillation over the same epochs; forwards: rows through the "
        f"student, likewise; time: of training, over {short(comparison.reference)}'s, without the "
        "filling of stores, which all arms share."
    )
    made.append(Note(said))
    if not comparison.complete:
        made.append(Note(_not_complete(comparison)))
    if comparison.claims:
        made.append(_claims(comparison))
    if comparison.failed:
        made.append(_failed(comparison))
    # What explains the file's fields is said above in other words.
    notes = [note for note in comparison.notes if note not in FIELDS]
    return [*made, *(Note(short(note, 400)) for note in notes)]


def _not_complete(comparison: Comparison) -> str:
    runs = comparison.runs
    if runs is None:
        return "Not complete: some runs are not done yet."
    said = f"Not complete: {runs.done} of {runs.of} runs are done."
    shown = {arm.arm for arm in comparison.arms}
    missing = [short(name) for name in comparison.planned if name not in shown]
    if missing:
        said += f" No run is done of {', '.join(missing)}."
    if shown:
        seeds = sorted({seed for arm in comparison.arms for seed in arm.seeds})
        of = ", ".join(map(str, seeds)) or "none yet"
        said += f" Numbers are of the seeds that all arms shown have finished: {of}."
    return said


def _arms(comparison: Comparison) -> Table:
    driven = any(arm.against_random is not None for arm in comparison.arms)
    against = ["against random"] if driven else []
    headings = [
        "arm", "accuracy %", f"against {short(comparison.reference, 24)}", *against,
        "samples %", "forwards %", "time ratio", "seeds", "who takes part",
    ]  # fmt: skip
    rows = []
    for arm in comparison.arms:
        random = [_difference(arm.against_random)] if driven else []
        rows.append(
            [
                Cell(short(arm.arm), note="; ".join(_marks(arm))),
                Cell(points(arm.accuracy), arm.accuracy.mean),
                _difference(arm.difference),
                *random,
                _share(arm.budget),
                _share(arm.forwards),
                Cell(_ratio(arm.wall_ratio), arm.wall_ratio.mean),
                Cell(str(len(arm.seeds)), len(arm.seeds)),
                Cell(short(arm.about)),
            ]
        )
    numeric = [False, *[True] * (len(headings) - 2), False]
    return Table("All arms", headings, rows, numeric, name="arms")


def _marks(arm: Arm) -> list[str]:
    """What has to be said of an arm beside its numbers."""
    runs, failed = len(arm.seeds), len(arm.failed)
    said = [f"{failed} of {runs} failed"] if failed else []
    if arm.collapsed > failed:
        said.append(f"{arm.collapsed - failed} of {runs} collapsed")
    if arm.matched is not None and not arm.matched.within_tolerance:
        said.append("not matched")
    if arm.on_budget is False:
        said.append("off its budget")
    if arm.own_budget:
        said.append("own budget")
    return said


def _difference(value: Spread | None) -> Cell:
    return Cell("" if value is None else points(value, signed=True), value and value.mean)


def _share(value: Spread) -> Cell:
    return Cell(NOTHING if value.mean is None else f"{100 * value.mean:.1f}", value.mean)


def _ratio(value: Spread) -> str:
    return NOTHING if value.mean is None else f"{value.mean:.2f}"


def _claims(comparison: Comparison) -> Table:
    rows = [
        [
            Cell(f"{short(claim.arm)} {short(claim.claim)} than {short(claim.against)}"),
            Cell(points(claim.difference, signed=True), claim.difference.mean),
            Cell("< 0.0001" if claim.p_holm < 1e-4 else f"{claim.p_holm:.2g}", claim.p_holm),
            Cell("yes" if claim.holds else "no", note=short(claim.why, 200)),
        ]
        for claim in comparison.claims
    ]
    return Table(
        "Claims declared beforehand, corrected together by Holm",
        ["claim", "difference, points", "p (Holm)", "holds"],
        rows,
        [False, True, True, False],
        name="claims",
    )


def _failed(comparison: Comparison) -> Table:
    rows = [
        [
            Cell(short(failure.name)),
            Cell(NOTHING if failure.seed is None else str(failure.seed), failure.seed),
            Cell(short(failure.error, 300)),
        ]
        for failure in comparison.failed
    ]
    return Table("Runs that failed", ["run", "seed", "error"], rows, [False, True, False])


def _participation(comparison: Comparison, look: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    budgets = sorted({arm.budget_asked for arm in comparison.arms if arm.budget_asked is not None})
    dashes = dict(zip([None, *budgets], ["solid", "dash", "solid", "dot"], strict=False))
    lines = [
        (
            arm.arm,
            arm.history,
            {**look[arm.family], "dash": dashes.get(arm.budget_asked, "dashdot")},
        )
        for arm in comparison.arms
        if arm.history is not None and arm.history.trained
    ]
    if not lines:
        return [Note("Nothing is known of the epochs: this file holds no histories.")]
    shown = {arm.arm for arm in _first(comparison)}
    lines = [(name, had, {**how, "shown": name in shown}) for name, had, how in lines]
    return [figures.participation(lines)]


def _first(comparison: Comparison) -> list[Arm]:
    """The arms of participation's figure that are shown from the start: one budget of each."""
    arm = chosen(comparison)
    at = None if arm is None else arm.budget_asked
    return [a for a in comparison.arms if a.budget_asked in (None, at)][: figures.SHOWN]


def _phases(comparison: Comparison) -> list[Any]:
    rows = [(arm.arm, arm.meters.phases) for arm in comparison.arms if arm.meters.phases]
    if not rows:
        return [Note("No run has measured its phases.")]
    made: list[Any] = [figures.phases(rows[:_BARS])]
    if len(rows) > _BARS:
        made.append(Note(f"The first {_BARS} of {len(rows)} arms."))
    return [*made, Note("Means over seeds, evaluation apart. A process may serve several runs.")]


def _again(comparison: Comparison) -> list[Any]:
    versions = comparison.versions or {}
    rows = [[Cell(short(name)), Cell(short(version))] for name, version in versions.items()]
    rows.append([Cell("seeds"), Cell(short(", ".join(map(str, comparison.seeds)), 200))])
    rows.append([Cell("threads"), Cell(str(comparison.threads or NOTHING))])
    rows.append([Cell("measured on"), Cell(f"{short(comparison.split or 'no')} data")])
    digests = [
        [Cell(short(arm.arm)), Cell(short(seed), _number(seed)), Cell(short(digest[:12]))]
        for arm in comparison.arms
        for seed, digest in arm.digests.items()
    ]
    made: list[Any] = [
        Code(
            f"The command, with the recipe below in {FILE}", compare_command(comparison), "command"
        ),
        Table("Made with", ["what", "which"], rows, [False, False]),
        Code(f"The recipe as resolved: {FILE}", recipe_yaml(comparison.recipe), "recipe"),
    ]
    if digests:
        headings = ["arm", "seed", "digest of the run"]
        made.append(
            Table(
                "The runs and their digests",
                headings,
                digests,
                [False, True, False],
                name="runs",
                folded=True,
            )
        )
    return made


def _number(text: str) -> float | None:
    return float(text) if text.isdecimal() and len(text) < 20 else None
