"""``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.options import ImportOption


def report(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The folder of a comparison or of a run, or a comparison.json of any name: "
            "[cyan]runs/comparison[/cyan].",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where to, by default DIR/report.html: [cyan]--out page.html[/cyan].",
            show_default=False,
        ),
    ] = None,
    imports: ImportOption = [],  # noqa: B006
) -> None:
    """Write one HTML page of a comparison or a run, which needs neither other files nor a network.

    [bold]Example[/bold]

    frugalkd report runs/comparison
    """
    from frugalkd.files import write_atomic
    from frugalkd.report import collect, make_page
    from frugalkd.writing import make_folder

    page = make_page(collect(path), imports)
    to = out or (path.with_suffix(".html") if path.is_file() else path / "report.html")
    make_folder(to.parent)
    write_atomic(to, page.encode("utf-8"))
    print(f"written: {to}")
