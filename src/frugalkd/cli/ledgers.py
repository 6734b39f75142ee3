"""``ledger show``, ``ledger export``, ``ledger audit`` and ``ledger make``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from frugalkd.cli import options
from frugalkd.cli.options import option, resolve, start
from frugalkd.cli.running import Bar, resumable
from frugalkd.cli.show import audit_view, command, facts_table, ledger_view, print_result
from frugalkd.errors import LedgerError
from frugalkd.runtime.formatting import percent
from frugalkd.runtime.imports import Allowed

if TYPE_CHECKING:
    from frugalkd.ledger.ledger import Ledger

app = typer.Typer(
    help="Show, export, audit and make ledgers: how much each sample mattered to the teacher.",
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
        names = names_of_run(path, ledger, _allowed(imports, download), ids)
        for sample, name in zip(both, names, strict=True):
            sample["sample"] = name
    print_result(as_json, summary, ledger_view(summary), *([] if data else _hint(path)))


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

        names = names_of_run(path, ledger, _allowed(imports, download))
    make_folder(to.parent)
    ledger.export(to, names=names)
    facts = {"samples": f"{len(ledger):,}", "written to": to}
    content = {"ledger": str(path), "samples": len(ledger), "to": str(to)}
    hint = () if data else _hint(path)
    print_result(as_json, content, facts_table(f"ledger of {path}", facts), *hint)


@app.command()
def audit(
    path: Path = options.LEDGER,
    top: int = option("--top N", "How many of the most suspicious labels to show.", 20, min=1),
    out: Path | None = option(
        "--out FILE", "A .csv to write, of all samples, to fill in decisions: `--out audit.csv`."
    ),
    data: bool = options.DATA,
    targets: Path | None = option(
        "--targets DIR", "A store of the teacher's soft targets, to show its class too."
    ),
    fix: Path | None = option(
        "--fix FILE",
        "Decisions: the table of --out, filled in, or one from a report's page: `--fix d.csv`.",
    ),
    to: Path | None = option(
        "--to DIR", "Where --fix writes a recipe with the corrected data: `--to fixed`."
    ),
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    as_json: bool = options.JSON,
) -> None:
    """Rank samples by how likely their label is wrong, and correct the data.

    The ranking is by the mean margin of the given label in training and by the last visit; the
    suggested class is the one that training most often preferred to the label. Nothing is trained
    or evaluated for it.

    [bold]Examples[/bold]
    frugalkd ledger audit runs/teacher --top 50
    frugalkd ledger audit runs/teacher --data --out audit.csv
    frugalkd ledger audit runs/teacher --fix audit.csv --to fixed
    """
    from frugalkd.ledger.ledger import Ledger

    if (fix is None) != (to is None):
        raise LedgerError("--fix decisions.csv and --to DIR belong together: give both")
    if fix is not None and (out is not None or data or targets is not None):
        raise LedgerError("--fix ranks nothing: leave out --out, --data and --targets")
    ledger = Ledger.load(path)
    if fix is not None and to is not None:
        _fix(path, ledger, fix, to, as_json)
        return
    from frugalkd.ledger.audit import export_suspects, ranked, refused, suspects

    logits = None
    if targets is not None:
        from frugalkd.experiments.runs.audit import logits_of

        logits = logits_of(targets, ledger)
    rows = suspects(ledger, ranked(ledger, None if out else top), logits)
    if data:
        from frugalkd.experiments.runs.ledgers import names_of_run

        ids = [row["id"] for row in rows]
        for row, name in zip(rows, names_of_run(path, ledger, _allowed(imports, download), ids),
                             strict=True):  # fmt: skip
            row["sample"] = name
    if out is not None:
        export_suspects(ledger, rows, out)
    content = {
        "ledger": str(path), "samples": len(ledger), "refused": refused(ledger),
        "suspects": rows[:top], "out": None if out is None else str(out),
    }  # fmt: skip
    following = (
        "" if out is None else command("ledger", "audit", path, "--fix", out, "--to", "fixed")
    )
    hint = _hint(path) if not data else ()
    print_result(as_json, content, audit_view(content), *hint, following=following)


def _fix(path: Path, ledger: Ledger, fix: Path, to: Path, as_json: bool) -> None:
    from frugalkd.experiments.runs.audit import fix as write_fixed
    from frugalkd.experiments.runs.audit import read_decisions

    done = write_fixed(path, ledger, read_decisions(fix, ledger), to)
    facts = {
        "left out": f"{done['excluded']:,} samples",
        "relabelled": f"{done['relabelled']:,} samples",
        "written to": ", ".join([*done["files"].values(), done["recipe"]]),
    }
    following = command("teach", done["recipe"], "--out", to / "teacher")
    print_result(as_json, done, facts_table(f"decisions of {fix}", facts), following=following)


def _allowed(imports: list[str], download: bool) -> Allowed:
    return Allowed(imports, True, download)


def _hint(path: Path) -> tuple[str, ...]:
    """Where the samples have names that were not read."""
    from frugalkd.experiments.runs.folder import has_names
    from frugalkd.ledger.ledger import ledger_file

    known = has_names(ledger_file(path).parent)
    return ("Samples are ids here: add --data for their files or texts.",) if known else ()


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
    from frugalkd.experiments.runs.ledgers import make_ledger

    title = f"ledger of {made.name}"
    with resumable(out, runs=True) as stop, Bar(title) as bar:
        done = make_ledger(
            made, out, teacher=teacher, log=log, epochs=epochs, on_epoch_end=bar.epoch,
            progress=bar.before, should_stop=stop,
        )  # fmt: skip
    facts = {
        "made from": {"head": "the teacher's features, a new head", "log": str(log)}[done["made"]],
        "samples": f"{done['samples']:,}",
        "ever used": f"{done['took_part']:,} = {percent(done['took_part'] / done['samples'])}",
        "mean significance": f"{done['mean_significance']:.3f} over {done['epochs']:g} epochs",
        "seconds": f"{done['seconds']:.1f}",
        "files": f"{out}/",
    }
    print_result(as_json, done, facts_table(title, facts), following=command("ledger", "show", out))
