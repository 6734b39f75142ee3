"""``teach``, ``store``, ``distill`` and ``chain``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import filesize

from frugalkd.cli import options
from frugalkd.cli.options import argument, option, resolve, start
from frugalkd.cli.running import Bar, resumable
from frugalkd.cli.show import chain_table, command, facts_table, print_result, summary_table
from frugalkd.distributed.launch import started_again
from frugalkd.errors import RecipeError
from frugalkd.policies.modes import MODES

if TYPE_CHECKING:
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

    student = out.parent / ("student" if out.name != "student" else "distilled")
    words = ["distill", recipe, "--mode", "regulated", "--teacher", out, "--out", student]
    following = command(*words, settings=settings)
    training = partial(run, made, out, resume=resume or started_again())
    _train(f"teach {made.name}", made.teacher.training.epochs, training, out, as_json, following)


def distill(
    recipe: str = options.RECIPE,
    out: Path = options.OUT,
    mode: str | None = option(
        "--mode MODE",
        f"The samples used and their weights, instead of the recipe's: {', '.join(MODES)}.",
        autocompletion=lambda: list(MODES),
    ),
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
    made = resolve(recipe, settings, seed, extra, no_import=no_import, download=download)
    start(made, dry_run=dry_run, as_json=as_json, download=download)
    from frugalkd.experiments.runs.execute import distill as run

    following = command("ledger", "show", out)
    if made.data.name is not None:  # only shipped data sets say how to prepare a picture
        own = made.student.model.path
        imports = () if own is None else ("--import", own)
        table = out / "classes.csv"
        following = command("predict", out, "--data", made.data.name, "--out", table, *imports)
    title = f"distill {made.name} {made.student.mode or made.student.policy.name}"  # pyright: ignore
    again = resume or started_again()
    training = partial(run, made, out, teacher=teacher, ledger=ledger, resume=again)
    _train(title, made.student.training.epochs, training, out, as_json, following)


def _train(
    title: str, epochs: float, run: Callable[..., Any], out: Path, as_json: bool, following: str
) -> None:
    done = (out / "results.json").exists()
    with resumable(out) as stop, Bar(title, epochs) as bar:
        results = run(on_epoch_end=bar.epoch, progress=bar.before, should_stop=stop)
        if done:
            bar.say(f"{out} holds this very run, finished: here are its results")
    print_result(as_json, results, summary_table(results, out), following=following)


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

    with resumable(out, runs=True), Bar("store") as bar:

        def announce(header: Header) -> None:
            existing = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
            feature = header.about.get("feature")
            what = f"{out}" if feature is None else f"features of {feature} in {out}"
            size = filesize.decimal(header.disk_bytes)
            bar.say(
                f"{what} will take {size}: {header.samples:,} samples x "
                f"{header.views} views x {header.record.itemsize} bytes; "
                f"{filesize.decimal(shutil.disk_usage(existing).free)} are free"
            )

        part = int(index), int(shards)
        show = lambda rows, of: bar.update(completed=rows, total=of)  # noqa: E731
        done = run(made, out, teacher=teacher, shard=part, announce=announce, listener=show)
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
    following = command("distill", recipe, *by, "--out", out.parent / "student", settings=use)
    print_result(as_json, done, facts_table(f"store {made.name}", facts), following=following)


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
            return bars.enter_context(Bar(title, stage.role.training.epochs)).epoch

        done = run(made, out, teacher=teacher, begin=begin, should_stop=stop)
    following = command("report", out / stages[-1].name)
    print_result(as_json, done, chain_table(done, out), following=following)
