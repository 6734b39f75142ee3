"""Compare the times of trainings: ``python -m benchmarks.timing``, or ``make bench``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD

from frugalkd.cli import main
from frugalkd.cli.options import JSON
from frugalkd.cli.running import resumable
from frugalkd.cli.show import TextTable, print_result
from frugalkd.errors import RecipeError, UnknownName
from frugalkd.files.parsing import printable

if TYPE_CHECKING:
    from benchmarks.timing import Case, Measurement


app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def bench(
    cases: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CASE]...",
            help="The cases to run; without a case, list them: "
            "[cyan]python -m benchmarks.timing loop[/cyan].",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The folder of CASE.json, runs and teachers: [cyan]--out runs/bench[/cyan]. "
            "Finished runs in it are not repeated.",
        ),
    ] = Path("runs/bench"),
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            metavar="N",
            help="Runs per arm, interleaved; by default the number of the case: "
            "[cyan]--rounds 5[/cyan].",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            metavar="A,B,...",
            help="Run these arms only: [cyan]--arms vanilla-live,regulated[/cyan].",
            show_default=False,
        ),
    ] = "",
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Run complete trainings of all arms, without scaling: [cyan]--whole[/cyan].",
        ),
    ] = False,
    part: Annotated[
        int | None,
        typer.Option(
            "--part",
            min=1,
            metavar="N",
            help="For arms whose epochs all cost the same, run N epochs and scale the seconds: "
            "[cyan]--part 4[/cyan].",
            show_default=False,
        ),
    ] = None,
    teachers: Annotated[
        list[str],
        typer.Option(
            "--teacher",
            metavar="NAME=DIR",
            help="Use an existing teacher: [cyan]--teacher a=runs/tA[/cyan].",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Only check that it works, with few samples and 2 epochs; not a result: "
            "[cyan]--quick[/cyan].",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the runs, the finished ones, and the approximate time of the rest; "
            "run nothing: [cyan]--dry-run[/cyan].",
        ),
    ] = False,
    as_json: bool = JSON,
) -> None:
    """Compare the times of complete trainings, interleaved, each in a fresh process.

    One run at a time, with the threads of the recipe. Keep the machine idle, or reserve a core:
    [cyan]taskset -c 1 python -m benchmarks.timing a[/cyan]. The torchdistill arms need [cyan]pip
    install 'frugalkd\\[bench]'[/cyan].

    [bold]Examples[/bold]

    python -m benchmarks.timing

    python -m benchmarks.timing a --dry-run

    python -m benchmarks.timing loop --rounds 3 --out runs/bench
    """
    from benchmarks.timing import CASES, Options, find_case

    if not cases:
        return _list(CASES, as_json)
    chosen = [find_case(name, CASES) for name in dict.fromkeys(cases)]
    given = dict(_teacher(text) for text in teachers)
    names = tuple(arm.strip() for arm in arms.split(",") if arm.strip()) or None
    _check(chosen, names or (), given)
    from benchmarks.timing.run import bench as run
    from benchmarks.timing.run import planned

    options = Options(out, rounds, names, whole, part, quick, given)
    if dry_run:
        return _plans([planned(case, options) for case in chosen], as_json)
    with resumable(out, runs=True):
        contents = [run(case, options, _say) for case in chosen]
    _report(contents, as_json)


def _check(
    chosen: Sequence[Case | Measurement], arms: Iterable[str], teachers: Iterable[str]
) -> None:
    """Raises an error for a mistyped name before anything runs."""
    from benchmarks.timing import CASES, Case

    for case in chosen:
        for name in arms:
            if not isinstance(case, Case):
                raise RecipeError(f"case {case.name} has no arms: leave --arms out")
            case.arm(name)
    known = {case.teacher.name for case in CASES if isinstance(case, Case) and case.teacher}
    for name in teachers:
        if name not in known:
            raise UnknownName("teacher", name, known)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _teacher(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise RecipeError(f"--teacher is {text!r}: give NAME=DIR, such as a=runs/teacher")
    return name, Path(folder)


def _list(cases: list[Case | Measurement], as_json: bool) -> None:
    table = TextTable(box=SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    table.add_column("what is timed", overflow="fold")
    table.add_column("rounds", justify="right", no_wrap=True)
    table.add_column("takes about", no_wrap=True)
    for case in cases:
        rounds = getattr(case, "rounds", "")
        table.add_row(case.name, case.summary, str(rounds), case.takes)
    following = f"python -m benchmarks.timing {cases[0].name} --dry-run"
    print_result(as_json, [_as_dict(case) for case in cases], table, following=following)


def _as_dict(case: Case | Measurement) -> dict[str, Any]:
    """A row of the list of cases; a measurement has neither arms nor rounds."""
    arms = [arm.name for arm in getattr(case, "arms", [])]
    rounds = getattr(case, "rounds", None)
    return {"case": case.name, "summary": case.summary, "takes": case.takes, "arms": arms,
            "rounds": rounds}  # fmt: skip


def _plans(plans: list[dict[str, Any]], as_json: bool) -> None:
    from benchmarks.timing.table import plan_view

    print_result(as_json, plans, *map(plan_view, plans))


def _report(contents: list[dict[str, Any]], as_json: bool) -> None:
    """Print the results; exit with code 1 if a run failed."""
    from benchmarks.timing.table import case_view

    print_result(as_json, contents, *map(case_view, contents))
    failures = [failure for content in contents for failure in content["failed"]]
    for failure in failures:
        _say(f"failed: {failure['run']}: {failure['error']}")
    if failures:
        raise typer.Exit(1)


NAME = "python -m benchmarks.timing"

if __name__ == "__main__":
    sys.exit(main(app=app, name=NAME))
