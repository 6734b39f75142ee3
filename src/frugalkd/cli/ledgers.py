"""``ledger show``, ``ledger export`` and ``ledger make``."""

from __future__ import annotations

from pathlib import Path

import typer

from frugalkd.cli import options
from frugalkd.cli.options import option, resolve, start
from frugalkd.cli.running import Bar, resumable
from frugalkd.cli.show import command, facts_table, ledger_view, print_result
from frugalkd.errors import LedgerError
from frugalkd.runtime.formatting import percent
from frugalkd.runtime.imports import Allowed

app = typer.Typer(
    help="Show, export and make ledgers: how much each sample mattered to the teacher.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def show(
    path: Path = options.LEDGER,
    top: int = option(
        "--top N", "How many of the most and the least significant samples.", 8, min=1
    ),
    data: bool = options.DATA,
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    as_json: bool = options.JSON,
) -> None:
    """Show significance by class, its histogram, the most and least significant samples.

    [bold]Examples[/bold]
    frugalkd ledger show runs/teacher --top 20
    frugalkd ledger show runs/teacher --data
    """
    from frugalkd.ledger.ledger import Ledger
    from frugalkd.ledger.summary import summarise

    ledger = Ledger.load(path)
    summary = summarise(ledger, top)
    if data:
        from frugalkd.experiments.runs.ledgers import names_of_run

        both = [*summary["most"], *summary["least"]]
        ids = [sample["id"] for sample in both]
        names = names_of_run(path, ledger, Allowed(imports, True, download), ids)
        for sample, name in zip(both, names, strict=True):
            sample["sample"] = name
    print_result(as_json, summary, ledger_view(summary))


@app.command()
def export(
    path: Path = options.LEDGER,
    to: Path = option(
        "--to FILE", "The table to write, .csv, or .parquet with the extra 'parquet'.", ...
    ),
    data: bool = options.DATA,
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    as_json: bool = options.JSON,
) -> None:
    """Write a ledger as a table, one row a sample.

    [bold]Examples[/bold]
    frugalkd ledger export runs/teacher --to ledger.csv
    frugalkd ledger export runs/teacher --to ledger.csv --data
    """
    from frugalkd.files.opening import named_file
    from frugalkd.files.writing import make_folder
    from frugalkd.ledger.ledger import Ledger

    ledger, to = Ledger.load(path), named_file(to)
    names = None
    if data:
        from frugalkd.experiments.runs.ledgers import names_of_run

        names = names_of_run(path, ledger, Allowed(imports, True, download))
    make_folder(to.parent)
    ledger.export(to, names=names)
    facts = {"samples": f"{len(ledger):,}", "written to": to}
    content = {"ledger": str(path), "samples": len(ledger), "to": str(to)}
    print_result(as_json, content, facts_table(f"ledger of {path}", facts))


@app.command()
def make(
    recipe: str = options.RECIPE,
    out: Path = option("--out DIR", "The folder to write: `--out runs/ledger`.", ...),
    teacher: Path | None = options.TEACHER,
    log: Path | None = option(
        "--log FILE",
        "A .csv, .jsonl or .parquet of epoch, id, confidence, correct, instead of the teacher.",
    ),
    epochs: float | None = option("--epochs N", "Epochs of the head's training: `--epochs 40`."),
    settings: list[str] = options.SET,
    seed: int | None = options.SEED,
    as_json: bool = options.JSON,
    no_import: bool = options.NO_IMPORT,
    download: bool = options.DOWNLOAD,
) -> None:
    """Measure significance for a teacher that you already have.

    Only a new head is trained, self-regulated, on the teacher's features, which are computed
    once; the teacher does not change. Or the ledger comes from a log of its training.

    [bold]Examples[/bold]
    frugalkd ledger make digits --teacher runs/teacher --out runs/ledger
    frugalkd ledger make digits --log confidences.csv --out runs/ledger
    """
    if log is not None and (teacher is not None or epochs is not None):
        raise LedgerError("--log replaces the teacher: leave out --teacher and --epochs")
    made = resolve(recipe, settings, seed, no_import=no_import, download=download)
    start(made, dry_run=False, as_json=as_json, download=download)
    from frugalkd.experiments.runs.ledgers import HEAD, make_ledger

    title = f"ledger of {made.name}"
    total = HEAD.epochs if epochs is None else epochs
    with resumable(out, runs=True) as stop, Bar(title, total) as bar:
        done = make_ledger(
            made, out, teacher=teacher, log=log, epochs=epochs, on_epoch_end=bar.epoch,
            should_stop=stop,
        )  # fmt: skip
    facts = {
        "made from": {"head": "the teacher's features, a new head", "log": str(log)}[done["made"]],
        "samples": f"{done['samples']:,}",
        "ever used": f"{done['took_part']:,} = {percent(done['took_part'] / done['samples'])}",
        "mean significance": f"{done['mean_significance']:.3f} over {done['epochs']:g} epochs",
        "seconds": f"{done['seconds']:.1f}",
        "files": f"{out}/",
    }
    by = () if teacher is None else ("--teacher", teacher)
    words = ["distill", recipe, "--mode", "hybrid", "--ledger", out, *by]
    following = command(*words, "--out", out.parent / "student", settings=settings)
    print_result(as_json, done, facts_table(title, facts), following=following)
