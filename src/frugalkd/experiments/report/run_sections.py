"""The sections of a single run's page, in the order of a comparison's."""

from __future__ import annotations

from typing import Any

from frugalkd.experiments.report import figures
from frugalkd.experiments.report.again import FILE, recipe_yaml, run_command
from frugalkd.experiments.report.blocks import Cell, Code, Note, Page, Section, Table, page
from frugalkd.experiments.report.costs import run_costs
from frugalkd.experiments.report.gallery import Pictures
from frugalkd.experiments.report.headline import role_of, run_headline
from frugalkd.experiments.report.ledgers import gallery_blocks, significance_blocks
from frugalkd.experiments.report.text import NOTHING, number, percent, seconds, short
from frugalkd.experiments.runs.schema import Run, Shares


def run_page(run: Run, pictures: Pictures) -> Page:
    """Everything that the page of a single run says."""
    what = "significance" if run.kind == "teach" else "participation"
    sections = [
        Section("numbers", "The numbers", [_numbers(run)]),
        Section("participation", "Who took part, and when", _participation(run)),
        Section(
            "significance", f"{what.capitalize()} by class", significance_blocks(run.summary, what)
        ),
        Section("samples", "The samples at both ends", gallery_blocks(run.summary, pictures, what)),
        Section("time", "Where the time went", _phases(run)),
        Section("costs", "What ledger and store cost", run_costs(run)),
        Section("again", "Run it again", _again(run)),
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


def _numbers(run: Run) -> Table:
    meters, measured, role = run.meters, run.evaluation, role_of(run)
    rows = []
    if measured is not None:
        rows += [
            ("accuracy", percent(measured.accuracy, 2)),
            ("accuracy of the worst class", percent(measured.worst_class_accuracy)),
            ("expected calibration error", percent(measured.expected_calibration_error)),
        ]
        if measured.teacher_agreement is not None:
            rows.append(("agreement with the teacher", percent(measured.teacher_agreement)))
    if run.teacher is not None and run.teacher.evaluation is not None:
        rows.append(("the teacher's accuracy", percent(run.teacher.evaluation.accuracy, 2)))
    rows += [
        ("samples backpropagated", number(meters.samples_backpropagated)),
        ("the same, of full training", percent(run.budget)),
        (f"rows through the {role}", number(meters.student_forwards)),
    ]
    if run.kind != "teach":
        rows.append(("teacher queries", number(meters.teacher_queries)))
    rows += [
        ("time of training", seconds(meters.wall_seconds)),
        ("epochs", NOTHING if run.epochs is None else f"{run.epochs:g}"),
        ("training samples", number(run.train_samples)),
    ]
    return Table(
        "What the run came to",
        ["what", "value"],
        [[Cell(name), Cell(said)] for name, said in rows],
        [False, True],
    )


def _participation(run: Run) -> list[Any]:
    trained = run.shares
    if trained is None or not trained.trained:
        return [Note("The run had no epoch.")]
    lines: list[tuple[str, Shares, dict[str, Any]]] = [
        ("trained", trained, {"colour": 0, "shown": True})
    ]
    if trained.participations:
        failing = trained.model_copy(update={"trained": trained.participations})
        dotted = {"colour": 1, "shown": True, "dash": "dot"}
        lines.append(("of these, failed their gate", failing, dotted))
    return [figures.participation(lines)]


def _phases(run: Run) -> list[Any]:
    if not run.meters.phases:
        return [Note("The run has not measured its phases.")]
    return [figures.phases([(run.kind, run.meters.phases)])]


def _again(run: Run) -> list[Any]:
    rows = [[Cell(short(name)), Cell(short(version))] for name, version in run.versions.items()]
    rows += [
        [Cell("seed"), Cell(str(run.seed))],
        [Cell("threads"), Cell(str(run.threads))],
        [Cell("device"), Cell(short(run.device))],
        [Cell("digest of the run"), Cell(short(run.digest[:12]))],
    ]
    return [
        Code(f"The command, with the recipe below in {FILE}", run_command(run), "command"),
        Table("Made with", ["what", "which"], rows, [False, False]),
        Code(f"The recipe as resolved: {FILE}", recipe_yaml(run.recipe), "recipe"),
    ]
