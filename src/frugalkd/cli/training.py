"""The commands that train: ``teach``, ``store``, ``distill``, ``chain``, ``demo``, ``compare`` and
``estimate``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich import filesize
from rich.console import Console

from frugalkd.cli import options, show
from frugalkd.cli.options import argument, option, resolve, split, start
from frugalkd.cli.running import Bar, resumable, run_name
from frugalkd.distributed.launch import started_again
from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.load import check_variants, override
from frugalkd.policies.modes import MODES

if TYPE_CHECKING:
    from frugalkd.experiments.comparison.run import ComparisonRun
    from frugalkd.experiments.recipes.schema import Recipe
    from frugalkd.experiments.runs.chain import Stage
    from frugalkd.teachers.store import Header


def teach(
    recipe: str = options.RECIPE,
    out: Path = options.OUT,
    settings: list[str] = options.SET,
    seed: int | None = options.SEED,
    resume: bool = options.RESUME,
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Train a teacher: self-regulated, or conventionally, as the recipe says.

    Writes teacher.safetensors, ledger.safetensors (how much each sample
    mattered) and results.json.

    [bold]Examples[/bold]
    frugalkd teach digits --out runs/teacher
    frugalkd teach digits --set teacher.policy.name=all --out runs/conventional
    """
    made = resolve(recipe, settings, seed, no_import=no_import, download=download)
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    from frugalkd.experiments.runs.execute import teach as run

    training = partial(run, made, out, resume=resume or started_again())
    following = _after_teaching(made, recipe, out, settings)
    _train(f"teach {made.name}", training, out, as_json, following)


def _after_teaching(made: Recipe, recipe: str, out: Path, settings: Sequence[str]) -> list[str]:
    """The student that the evidence recommends (BENCHMARKS.md): that of its own gate, with a
    ceiling and a fallback, which is what a cost gives it. And, since what this is worth differs
    between data, the comparison with a shorter schedule at the same cost."""
    student = out.parent / ("student" if out.name != "student" else "distilled")
    if made.reads_corpus:
        return [
            show.command("distill", recipe, "--teacher", out, "--out", student, settings=settings)
        ]
    gate = made.student.regulation
    limited = (made.student.cost, gate.budget, gate.cost) != (None, None, None)
    cost = () if limited else ("--cost", "0.5")
    words = ["distill", recipe, "--mode", "regulated", *cost, "--teacher", out, "--out", student]
    following = [show.command(*words, settings=settings)]
    with suppress(StopIteration, RecipeError):  # recipe.teachers are none of this command's
        if override(made, next(iter(made.teachers.values()))).teacher != made.teacher:
            return following
        words = ["compare", recipe, "--arms", "regulated,short-cost:regulated", *cost]
        words += ["--teacher", out, "--out", out.parent / "compared"]
        following.append(show.command(*words, settings=settings))
    return following


