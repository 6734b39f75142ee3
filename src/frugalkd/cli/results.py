"""``evaluate``, ``predict``, ``export``, ``push``, ``report``, ``plot``: uses of finished runs."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Literal

import typer

from frugalkd.cli import options
from frugalkd.cli.options import option, split
from frugalkd.cli.running import Interrupted
from frugalkd.cli.show import export_table, facts_table, measures, print_result
from frugalkd.errors import ReportError
from frugalkd.files.parsing import printable
from frugalkd.runtime.imports import Allowed

OWN = "own"
"""In the place of a data set's name: the data that the run's folder names."""


def with_own_data(arguments: list[str]) -> list[str]:
    """The arguments of a command, where ``--data`` without a value means ``--data own``."""
    complete = []
    for argument, following in pairwise([*arguments, "--"]):
        alone = argument == "--data" and following.startswith("-")
        complete += [argument, OWN] if alone else [argument]
    return complete


def evaluate(
    run: Path = options.RUN,
    data: str | None = option(
        "--data own|NAME|FOLDER|FILE",
        "What to evaluate on: own (or no value), the held-out part of the run's own data; a data "
        "set's name (its test part); a folder with a folder of pictures per class; or a table: "
        "`--data own`.",
    ),
    teacher: str | None = option(
        "--teacher DIR",
        "Of a language model its teacher, to compare with: a folder, a name on the hub, or a "
        ".gguf file: `--teacher runs/teacher`.",
    ),
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    tokenizer: str | None = options.TOKENIZER,
    as_json: bool = options.JSON,
) -> None:
    """Measure a run's model on held-out data: accuracy, worst class, calibration; of regression R2
    and errors; of a language model perplexity.

    [bold]Examples[/bold]
    frugalkd evaluate runs/student --data own
    frugalkd evaluate runs/lm-student --data own --teacher runs/lm-teacher
    frugalkd evaluate runs/student --data my-images/ --json
    """
    from frugalkd.experiments.runs.use import evaluate_run

    allowed = Allowed(imports, data == OWN, download, tokenizer)
    measured, what = evaluate_run(run, None if data == OWN else data, allowed, teacher)
    content = {"run": str(run), "data": what, **measured}
    facts = {"samples": f"{measured['samples']:,}", **measures(measured)}
    print_result(as_json, content, facts_table(f"{run} on {what}", facts))


def export(
    run: Path = options.RUN,
    to: Literal["onnx", "torch-export", "safetensors"] = option(
        "--to onnx|torch-export|safetensors",
        "The format of the file: `--to onnx`.",
        ...,
    ),
    out: Path = option("--out DIR", "The folder to write: `--out served`.", ...),
    int8: bool = option(
        "--int8", "Also write an int8 ONNX file; one of pictures is calibrated on --data."
    ),
    data: str | None = option(
        "--data own|NAME|FOLDER",
        "What to measure accuracy and agreement on, as of 'evaluate': `--data own`.",
    ),
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    tokenizer: str | None = options.TOKENIZER,
    as_json: bool = options.JSON,
) -> None:
    """Write a run's model as ONNX, torch.export or safetensors, and measure it beside the run's.

    ONNX needs [cyan]pip install 'frugalkd\\[onnx]'[/cyan]. Agreement: the run's model gives the
    same class.

    [bold]Examples[/bold]
    frugalkd export runs/student --to onnx --out served
    frugalkd export runs/student --to onnx --int8 --data own --out served
    """
    from frugalkd.experiments.runs.exported import export_run

    allowed = Allowed(imports, data == OWN, download, tokenizer)
    done = export_run(run, out, to, int8=int8, data=None if data == OWN else data, allowed=allowed)
    print_result(as_json, done, export_table(done), *done["files"])


def push(
    run: Path = options.RUN,
    repo: str = options.argument("USER/NAME", "The model's name on the hub: `me/digits-small`."),
    private: bool = option("--private", "Make the repository private, if it is made here."),
    license: str | None = option(
        "--license ID", "Of the model, as the hub names it: `--license apache-2.0`."
    ),
    message: str | None = option("--message TEXT", "Of the commit."),
    out: Path | None = option(
        "--out DIR", "Write the files to this folder and push nothing: `--out card`."
    ),
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    tokenizer: str | None = options.TOKENIZER,
    as_json: bool = options.JSON,
) -> None:
    """Push a run's model to the Hugging Face hub, with a card made from the run's records.

    Your token is that of [cyan]hf auth login[/cyan], or of HF_TOKEN.

    [bold]Examples[/bold]
    frugalkd push runs/student me/digits-small --license apache-2.0 --out card
    frugalkd push runs/student me/digits-small --license apache-2.0 --private
    """
    from frugalkd.experiments.report.model_card import push_run

    where = push_run(
        run, repo, license=license, out=out, allowed=Allowed(imports, False, download, tokenizer),
        private=private or None, commit_message=message,
    )  # fmt: skip
    content = {"run": str(run), "repository": repo, "pushed": out is None, "where": where}
    facts = {"repository": repo, "written to" if out else "pushed as": where}
    print_result(as_json, content, facts_table(f"{run} and its card", facts))


def predict(
    run: Path = options.RUN,
    data: str = option(
        "--data own|NAME|FOLDER|FILE",
        "What to classify: own, the held-out part of the run's own data; a data set's name (its "
        "test part); a folder of pictures, or an .npy of uint8 images; for a model of texts a "
        ".txt, .csv or .parquet file, of tables one of these: `--data my-images/`.",
        ...,
    ),
    out: Path = option("--out FILE.csv", "The table to write: `--out classes.csv`.", ...),
    probabilities: bool = option("--probabilities", "Add a column per class."),
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    tokenizer: str | None = options.TOKENIZER,
    as_json: bool = options.JSON,
) -> None:
    """Classify images, or texts, with a run's model; one row for each goes to a CSV file.

    A picture that cannot be read has a row that says why, and the exit code is 1.

    [bold]Example[/bold]
    frugalkd predict runs/student --data my-images/ --out classes.csv
    """
    from frugalkd.experiments.runs.use import predict_to_csv

    allowed = Allowed(imports, data == OWN, download, tokenizer)
    found = predict_to_csv(run, None if data == OWN else data, out, probabilities, allowed)
    rows, failed = len(found.names), len(found.failed)
    content = {"run": str(run), "data": data, found.what: rows, "failed": failed, "out": str(out)}
    facts = {found.what: f"{rows:,}", "of these unreadable": failed or None, "written to": out}
    print_result(as_json, content, facts_table(f"{run} on {data}", facts))
    if failed:
        why = found.describe_failed()
        line = (
            f"warning: {failed} of {rows} files are not readable pictures, without a class: {why}"
        )
        print(printable(line), file=sys.stderr)
        raise typer.Exit(1)


def report(
    path: Path = options.RESULTS,
    out: Path | None = option(
        "--out FILE", "The page to write, by default DIR/report.html: `--out page.html`."
    ),
    watch: bool = option(
        "--watch", "Serve the page instead, refreshed while runs continue, until Ctrl-C."
    ),
    port: int = option(
        "--port N", "With --watch: the port, 0 for any free: `--port 9000`.", 8765, min=0, max=65535
    ),
    data: bool = options.DATA,
    imports: list[str] = options.IMPORT,
    download: bool = options.DOWNLOAD,
    as_json: bool = options.JSON,
) -> None:
    """Write one HTML page of a comparison or a run, which needs neither other files nor a network.

    [bold]Examples[/bold]
    frugalkd report runs/comparison
    frugalkd report runs/comparison --data
    frugalkd report runs/comparison --watch
    """
    allowed = Allowed(imports, data, download)
    if watch:
        if out is not None:
            raise ReportError("--watch serves the page and writes no file: leave --out out")
        return _serve(path, port, allowed, as_json)
    to = out or (path.with_suffix(".html") if path.is_file() else path / "report.html")
    if to.suffix.lower() not in (".html", ".htm"):  # not over a file of results
        raise ReportError(f"--out must end in .html, not {to}")
    from frugalkd.experiments.report import collect, headline_of, make_page
    from frugalkd.files.opening import named_file
    from frugalkd.files.writing import make_folder, write_atomic

    found = collect(path)
    page = make_page(found, allowed).encode("utf-8", "replace")
    to = named_file(to)
    make_folder(to.parent)
    write_atomic(to, page)
    content = {"file": str(to), "bytes": len(page), "headline": headline_of(found)}
    facts = {**content, "bytes": None, "size": f"{len(page) / 1e6:.1f} MB"}
    print_result(as_json, content, facts_table(f"report {path}", facts))


def _serve(path: Path, port: int, allowed: Allowed, as_json: bool) -> None:
    from frugalkd.experiments.report.watch import Server, Watched

    with Server(Watched(path, allowed), port) as server:
        line = f"{server.url} shows {path} as it grows; Ctrl-C ends it"
        print(json.dumps({"url": server.url}) if as_json else printable(line), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None


def plot(
    path: Path = options.RESULTS,
    to: Path = option(
        "--to FILE", "The figure to write, .pdf, .svg or .png: `--to frontier.pdf`.", ...
    ),
    figure: Literal["frontier", "participation"] | None = option(
        "--figure frontier|participation",
        "One figure, as wide as a column: accuracy over samples, or the samples used by "
        "epoch; without it both, side by side: `--figure frontier`.",
    ),
    arms: str = option(
        "--arms A,B,...", "Only these arms of a comparison, with or without their budget.", ""
    ),
    dark: bool = option("--dark", "For a dark page, without a background.", False),
    as_json: bool = options.JSON,
) -> None:
    """Draw a comparison or a run for a paper. Needs [cyan]pip install 'frugalkd\\[plot]'[/cyan].

    The figures are the frontier (accuracy over samples) and participation (samples used by epoch).

    [bold]Examples[/bold]
    frugalkd plot runs/comparison --to figure.pdf
    frugalkd plot runs/comparison --to f.pdf --figure frontier --arms regulated,random
    """
    from frugalkd.experiments.report.collect import collect
    from frugalkd.experiments.report.paper import plot as draw

    done = draw(collect(path), to, figure=figure, arms=split(arms), dark=dark)
    facts = {
        "file": done["file"],
        "figures": ", ".join(done["figures"]),
        "arms": ", ".join(done["arms"]) or None,
        "seeds": ", ".join(map(str, done["seeds"])),
        "caption": done["caption"],
    }
    print_result(as_json, done, facts_table(f"plot {path}", facts))
