"""``teach`` and ``distill``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DownloadOption,
    DryRunOption,
    JsonOption,
    NoImportOption,
    OutOption,
    RecipeArgument,
    ResumeOption,
    SeedOption,
    SetOption,
    TeacherOption,
)
from frugalkd.cli.progress import EpochProgress
from frugalkd.cli.resolving import fetch_data, print_dry_run, resolve
from frugalkd.cli.show import print_command, stdout, summary_table
from frugalkd.distributed.launch import started_again
from frugalkd.policies.modes import MODES

if TYPE_CHECKING:
    from frugalkd.training.settings import Training


def teach(
    recipe: RecipeArgument,
    out: OutOption,
    settings: SetOption = [],  # noqa: B006
    seed: SeedOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Train a teacher: self-regulated, or conventionally, as the recipe says.

    Writes teacher.safetensors, ledger.safetensors (how much each sample
    mattered) and results.json.

    [bold]Examples[/bold]

    frugalkd teach digits --out runs/teacher

    frugalkd teach digits --set teacher.policy.name=all --out runs/conventional
    """
    made = resolve(recipe, settings, seed, no_import=no_import, download=download)
    if dry_run:
        return print_dry_run(made, as_json)
    fetch_data(made, download)
    from frugalkd.experiments.runs.execute import teach as run

    results = _with_progress(
        f"teach {made.name}",
        made.teacher.training,
        out,
        lambda progress, stop: run(
            made,
            out,
            resume=resume or started_again(),
            listener=progress,
            progress=progress.before,
            stop=stop,
        ),
    )
    student = out.parent / ("student" if out.name != "student" else "distilled")
    command = ["frugalkd", "distill", recipe, "--mode", "regulated"]
    command += ["--teacher", str(out), "--out", str(student)]
    for setting in settings:
        command += ["--set", setting]
    _report(results, out, shlex.join(command), as_json)


def distill(
    recipe: RecipeArgument,
    out: OutOption,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="|".join(MODES),
            help="Who takes part, and what a sample weighs; without it the recipe decides: "
            "[cyan]--mode regulated[/cyan]. Significance and hybrid need a self-regulated teacher.",
            autocompletion=lambda: list(MODES),
            show_default=False,
        ),
    ] = None,
    teacher: TeacherOption = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger",
            metavar="PATH",
            help="A ledger in place of the teacher's, made by 'frugalkd ledger make': a file, or "
            "the folder that holds it: [cyan]--ledger runs/ledger[/cyan].",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = [],  # noqa: B006
    seed: SeedOption = None,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Distil a student from a teacher.

    [cyan]vanilla[/cyan]: all samples, every epoch.
    [cyan]significance[/cyan]: those that mattered to the teacher, weighed by how much.
    [cyan]regulated[/cyan]: those that the student still needs.
    [cyan]hybrid[/cyan]: both.

    [bold]Examples[/bold]

    frugalkd distill digits --mode regulated --teacher runs/teacher --out runs/student

    frugalkd distill digits --mode regulated --set teacher.weights=mine.pt --out runs/student
    """
    by_mode = {"student.mode": mode, "student.policy": None, "student.weighting": None}
    made = resolve(
        recipe,
        settings,
        seed,
        by_mode if mode is not None else None,
        no_import=no_import,
        download=download,
    )
    if dry_run:
        return print_dry_run(made, as_json)
    fetch_data(made, download)
    from frugalkd.experiments.runs.execute import distill as run

    results = _with_progress(
        f"distill {made.name} {made.student.mode or made.student.policy.name}",  # pyright: ignore
        made.student.training,
        out,
        lambda progress, stop: run(
            made,
            out,
            teacher=teacher,
            ledger=ledger,
            resume=resume or started_again(),
            listener=progress,
            progress=progress.before,
            stop=stop,
        ),
    )
    command = ["frugalkd", "ledger", "show", str(out)]
    if made.data.name is not None:  # only our own data say how to prepare a picture
        table = str(out / "classes.csv")
        command = ["frugalkd", "predict", str(out), "--data", made.data.name, "--out", table]
        if made.student.model.path is not None:
            command += ["--import", made.student.model.path]
    _report(results, out, shlex.join(command), as_json)


def _with_progress(
    title: str, training: Training, out: Path, run: Callable[[EpochProgress, Any], dict[str, Any]]
) -> dict[str, Any]:
    done = (out / "results.json").exists()
    with resumable(out) as stop, EpochProgress(title, training.epochs) as progress:
        results = run(progress, stop)
        if done:
            progress.say(f"{out} holds this very run, finished: here are its results")
    return results


def _report(results: dict[str, Any], out: Path, following: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=2))
        return
    console = stdout()
    console.print(summary_table(results, out))
    print_command(console, following)
