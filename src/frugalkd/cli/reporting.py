"""``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.interrupt import Interrupted
from frugalkd.cli.options import ImportOption, ResultsArgument
from frugalkd.errors import ReportError


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
    imports: ImportOption = [],  # noqa: B006
) -> None:
    """Write one HTML page of a comparison or a run, which needs neither other files nor a network.

    [bold]Examples[/bold]

    frugalkd report runs/comparison

    frugalkd report runs/comparison --watch
    """
    if watch:
        if out is not None:
            raise ReportError("--watch serves the page and writes no file: leave --out out")
        _serve(path, port, imports)
        return
    from frugalkd.files import write_atomic
    from frugalkd.report import collect, make_page
    from frugalkd.writing import make_folder

    page = make_page(collect(path), imports)
    to = out or (path.with_suffix(".html") if path.is_file() else path / "report.html")
    make_folder(to.parent)
    write_atomic(to, page.encode("utf-8"))
    print(f"written: {to}")


def _serve(path: Path, port: int, imports: list[str]) -> None:
    from frugalkd.report.watch import Server, Watched

    with Server(Watched(path, imports), port) as server:
        print(f"{server.url} shows {path} as it grows; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None
