"""``demo`` and ``compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DryRunOption,
    JsonOption,
    NoImportOption,
    OutOption,
    RecipeArgument,
    SetOption,
)
from frugalkd.cli.progress import RunsProgress
from frugalkd.cli.resolving import print_dry_run, resolve
from frugalkd.modes import MODES
from frugalkd.recipes.load import check_variants
from frugalkd.show import print_command, stdout

if TYPE_CHECKING:
    from frugalkd.recipes.schema import Recipe

JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Runs at a time, each a process of its own: [cyan]--jobs 2[/cyan]. Times are fair "
        "only while all have a core each.",
    ),
]


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where comparison.json and the run folders go: [cyan]--out runs/demo[/cyan].",
        ),
    ] = Path("runs/demo"),
    jobs: JobsOption = 2,
    as_json: JsonOption = False,
) -> None:
    """See it work: two teachers, four distillations and three controls on scikit-learn's digits.

    Takes a minute or two on two cores and downloads nothing.

    [bold]Example[/bold]

    frugalkd demo --out runs/demo
    """
    from frugalkd.comparison import demo as run
    from frugalkd.comparison.demo import NOTE

    with resumable(out, runs=True), RunsProgress("demo") as progress:
        comparison = run(out, jobs=jobs, listener=progress)
    _report(comparison, out, as_json, [NOTE])
    if not as_json:
        print_command(stdout(), "frugalkd recipes show fashion-mnist > mine.yaml")


def compare(
    recipe: RecipeArgument,
    out: OutOption,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            metavar="A,B,...",
            help="The rows to run: a mode, 'ce' (no teacher), an arm of the recipe, or a control "
            "of another row (random, random-counts, random-static, short); by default the recipe's "
            "arms: [cyan]--arms vanilla,hybrid,short:hybrid[/cyan].",
            show_default=False,
        ),
    ] = "",
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            metavar="N",
            help="Seeds 0 .. N-1 for each arm; a claim needs 10: [cyan]--seeds 10[/cyan].",
        ),
    ] = 3,
    jobs: JobsOption = 2,
    settings: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
) -> None:
    """Run a recipe's arms over several seeds, and compare them.

    Runs that are done are not run again, so the same command goes on after a stop.

    [bold]Example[/bold]

    frugalkd compare digits --arms vanilla,hybrid,short:hybrid --out runs/c
    """
    made = resolve(recipe, settings, None, no_import=no_import)
    chosen = _chosen(arms, made)
    if dry_run:
        return print_dry_run(made, as_json)
    from frugalkd.comparison import compare as run

    with resumable(out, runs=True), RunsProgress(f"compare {made.name}") as progress:
        comparison = run(made, arms=chosen, seeds=seeds, out=out, jobs=jobs, listener=progress)
    _report(comparison, out, as_json)


def _chosen(arms: str, recipe: Recipe) -> list[str]:
    """The arms asked for, all of them known; without a wish the recipe's, or the four modes."""
    from frugalkd.comparison import resolve_arms

    asked = [arm.strip() for arm in arms.split(",") if arm.strip()]
    chosen = list(dict.fromkeys(asked)) or list(recipe.arms) or list(MODES)
    resolved = resolve_arms(recipe, chosen)
    check_variants(recipe, [arm.name for arm in resolved])
    return chosen


def _report(
    comparison: dict[str, Any], out: Path, as_json: bool, notes: Sequence[str] = ()
) -> None:
    """The comparison on stdout; exit code 1 where a run failed."""
    if as_json:
        print(json.dumps(comparison, indent=2))
    else:
        from frugalkd.comparison import comparison_table

        console = stdout()
        console.print(comparison_table(comparison))
        for note in notes:
            console.print(f"note: {note}", markup=False)
        console.print(f"written: {out / 'comparison.json'}", markup=False, soft_wrap=True)
    for failure in comparison["failed"]:
        seed = "" if failure["seed"] is None else f" seed {failure['seed']}"
        print(f"failed: {failure['name']}{seed}: {failure['error']}", file=sys.stderr)
    if comparison["failed"]:
        raise typer.Exit(1)