def distill(
    recipe: str = options.RECIPE,
    out: Path = options.OUT,
    mode: str | None = option(
        "--mode MODE",
        f"The samples used and their weights, instead of the recipe's: {', '.join(MODES)}.",
        autocompletion=lambda: list(MODES),
    ),
    cost: float | None = options.COST,
    teacher: Path | None = options.TEACHER,
    ledger: Path | None = option(
        "--ledger PATH", "A ledger of 'frugalkd ledger make', instead of the teacher's."
    ),
    settings: list[str] = options.SET,
    seed: int | None = options.SEED,
    resume: bool = options.RESUME,
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Distil a student from a teacher.

    [cyan]vanilla[/cyan]: all samples, every epoch.
    [cyan]significance[/cyan]: those that mattered to the teacher, weighted by how much.
    [cyan]regulated[/cyan]: those that the student still needs.
    [cyan]hybrid[/cyan]: both. This and significance need a self-regulated teacher.

    [bold]Examples[/bold]
    frugalkd distill digits --mode regulated --teacher runs/teacher --out runs/student
    frugalkd distill digits --mode regulated --set teacher.weights=mine.pt --out runs/student
    """
    by_mode = {"student.mode": mode, "student.policy": None, "student.weighting": None}
    extra = None if mode is None else by_mode
    made = resolve(recipe, settings, seed, extra, cost=cost, no_import=no_import, download=download)
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    from frugalkd.experiments.runs.execute import distill as run

    following = show.command("ledger", "show", out)
    if made.data.name is not None:
        from frugalkd.language.named import fetched
        from frugalkd.outputs import OUTPUTS

        own, tokenizer = made.student.model.path, made.data.options.get("tokenizer")
        more = () if own is None else ("--import", own)
        more += ("--tokenizer", tokenizer) * os.path.isdir(tokenizer or "")
        more += ("--download",) * bool(fetched(made.data.name, made.data.options, made.data.root))
        words = ["evaluate", out, "--data", "own", *more]
        labelled = OUTPUTS[made.student.objective.build().learns].labelled
        if not made.reads_corpus and ("path" not in made.data.options or not labelled):
            words = ["predict", out, "--data", made.data.name, "--out", out / "classes.csv", *more]
        following = show.command(*words)
    title = f"distill {made.name} {made.student.mode or made.student.policy.called}"  # pyright: ignore
    again = resume or started_again()
    training = partial(run, made, out, teacher=teacher, ledger=ledger, resume=again)
    _train(title, training, out, as_json, following)


def _train(
    title: str,
    run: Callable[..., Any],
    out: Path,
    as_json: bool,
    following: str | Sequence[str],
) -> None:
    done = (out / "results.json").exists()
    with resumable(out) as stop, Bar(title) as bar:
        results = run(on_epoch_end=bar.epoch, progress=bar.before, should_stop=stop)
        if done:
            bar.say(f"{out} holds this very run, finished: here are its results")
    show.print_result(as_json, results, show.summary_table(results, out), following=following)


def store(
    recipe: str = options.RECIPE,
    out: Path = options.OUT,
    teacher: Path | None = options.TEACHER,
    shard: str = option(
        "--shard I/N",
        "Fill part I, from 0, of N; torchrun shares the work without it: `--shard 0/2`.",
        "0/1",
    ),
    features: list[str] = option(
        "--features PATH",
        "Also store features of the teacher's modules at this path or glob; repeatable.",
        [],
    ),
    settings: list[str] = options.SET,
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Run a teacher once, and keep its soft targets for all later students.

    The recipe's student.targets sets how many views and which encoding; its mode sets which samples
    may be used: no others are stored. Disk use is printed before anything is written. Features, for
    objectives that read them, are stored in float16.

    [bold]Examples[/bold]
    frugalkd store digits --teacher runs/teacher --out runs/targets
    frugalkd store mine.yaml --set student.targets.views=8 --teacher runs/t --out runs/targets
    frugalkd store mine.yaml --features layer3 --teacher runs/t --out runs/targets
    """
    if features:
        kept = ["student.targets.kind=stored", f"student.targets.features={json.dumps(features)}"]
        settings = [*settings, *kept]
    made = resolve(recipe, settings, None, no_import=no_import, download=download)
    index, _, shards = shard.partition("/")
    if not (index.isdecimal() and shards.isdecimal() and int(index) < int(shards)):
        raise RecipeError(f"--shard is {shard!r}: give I/N, such as 0/2 and 1/2")
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    from frugalkd.experiments.runs.targets import store as run
    from frugalkd.teachers import FillOptions

    with resumable(out, runs=True), Bar("store") as bar:

        def report_size(header: Header) -> None:
            existing = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
            feature = header.about.get("feature")
            what = f"{out}" if feature is None else f"features of {feature} in {out}"
            size = filesize.decimal(header.disk_bytes)
            bar.say(
                f"{what} will take {size}: {header.samples:,} samples x "
                f"{header.views} views x {header.record.itemsize} bytes; "
                f"{filesize.decimal(shutil.disk_usage(existing).free)} are free"
            )

        filling = FillOptions(
            shard=(int(index), int(shards)), on_create=report_size,
            on_progress=lambda rows, of: bar.update(completed=rows, total=of),
        )  # fmt: skip
        done = run(made, out, teacher=teacher, options=filling)
    facts = {
        "rows": f"{done['rows']:,} of {done['of']:,}",
        "queried now": f"{done['queries']:,}",
        "seconds": f"{done['seconds']:.1f}",
        "features": ", ".join(done["features"]) or None,
        "on the disk": filesize.decimal(done["bytes"]),
        "files": f"{out}/",
    }
    by = () if teacher is None else ("--teacher", teacher)
    use = [*settings, f"student.targets.folder={out}"]
    following = show.command("distill", recipe, *by, "--out", out.parent / "student", settings=use)
    table = show.facts_table(f"store {made.name}", facts)
    show.print_result(as_json, done, table, following=following)


def chain(
    recipes: list[str] = argument(
        "RECIPE...",
        "The student of each recipe is the teacher of the next: `assistant.yaml student.yaml`.",
    ),
    out: Path = options.OUT,
    teacher: Path | None = options.TEACHER,
    settings: list[str] = options.SET,
    seed: int | None = options.SEED,
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Distil through teacher assistants: teacher, assistant, student in one command.

    The first recipe's teacher is trained (or is that of --teacher), then each
    recipe's student by the one before. --set holds for all recipes. Writes a
    run folder a stage, and chain.json with the sum of what they cost.

    [bold]Examples[/bold]
    frugalkd chain assistant.yaml student.yaml --out runs/chain
    frugalkd chain assistant.yaml student.yaml --teacher runs/t --out runs/chain
    """
    made = [resolve(one, settings, seed, no_import=no_import, download=download) for one in recipes]
    from frugalkd.experiments.runs.chain import chain as run
    from frugalkd.experiments.runs.chain import stages_of

    stages = stages_of(made, taught=teacher is not None)
    start(*made, dry_run=dry_run, as_json=as_json, download=download)
    with resumable(out, runs=True) as stop, ExitStack() as bars:

        def begin(stage: Stage) -> Callable[[dict[str, Any]], None]:
            bars.close()  # that of the stage before
            title = f"{stage.name} of {len(stages)}: {stage.recipe.name}"
            return bars.enter_context(Bar(title)).epoch

        done = run(made, out, teacher=teacher, begin=begin, should_stop=stop)
    following = show.command("report", out / stages[-1].name)
    show.print_result(as_json, done, show.chain_table(done, out), following=following)


JOBS = option(
    "--jobs N", "Runs at the same time, each in its own process, best on its own core.", 2, min=1
)


def demo(
    out: Path = option("--out DIR", "The folder to write: `--out runs/demo`.", Path("runs/demo")),
    jobs: int = JOBS,
    as_json: bool = options.JSON,
) -> None:
    """See it work on digits: a gate at half of the cost, its controls, and the modes of the paper.

    Takes a minute or two on two cores and downloads nothing.

    [bold]Example[/bold]
    frugalkd demo --out runs/demo
    """
    from frugalkd.experiments.comparison.run import DEMO_NOTE
    from frugalkd.experiments.comparison.run import demo as run

    with resumable(out, runs=True), Bar("demo") as bar:
        comparison = run(out, jobs=jobs, on_event=bar.event)
    following = "frugalkd recipes show fashion-mnist > mine.yaml"
    _report(comparison, out, as_json, f"note: {DEMO_NOTE}", following=following)


def compare(
    recipe: str = options.RECIPE,
    out: Path = options.OUT,
    arms: str = option(
        "--arms A,B,...",
        "The rows to run: a mode, 'ce' (no teacher), an arm of the recipe, or a control of "
        "another row (random, short, permuted, random-cost, ...); by default the recipe's "
        "arms: `--arms vanilla,hybrid,short:hybrid`.",
        "",
    ),
    seeds: int = option(
        "--seeds N", "Seeds for each arm, 0 .. N-1; a claim needs 10: `--seeds 10`.", 3, min=1
    ),
    first_seed: int = option(
        "--first-seed N", "Begin with this seed: 10 and `--seeds 10` are 10 .. 19.", 0, min=0
    ),
    budgets: str = option(
        "--budgets B,...",
        "Fractions of the samples of full training, in (0, 1]: an arm that can be limited to "
        "a budget runs once for each, as ARM@B: `--budgets 0.1,0.25,0.5`.",
        "",
    ),
    claims: list[str] = option(
        "--claim 'A > B'",
        "A claim to test; repeatable, and all are corrected together. A > B: better; A >= B: "
        "no worse, by more than the margin: `--claim 'regulated@0.25 > random@0.25'`.",
        [],
    ),
    margin: float = option(
        "--margin POINTS", "What 'no worse' may lose, in points of accuracy.", 0.5, min=0, max=100
    ),
    teachers: list[str] = option(
        "--teacher [NAME=]DIR",
        "A folder of 'frugalkd teach', in place of training the recipe's first teacher, or the one "
        "named; repeatable: `--teacher runs/t`.",
        [],
    ),
    jobs: int = JOBS,
    on: Literal["here", "ray"] = option(
        "--on here|ray", "Where runs are executed: here, or as tasks of a Ray cluster.", "here"
    ),
    ray_address: str | None = option(
        "--ray-address HOST:PORT", "The Ray cluster; without it, one on this machine is started."
    ),
    cost: float | None = options.COST,
    settings: list[str] = options.SET,
    list_: bool = option("--list", "Only list the runs, with the digests that --only accepts."),
    only: str | None = option(
        "--only DIGEST", "Execute this run alone, as in a job array: `--only 1f0c5a2b`."
    ),
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Run a recipe's arms over several seeds, and compare them.

    Finished runs are not repeated, so the same command resumes after a stop, and collects the
    results of a job array.

    [bold]Example[/bold]
    frugalkd compare digits --arms vanilla,hybrid,short:hybrid --out runs/c
    frugalkd compare digits --arms vanilla,regulated,random --budgets 0.25,0.5 --out runs/b
    frugalkd compare digits --arms vanilla,regulated --teacher runs/teacher --out runs/t
    """
    made = resolve(recipe, settings, None, cost=cost, no_import=no_import, download=download)
    from frugalkd.experiments.comparison import resolve_arms
    from frugalkd.experiments.comparison.run import ComparisonRun
    from frugalkd.experiments.comparison.statistics import parse_claim

    fractions = _fractions(budgets)
    if fractions and cost is not None:
        raise RecipeError("a budget takes the place of a cost: give one of --budgets and --cost")
    chosen = list(dict.fromkeys(split(arms))) or list(made.arms) or list(MODES)
    resolved = resolve_arms(made, chosen, fractions)
    check_variants(made, [arm.name.partition("@")[0] for arm in resolved])
    declared = [parse_claim(claim, margin / 100) for claim in claims]
    if ray_address is not None and on != "ray":
        raise RecipeError("an address of a Ray cluster is for runs on ray: add --on ray")
    every = range(first_seed, first_seed + seeds)
    comparison = partial(
        ComparisonRun, made, chosen, every, out, fractions, claims=declared,
        teacher=_teachers(made, teachers),
    )  # fmt: skip
    if dry_run:
        comparison()  # refuses what cannot be compared
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    if not list_ and only is None:
        ray = (ray_address or "local") if on == "ray" else None
        with resumable(out, runs=True), Bar(f"compare {made.name}") as bar:
            done = comparison(on_event=bar.event).execute(jobs, ray)
        return _report(done, out, as_json)
    checked = comparison()
    if only is not None and not list_:
        return _run_one(checked, only, as_json)
    listed = checked.list_jobs()
    lines = (f"{it['digest']}  {'done' if it['done'] else '':4}  {run_name(it)}" for it in listed)
    show.print_result(as_json, listed, *lines)


def _teachers(recipe: Recipe, given: Sequence[str]) -> dict[str, Path] | None:
    """Folders by the names of teachers: of ``NAME=DIR``, or the first teacher's of ``DIR``. Raises
    RecipeError."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or name not in recipe.teachers:
            name, folder = next(iter(recipe.teachers), ""), text
        if name in found:
            raise RecipeError(
                f"two folders for the teacher {name}, {found[name]} and {folder}: write NAME=DIR, "
                f"with a name of {', '.join(recipe.teachers) or 'the section teachers'}"
            )
        found[name] = Path(folder)
    return found or None


def _fractions(budgets: str) -> list[float]:
    """``"0.1,0.5"`` as numbers. Raises RecipeError."""
    try:
        return list(dict.fromkeys(map(float, split(budgets))))
    except ValueError:
        raise RecipeError(
            f"--budgets {budgets}: write parts of 1, as in 0.1,0.25,0.5 for 10, 25 and 50 %"
        ) from None


def _run_one(comparison: ComparisonRun, digest: str, as_json: bool) -> None:
    with resumable(comparison.out, runs=True):
        results = comparison.run_one(digest)
    if "meters" in results:
        table = show.summary_table(results, comparison.out)
    else:
        facts = {"rows queried": f"{results['rows']:,}", "seconds": f"{results['seconds']:.1f}"}
        table = show.facts_table("soft targets", facts)
    show.print_result(as_json, results, f"done: {digest}", table)


def _report(
    comparison: dict[str, Any], out: Path, as_json: bool, *notes: str, following: str = ""
) -> None:
    """The comparison on stdout; exit code 1 where a run failed."""
    tables = [show.comparison_table(comparison)]
    if comparison["claims"]:
        tables.append(show.claims_table(comparison))
    written = f"written: {out / 'comparison.json'}"
    show.print_result(as_json, comparison, *tables, *notes, written, following=following)
    for failure in comparison["failed"]:
        show.print_line(Console(stderr=True), f"failed: {run_name(failure)}: {failure['error']}")
    if comparison["failed"]:
        raise typer.Exit(1)


def estimate(
    recipe: str = options.RECIPE,
    teacher: Path | None = options.TEACHER,
    cost: float | None = options.COST,
    seconds: float = option("--seconds S", "About how long the pilot takes: `--seconds 60`.", 20.0),
    settings: list[str] = options.SET,
    as_json: bool = options.JSON,
    dry_run: bool = options.DRY_RUN,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Estimate, before any training, what selection saves on this pair of models.

    A pilot of seconds times what would run, trains the student in miniature,
    and forecasts what each mode would keep, how long it would take, and its disk use.
    Without --teacher, costs are of an untrained teacher, and kept fractions are rougher.

    [bold]Examples[/bold]
    frugalkd estimate fashion-mnist
    frugalkd estimate fashion-mnist --cost 0.3
    frugalkd estimate fashion-mnist --teacher runs/teacher --seconds 60
    """
    made = resolve(recipe, settings, None, cost=cost, no_import=no_import, download=download)
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    from frugalkd.experiments.estimate import estimate as run

    with Console(file=sys.stderr, highlight=False).status("pilot") as status:
        result = run(
            made, teacher=teacher, seconds=seconds, say=lambda line: status.update(f"pilot: {line}")
        )
    limit = () if cost is None else ("--cost", str(cost))
    words = ["distill", recipe, *limit, "--out", "runs/student"]
    if result["pays"] is False:  # of the mode; then everything, at the same cost
        words += ["--mode", "vanilla"]
    elif made.student.mode == "vanilla":
        words += ["--mode", result["verdict_mode"]]
    following = []
    if teacher is None and made.teacher.weights is None:
        teacher = Path("runs/teacher")
        following = [show.command("teach", recipe, "--out", teacher, settings=settings)]
    if teacher is not None:
        words += ["--teacher", str(teacher)]
    following.append(show.command(*words, settings=settings))
    show.print_result(as_json, result, show.estimate_view(result), following=following)
