"""``plot``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from frugalkd.cli.options import JsonOption, ResultsArgument
from frugalkd.cli.show import facts_table, stdout

_FIGURES = ("frontier", "participation")


def plot(
    path: ResultsArgument,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FILE",
            help="The file to write, .pdf, .svg or .png: [cyan]--to frontier.pdf[/cyan].",
            show_default=False,
        ),
    ],
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            metavar="|".join(_FIGURES),
            help="One figure, as wide as a column: accuracy over samples, or who took part by "
            "epoch; without it both, side by side: [cyan]--figure frontier[/cyan].",
            autocompletion=lambda: list(_FIGURES),
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            metavar="A,B,...",
            help="These arms of a comparison only, with or without their budget: "
            "[cyan]--arms vanilla,regulated,random[/cyan].",
            show_default=False,
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Draw a comparison or a run for a paper. Needs [cyan]pip install 'frugalkd\\[plot]'[/cyan].

    [bold]Examples[/bold]

    frugalkd plot runs/comparison --to figure.pdf

    frugalkd plot runs/comparison --to f.pdf --figure frontier --arms regulated,random
    """
    from frugalkd.experiments.report.collect import collect
    from frugalkd.experiments.report.paper import plot as draw

    wanted = [arm.strip() for arm in arms.split(",") if arm.strip()]
    done = draw(collect(path), to, figure=figure, arms=wanted)
    if as_json:
        print(json.dumps(done, indent=2))
        return
    facts = {
        "file": done["file"],
        "figures": ", ".join(done["figures"]),
        "arms": ", ".join(done["arms"]) or None,
        "seeds": ", ".join(map(str, done["seeds"])),
        "caption": done["caption"],
    }
    stdout().print(facts_table(f"plot {path}", facts))
