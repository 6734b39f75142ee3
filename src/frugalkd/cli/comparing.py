"""``demo`` and ``compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from frugalkd.cli.interrupt import resumable
from frugalkd.cli.options import (
    DownloadOption,
    DryRunOption,
    JsonOption,
    NoImportOption,
    OutOption,
    RecipeArgument,
    SetOption,
)
from frugalkd.cli.progress import RunsProgress, run_name
from frugalkd.cli.resolving import fetch_data, print_dry_run, resolve
from frugalkd.cli.show import facts_table, percent, print_command, print_line, stdout
from frugalkd.errors import RecipeError, UnknownName
from frugalkd.experiments.recipes.load import check_variants
from frugalkd.files.parsing import printable
from frugalkd.policies.modes import MODES

if TYPE_CHECKING:
    from frugalkd.experiments.comparison.run import ComparisonRun
    from frugalkd.experiments.recipes.schema import Recipe

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
    from frugalkd.experiments.comparison.run import DEMO_NOTE
    from frugalkd.experiments.comparison.run import demo as run

    with resumable(out, runs=True), RunsProgress("demo") as progress:
        comparison = run(out, jobs=jobs, on_event=progress)
    _report(comparison, out, as_json, [DEMO_NOTE])
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
    budgets: Annotated[
        str,
        typer.Option(
            "--budgets",
            metavar="B,...",
            help="Parts of the samples of full training, in (0, 1]: an arm that can be made to "
            "spend them runs once for each, as ARM@B: [cyan]--budgets 0.1,0.25,0.5[/cyan].",
            show_default=False,
        ),
    ] = "",
    claims: Annotated[
        list[str],
        typer.Option(
            "--claim",
            metavar="'A > B'",
            help="A claim to test, as often as you like; all are corrected together. A > B: "
            "better; A >= B: no worse, by more than the margin: "
            "[cyan]--claim 'regulated@0.25 > random@0.25'[/cyan].",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            min=0,
            max=100,
            metavar="POINTS",
            help="What no worse may lose, in points of accuracy: [cyan]--margin 0.3[/cyan].",
        ),
    ] = 0.5,
    jobs: JobsOption = 2,
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="here|ray",
            help="Where runs are carried out: by processes of this machine, or as tasks of a Ray "
            "cluster (extra: ray), begun again where a node is lost: [cyan]--on ray[/cyan].",
        ),
    ] = "here",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="The cluster; without it one of this machine alone is started: "
            "[cyan]--ray-address auto[/cyan].",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = [],  # noqa: B006
    list_: Annotated[
        bool,
        typer.Option("--list", help="Only list the runs, with the digests that --only takes."),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="DIGEST",
            help="Carry out this run alone, as in a scheduler's job array; the same command "
            "without --only then collects what is done: [cyan]--only 1f0c5a2b[/cyan].",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    no_import: NoImportOption = False,
    download: DownloadOption = False,
) -> None:
    """Run a recipe's arms over several seeds, and compare them.

    Runs that are done are not run again, so the same command goes on after a stop.

    [bold]Example[/bold]

    frugalkd compare digits --arms vanilla,hybrid,short:hybrid --out runs/c

    frugalkd compare digits --arms vanilla,regulated,random --budgets 0.25,0.5 --out runs/b
    """
    made = resolve(recipe, settings, None, no_import=no_import, download=download)
    fetch_data(made, download and not dry_run)
    from frugalkd.experiments.comparison.run import ComparisonRun
    from frugalkd.experiments.comparison.statistics import parse_claim

    parts = _parts(budgets)
    chosen = _chosen(arms, made, parts)
    declared = [parse_claim(claim, margin / 100) for claim in claims]
    if on not in ("here", "ray"):
        raise UnknownName("place for runs", on, ("here", "ray"))
    if ray_address is not None and on != "ray":
        raise RecipeError("an address of a Ray cluster is for runs on ray: add --on ray")
    if dry_run or list_ or only is not None:
        comparison = ComparisonRun(made, chosen, seeds, out, parts, claims=declared)
        if dry_run:
            return print_dry_run(made, as_json)
        if list_:
            return _list(comparison, as_json)
        assert only is not None
        return _run_one(comparison, only, as_json)
    ray = (ray_address or "local") if on == "ray" else None
    with resumable(out, runs=True), RunsProgress(f"compare {made.name}") as progress:
        comparison = ComparisonRun(
            made, chosen, seeds, out, parts, claims=declared, on_event=progress
        )
        content = comparison.execute(jobs, ray)
    _report(content, out, as_json)


def _parts(budgets: str) -> list[float]:
    """``"0.1,0.5"`` as numbers. Raises RecipeError."""
    said = [part.strip() for part in budgets.split(",") if part.strip()]
    try:
        return list(dict.fromkeys(float(part) for part in said))
    except ValueError:
        raise RecipeError(
            f"--budgets {budgets}: write parts of 1, as in 0.1,0.25,0.5 for 10, 25 and 50 %"
        ) from None


def _chosen(arms: str, recipe: Recipe, budgets: Sequence[float]) -> list[str]:
    """The arms asked for, all of them known; without a wish the recipe's, or the four modes."""
    from frugalkd.experiments.comparison import resolve_arms

    asked = [arm.strip() for arm in arms.split(",") if arm.strip()]
    chosen = list(dict.fromkeys(asked)) or list(recipe.arms) or list(MODES)
    resolved = resolve_arms(recipe, chosen, budgets)
    check_variants(recipe, [arm.name.partition("@")[0] for arm in resolved])
    return chosen


def _list(comparison: ComparisonRun, as_json: bool) -> None:
    rows = comparison.list_jobs()
    if as_json:
        return print(json.dumps(rows, indent=2))
    for row in rows:
        done = "done" if row["done"] else "    "
        print(printable(f"{row['digest']}  {done}  {run_name(row)}"))


def _run_one(comparison: ComparisonRun, digest: str, as_json: bool) -> None:
    with resumable(comparison.out, runs=True):
        results = comparison.run_one(digest)
    if as_json:
        return print(json.dumps(results, indent=2))
    facts: dict[str, object]
    if "meters" in results:
        measured = results["evaluation"]
        facts = {
            "accuracy": None if measured is None else percent(measured["accuracy"], 2),
            "samples backpropagated": f"{results['meters']['samples_backpropagated']:,}",
            "seconds": f"{results['meters']['wall_seconds']:.1f}",
        }
    else:  # a store of soft targets
        facts = {"rows asked for": f"{results['rows']:,}", "seconds": f"{results['seconds']:.1f}"}
    stdout().print(facts_table(f"done: {digest}", facts))


def _report(
    comparison: dict[str, Any], out: Path, as_json: bool, notes: Sequence[str] = ()
) -> None:
    """The comparison on stdout; exit code 1 where a run failed."""
    if as_json:
        print(json.dumps(comparison, indent=2))
    else:
        from frugalkd.cli.comparison_table import claims_table, comparison_table

        console = stdout()
        console.print(comparison_table(comparison))
        if comparison["claims"]:
            console.print(claims_table(comparison))
        for note in notes:
            console.print(Text(printable(f"note: {note}")))
        print_line(console, f"written: {out / 'comparison.json'}")
    for failure in comparison["failed"]:
        said = printable(f"failed: {run_name(failure)}: {failure['error']}")
        print(said, file=sys.stderr)
    if comparison["failed"]:
        raise typer.Exit(1)
