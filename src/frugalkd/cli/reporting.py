"""``report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.interrupt import Interrupted
from frugalkd.cli.options import DownloadOption, ImportOption, JsonOption, ResultsArgument
from frugalkd.cli.show import facts_table, stdout
from frugalkd.errors import ReportError
from frugalkd.files.parsing import printable
from frugalkd.runtime.imports import Allowed


def report(
    path: ResultsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where to, by default DIR/report.html: [cyan]--out page.html[/cyan].",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Serve the page to browsers on this machine instead, and refresh it while runs go "
            "on, until Ctrl-C: [cyan]frugalkd report runs/comparison --watch[/cyan].",
        ),
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="With --watch: the port, 0 for any that is free: [cyan]--port 9000[/cyan].",
        ),
    ] = 8765,
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Show the samples at both ends as pictures or texts; they are read from the data "
            "that the folder names: [cyan]frugalkd report runs/comparison --data[/cyan].",
        ),
    ] = False,
    imports: ImportOption = [],  # noqa: B006
    download: DownloadOption = False,
    as_json: JsonOption = False,
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
        _serve(path, port, allowed, as_json)
        return
    to = out or (path.with_suffix(".html") if path.is_file() else path / "report.html")
    if to.suffix.lower() not in (".html", ".htm"):  # not over a file of results
        raise ReportError(f"{to} is no name of a page: let --out end in .html")
    from frugalkd.experiments.report import collect, headline_of, make_page
    from frugalkd.files.opening import named_file
    from frugalkd.files.writing import make_folder, write_atomic

    found = collect(path)
    page = make_page(found, allowed).encode("utf-8", "replace")
    to = named_file(to)
    make_folder(to.parent)
    write_atomic(to, page)
    said = headline_of(found)
    if as_json:
        print(json.dumps({"file": str(to), "bytes": len(page), "headline": said}, indent=2))
        return
    facts = {"file": str(to), "size": f"{len(page) / 1e6:.1f} MB", "headline": said}
    stdout().print(facts_table(f"report {path}", facts))


def _serve(path: Path, port: int, allowed: Allowed, as_json: bool) -> None:
    from frugalkd.experiments.report.watch import Server, Watched

    with Server(Watched(path, allowed), port) as server:
        if as_json:
            print(json.dumps({"url": server.url}), flush=True)
        else:
            said = f"{server.url} shows {path} as it grows; Ctrl-C ends it"
            print(printable(said), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None
