"""The sections of the page of a comparison, and of a single run, in their order."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from frugalkd.errors import ReportError
from frugalkd.experiments.comparison.statistics import MARGIN
from frugalkd.experiments.comparison.summary import FIELDS
from frugalkd.experiments.report import blocks, figures
from frugalkd.experiments.report.blocks import (
    NOTHING,
    Block,
    Cell,
    Code,
    Gallery,
    Page,
    Picture,
    Review,
    Section,
    Table,
    amount,
    estimate,
    fraction,
    number,
    page,
    percent,
    seconds,
    short,
)
from frugalkd.experiments.report.gallery import Pictures
from frugalkd.experiments.report.headline import (
    chosen,
    headline,
    how_chosen,
    random_of,
    role_of,
    run_headline,
)
from frugalkd.experiments.runs.schema import (
    SHOWN_MEASURES,
    ArmRecord,
    Comparison,
    FeaturesNote,
    LedgerSummary,
    RunRecord,
    Sample,
    Suspect,
    Teacher,
)
from frugalkd.files.parsing import cell

FILE = "recipe.yaml"
_BARS = 40
"""Arms of the figure of phases."""
_TRAINED = "Which samples trained, and when"
_UNKNOWN = (
    "No teacher trained here left a ledger, nor a summary of one: single samples are not known."
)
_ENDS = {
    "significance": (("Most significant", "most"), ("Least significant", "least")),
    "participation": (("Used most often", "most"), ("Used least often", "least")),
}

Row = list[Cell | str]


def comparison_page(comparison: Comparison, pictures: Pictures) -> Page:
    """The page of a comparison."""
    summary = _ledger(comparison)
    spent = [(arm.arm, arm.meters.phases) for arm in comparison.arms if arm.meters.phases]
    sections = [
        Section("frontier", "What it costs, what it gives", _frontiers(comparison)),
        Section("arms", "The arms", _tables(comparison)),
        Section("participation", _TRAINED, _participation(comparison)),
        *_ledger_sections(summary, pictures, "significance"),
        Section("time", "Where the time went", _phases(spent)),
        Section("costs", "What ledger and store cost", costs(comparison)),
        Section("again", "Run it again", _again(comparison)),
    ]
    name, count = short(comparison.name), len(comparison.seeds)
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    if not comparison.complete and comparison.complete_seeds is not None:
        seeds = f"{len(comparison.complete_seeds)} of {seeds} complete"
    few = " (descriptive: a claim needs 10)" if count < 10 else ""
    return page(
        f"{name}: {len(comparison.arms)} arms",
        f"{name} · {seeds}{few} · {short(comparison.split or 'no')} data",
        headline(comparison),
        how_chosen(comparison),
        sections,
    )


def run_page(run: RunRecord, pictures: Pictures) -> Page:
    """The page of a single run."""
    what = "significance" if run.kind == "teach" else "participation"
    trained, spent = figures.run_participation(run), run.meters.phases
    sections = [
        Section("numbers", "The numbers", [run_numbers(run)]),
        Section("participation", _TRAINED, [trained or "The run had no epoch."]),
        *_ledger_sections(run.summary, pictures, what),
        Section("labels", "Labels to review", _labels(run.summary, pictures)),
        Section("time", "Where the time went", _phases([(run.kind, spent)] if spent else [])),
        Section("costs", "What ledger and store cost", run_costs(run)),
        Section("again", "Run it again", _run_again(run)),
    ]
    name = short(run.recipe.get("name", "a run"))
    return page(
        f"{name}: {run.kind}",
        f"{name} · {run.kind} · seed {run.seed} · {run.split} data",
        run_headline(run),
        "A single run: it is compared with nothing. frugalkd compare sets arms, controls and seeds "
        "against each other.",
        sections,
    )


def _styles(comparison: Comparison) -> figures.Styles:
    shown = [arm.family for arm in _in_headline(comparison)]
    return figures.styles(comparison.arms, comparison.reference, shown)


def _in_headline(comparison: Comparison) -> list[ArmRecord]:
    """The arms that the headline names, except the reference."""
    arm = chosen(comparison)
    random = None if arm is None else random_of(comparison, arm)
    return [each for each in (arm, random) if each is not None]


def _ledger(comparison: Comparison) -> LedgerSummary | None:
    """The ledger of the teacher that most arms learned from; one whose samples all count the same
    comes last."""
    arms = [arm.teacher for arm in comparison.arms]
    found = [(t.teacher, t.summary) for t in comparison.teachers if t.summary is not None]
    found.sort(key=lambda pair: (pair[1].always == 1, -arms.count(pair[0])))
    return found[0][1] if found else None


def _frontiers(comparison: Comparison) -> list[Block]:
    styles = _styles(comparison)
    named = {comparison.reference, *(arm.arm for arm in _in_headline(comparison))}
    drawn = [figures.frontier(comparison, axis, styles, named) for axis in figures.AXES]
    made = [figure for figure in drawn if figure is not None]
    if not made:
        return [f"No run has given {short(comparison.a_measure)} yet."]
    note = f"No arm has the {short(comparison.measure)} of two seeds: there is no interval."
    if any(arm.accuracy.ci95 is not None for arm in comparison.arms):
        note = (
            "Bars are 95 % intervals of the mean over seeds, cut where they would leave the plot; "
            "the tables give them in full. Arms of the same samples are drawn side by side."
        )
    return [*made, note]


def _tables(comparison: Comparison) -> list[Block]:
    if not comparison.arms:
        return [_not_complete(comparison)]
    legend = (
        "± is half of the 95 % interval over seeds; differences are paired, in points. Samples: "
        "backpropagated, of full distillation over the same epochs; cost: (3 x samples + screened "
        "+ r x teacher queries) / (3 x samples of the data), in epochs of full distillation, r by "
        "FLOPs; time: of training, over "
        f"{short(comparison.reference)}'s. Cost and time are without the filling of stores, which "
        "all arms share."
    )
    made: list[Block] = [arms_table(comparison), legend]
    if not comparison.complete:
        made.append(_not_complete(comparison))
    if comparison.claims:
        made.append(claims_table(comparison))
    if comparison.failed:
        rows = [[short(it.name), amount(it.seed), short(it.error, 300)] for it in comparison.failed]
        made.append(Table("Runs that failed", ["run", "seed", "error"], rows))
    # The fields of the file are explained above in other words.
    notes = [note for note in comparison.notes if note not in FIELDS]
    return [*made, *(short(note, 400) for note in notes)]


def _not_complete(comparison: Comparison) -> str:
    runs = comparison.runs
    if runs is None:
        return "Not complete: some runs are not done yet."
    text = f"Not complete: {runs.done} of {runs.of} runs are done."
    shown = {arm.arm for arm in comparison.arms}
    missing = [short(name) for name in comparison.planned if name not in shown]
    if missing:
        text += f" No run is done of {', '.join(missing)}."
    if shown:
        seeds = sorted({seed for arm in comparison.arms for seed in arm.seeds})
        of = ", ".join(map(str, seeds)) or "none yet"
        text += f" Numbers are of the seeds that all arms shown have finished: {of}."
    return text


def arms_table(comparison: Comparison) -> Table:
    """One row an arm."""
    at_budgets = any(arm.against_random is not None for arm in comparison.arms)
    headings = [
        "arm", f"{comparison.measure} %", f"against {short(comparison.reference, 24)}",
        *["against random"] * at_budgets,
        "samples %", "cost, epochs", "seconds", "time ratio", "seeds", "what it trains on",
    ]  # fmt: skip
    rows = [
        [
            Cell(short(arm.arm), note="; ".join(arm.marks)),
            estimate(arm.accuracy),
            estimate(arm.difference, signed=True),
            *[estimate(arm.against_random, signed=True)] * at_budgets,
            amount(arm.budget.mean and 100 * arm.budget.mean, 1),
            amount(arm.cost.mean, 1),
            amount(arm.meters.wall_seconds, 1),
            amount(arm.wall_ratio.mean, 2),
            amount(len(arm.seeds)),
            short(arm.about),
        ]
        for arm in comparison.arms
    ]
    return Table("All arms", headings, rows, name="arms")


def claims_table(comparison: Comparison) -> Table:
    """One row a declared claim."""
    rows = [
        [
            f"{short(claim.arm)} {short(claim.claim)} than {short(claim.against)}",
            estimate(claim.difference, signed=True),
            Cell("< 0.0001" if claim.p_holm < 1e-4 else f"{claim.p_holm:.2g}", claim.p_holm),
            Cell("yes" if claim.holds else "no", note=short(claim.why, 200)),
        ]
        for claim in comparison.claims
    ]
    caption = "Claims declared beforehand, corrected together by Holm"
    headings = ["claim", "difference, points", "p (Holm)", "holds"]
    return Table(caption, headings, rows, name="claims")


def _participation(comparison: Comparison) -> list[Block]:
    # One budget of each arm is shown from the start.
    arm = chosen(comparison)
    budgets = (None, None if arm is None else arm.target_budget)
    shown = [a.arm for a in comparison.arms if a.target_budget in budgets][: figures.SHOWN]
    figure = figures.participation(comparison, _styles(comparison), shown)
    return [figure or "Nothing is known of the epochs: this file holds no histories."]


def _ledger_sections(
    summary: LedgerSummary | None, pictures: Pictures, what: str
) -> tuple[Section, Section]:
    """``what`` a ledger counts (significance, or a student's participation), by class and in all;
    and the samples at both ends of it."""
    return (
        Section("significance", f"{what.capitalize()} by class", _by_class(summary, what)),
        Section("samples", "The samples at both ends", _gallery(summary, pictures, what)),
    )


def _by_class(summary: LedgerSummary | None, what: str) -> list[Block]:
    if summary is None:
        return [_UNKNOWN]
    made: list[Block] = []
    if summary.always == 1:
        made.append(
            "All samples were used in all epochs: the training had no gate, or nothing passed it."
        )
    if summary.classes:
        made.append(figures.by_class(summary, what))
    if summary.histogram:
        made.append(figures.histogram(summary, what))
    return made


def _gallery(summary: LedgerSummary | None, pictures: Pictures, what: str) -> list[Block]:
    """The samples as ``pictures`` shows them; as numbers, where it does not."""
    if summary is None:
        return [_UNKNOWN]
    ends = [(title, getattr(summary, end)) for title, end in _ENDS[what]]
    seen = pictures(summary)
    if isinstance(seen, str):
        tables = [_samples(title, samples, what) for title, samples in ends]
        return [f"The samples are not shown: {short(seen, 300)}", *tables]
    about = (
        f"Of samples of equal {what} one of each class is shown in turn, at the upper end the "
        "least confident first, at the lower the most confident."
    )
    galleries = [
        Gallery(title, [_picture(it, *seen[it.id], what) for it in samples if it.id in seen])
        for title, samples in ends
    ]
    return [*galleries, about]


def _picture(sample: Sample, source: str, text: str, what: str) -> Picture:
    confidence = f"confidence {number(sample.confidence, 2)}"
    details = (f"sample {sample.id}", f"{what} {sample.significance:.2f}", confidence)
    name = sample.name or "no label"
    if sample.wanted is not None:
        name = f"wanted {sample.wanted}, predicted {sample.predicted}"
    return Picture(short(name, 80), details, source, text)


def _samples(title: str, samples: Sequence[Sample], what: str) -> Table:
    rows, valued = [], any(it.wanted is not None for it in samples)
    for it in samples:
        said = [it.wanted, it.predicted] if valued else [it.name]
        numbers = amount(it.significance, 3), amount(it.confidence, 2)
        rows.append([Cell(str(it.id), it.id), *(short(each or NOTHING) for each in said), *numbers])
    said = ["wanted", "predicted"] if valued else ["class"]
    return Table(title, ["sample", *said, what, "confidence"], rows)


def _labels(summary: LedgerSummary | None, pictures: Pictures) -> list[Block]:
    """The most suspicious labels, to decide about; as numbers, where samples are not shown."""
    if summary is None or summary.refused is None:
        return ["The training recorded no training dynamics (dynamics in the recipe)."]
    about = (
        f"Training refused {number(summary.refused)} of {number(summary.samples)} labels: their "
        "mean margin is negative. The most suspicious ones come first; a label may be refused and "
        "right."
    )
    seen = pictures(summary)
    if isinstance(seen, str):
        rows = [
            [Cell(str(it.id), it.id), short(it.given or NOTHING), short(it.suggested or NOTHING),
             amount(it.score, 2), amount(it.margin, 2), amount(it.probability, 2)]
            for it in summary.suspects
        ]  # fmt: skip
        headings = ["sample", "given", "suggested", "score", "margin", "probability"]
        why = f"The samples are not shown: {short(seen, 300)}"
        return [about, why, Table("Most suspicious labels", headings, rows, name="suspects")]
    suspects = [_suspect(it, *seen[it.id]) for it in summary.suspects if it.id in seen]
    classes = [cell(record.name) for record in sorted(summary.classes, key=lambda it: it.name)]
    digest = (summary.data or "")[:12]
    return [about, Review("Most suspicious labels", suspects, classes, digest)]


def _suspect(it: Suspect, source: str, text: str) -> blocks.Suspect:
    details = (f"sample {it.id}", f"suggested {short(it.suggested or NOTHING, 40)}",
               f"score {number(it.score, 2)}", f"margin {number(it.margin, 2)}")  # fmt: skip
    picture = Picture(f"given {short(it.given or NOTHING, 40)}", details, source, text)
    return blocks.Suspect(it.id, picture, cell(it.given or ""), cell(it.suggested or ""))


def _phases(rows: Sequence[tuple[str, dict[str, float]]]) -> list[Block]:
    if not rows:
        return ["No phases were measured."]
    few = f" The first {_BARS} of {len(rows)} arms are shown." if len(rows) > _BARS else ""
    note = "Evaluation is not included. Of a comparison: means over seeds, and a process may serve "
    return [figures.phases(rows[:_BARS]), f"{note}several runs.{few}"]


def run_numbers(run: RunRecord) -> Table:
    """What a single run measured and cost."""
    meters, measured, fractions = run.meters, run.evaluation, {}
    rows: list[Row] = [
        [words, fraction(value) if share else amount(value, 4)]
        for field, (words, share) in SHOWN_MEASURES.items()
        if (value := getattr(measured, field, None)) is not None
    ]
    if run.teacher is not None and run.teacher.evaluation is not None:
        fractions["the teacher's accuracy"] = run.teacher.evaluation.accuracy
    fractions["samples backpropagated, of full training"] = run.budget
    fractions["tokens backpropagated, of full training"] = run.token_budget
    queries = [] if run.kind == "teach" else [["teacher queries", amount(meters.teacher_queries)]]
    rows += [
        *([name, fraction(value)] for name, value in fractions.items() if value is not None),
        ["cost, epochs of full training", amount(run.cost and run.cost.epochs, 2)],
        ["samples backpropagated", amount(meters.samples_backpropagated)],
        [f"rows through the {role_of(run)}", amount(meters.student_forwards)],
        *queries,
        ["time of training", seconds(meters.wall_seconds)],
        ["epochs", NOTHING if run.epochs is None else f"{run.epochs:g}"],
        ["training samples", amount(run.train_samples)],
    ]
    return Table("What the run came to", ["what", "value"], rows)


def costs(comparison: Comparison) -> list[Block]:
    """What is paid once, where anything is."""
    rows = [*_teachers(comparison.teachers), *_scorings(comparison.arms)]
    if not rows:
        return ["No teacher was trained and no store was filled for these runs."]
    headings = ["what", "accuracy %", "samples", "seconds"]
    return [Table("Paid once, for all students", headings, rows)]


def _teachers(teachers: Sequence[Teacher]) -> Iterator[Row]:
    for teacher in teachers:
        name, store = short(teacher.teacher), teacher.targets
        if teacher.wall_seconds is not None:  # else pretrained, or not trained yet
            what = f"training the teacher {name}, and its ledger"
            what += ", before this comparison" if teacher.folder is not None else ""
            what += _reused(teacher.features)
            accuracy = amount(teacher.accuracy and 100 * teacher.accuracy, 2)
            part = Cell(f"{percent(teacher.budget, 0)} of its training", teacher.budget)
            yield [what, accuracy, part, Cell(seconds(teacher.wall_seconds), teacher.wall_seconds)]
        if store is not None:
            what = f"storing the soft targets of {name}"
            yield [what, "", amount(store.rows), Cell(seconds(store.seconds), store.seconds)]


def _reused(features: FeaturesNote | None) -> str:
    """What is missing from the seconds of a training."""
    if features is None or features.reused_from is None:
        return ""
    return f" (on features that an earlier run computed in {seconds(features.seconds)})"


def _scorings(arms: Sequence[ArmRecord]) -> Iterator[Row]:
    """A scoring is made once for the arms of all budgets."""
    found = {arm.family: arm.scoring for arm in arms if arm.scoring is not None}
    for family, scoring in found.items():
        what = f"the scoring run of {short(family)} ({short(scoring.kind)})"
        yield [
            what,
            "",
            amount(scoring.samples_backpropagated),
            Cell(seconds(scoring.wall_seconds), scoring.wall_seconds),
        ]


def run_costs(run: RunRecord) -> list[Block]:
    """What a single run shows of it."""
    rows: list[Row] = []
    if run.kind == "teach":
        spent = f"{percent(run.budget, 0)} of its training, {seconds(run.meters.wall_seconds)}"
        what = f"training this teacher, and its ledger{_reused(run.features)}"
        rows.append([what, spent])
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
    return [Table("Paid once", ["what", "how much"], rows)] if rows else ["Nothing was paid once."]


def _again(comparison: Comparison) -> list[Block]:
    made_with = {
        **(comparison.versions or {}),
        "seeds": ", ".join(map(str, comparison.seeds)),
        "threads": str(comparison.threads or NOTHING),
        "measured on": f"{comparison.split or 'no'} data",
    }
    made = _to_run_again(compare_command(comparison), made_with, comparison.recipe)
    digests = [
        [short(arm.arm), Cell(short(seed), _number(seed)), short(digest[:12])]
        for arm in comparison.arms
        for seed, digest in arm.digests.items()
    ]
    if digests:
        headings = ["arm", "seed", "digest of the run"]
        caption = "The runs and their digests"
        made.append(Table(caption, headings, digests, name="runs", folded=True))
    return made


def _number(text: str) -> float | None:
    return float(text) if text.isdecimal() and len(text) < 20 else None


def _run_again(run: RunRecord) -> list[Block]:
    made_with = {
        **run.versions,
        "seed": str(run.seed),
        "threads": str(run.threads),
        "device": run.device,
        "digest of the run": run.digest[:12],
    }
    return _to_run_again(run_command(run), made_with, run.recipe)


def _to_run_again(command: str, made_with: Mapping[str, str], recipe: dict) -> list[Block]:
    rows = [[short(name), short(value, 200)] for name, value in made_with.items()]
    return [
        Code(f"The command, with the recipe below in {FILE}", command, "command"),
        Table("Made with", ["what", "which"], rows),
        Code(f"The recipe as resolved: {FILE}", recipe_yaml(recipe), "recipe"),
    ]


def compare_command(comparison: Comparison) -> str:
    """The command line of ``frugalkd compare`` that makes these arms, seeds and claims."""
    names = comparison.planned or [arm.arm for arm in comparison.arms]
    words = ["frugalkd", "compare", FILE, "--arms", ",".join(names)]
    first, last = min(comparison.seeds, default=0), max(comparison.seeds, default=0)
    words += ["--seeds", str(last + 1 - first), *["--first-seed", str(first)] * (first > 0)]
    for teacher in comparison.teachers:
        if teacher.folder is not None:
            words += ["--teacher", f"{teacher.teacher}={teacher.folder}"]
    for claim in comparison.claims:
        sign = ">=" if claim.claim == "no worse" else ">"
        words += ["--claim", f"{claim.arm} {sign} {claim.against}"]
    for margin in {claim.margin for claim in comparison.claims}:  # of the command line: one of all
        if margin not in (None, MARGIN):
            words += ["--margin", f"{100 * margin:g}"]
    return shlex.join([*words, "--out", "runs/comparison"])


def run_command(run: RunRecord) -> str:
    """The command line of ``frugalkd teach`` or ``frugalkd distill``."""
    words = ["frugalkd", run.kind, FILE, "--seed", str(run.seed)]
    if run.kind == "distill" and run.teacher is not None and run.teacher.digest is not None:
        words += ["--teacher", "runs/teacher"]
    return shlex.join([*words, "--out", "runs/again"])


def recipe_yaml(recipe: dict[str, Any]) -> str:
    """A recipe as resolved, as YAML. Raises ReportError where it is nested too deeply to be one."""
    try:
        return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=88)
    except RecursionError:
        raise ReportError(
            "the recipe of this report is damaged: it is nested too deeply; make it again"
        ) from None
