"""The application: all commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

import frugalkd
from frugalkd.cli import (
    chaining,
    comparing,
    estimating,
    ledgers,
    plotting,
    recipes,
    reporting,
    storing,
    training,
    using,
)
from frugalkd.errors import RankError
from frugalkd.runtime.process import rank_and_world

app = typer.Typer(
    name="frugalkd",
    help="Distil a model with a fraction of the samples, and with a fraction of the time.",
    epilog="Start with: [cyan]frugalkd demo --out runs/demo[/cyan]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"frugalkd {frugalkd.__version__}")
        raise typer.Exit()


TOGETHER = ("teach", "distill", "store")
"""Commands that several processes of a launcher carry out together."""


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of an error; may stand anywhere: "
            "[cyan]frugalkd teach digits --out runs/t --debug[/cyan].",
        ),
    ] = False,
) -> None:
    """What holds for every command; main() looks at --debug itself."""
    name, (_, world) = context.invoked_subcommand, rank_and_world()
    if world > 1 and name not in TOGETHER:
        raise RankError(
            f"'frugalkd {name}' runs in one process, and this launch has {world}: start it without "
            f"torchrun or accelerate launch, which are for {', '.join(TOGETHER)}"
        )


_RUN, _LOOK = "Run", "Look and use"
app.command(rich_help_panel=_RUN)(comparing.demo)
app.command(rich_help_panel=_RUN)(estimating.estimate)
app.command(rich_help_panel=_RUN)(training.teach)
app.command(rich_help_panel=_RUN)(storing.store)
app.command(rich_help_panel=_RUN)(training.distill)
app.command(rich_help_panel=_RUN)(chaining.chain)
app.command(rich_help_panel=_RUN)(comparing.compare)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_LOOK)
app.add_typer(ledgers.app, name="ledger", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(reporting.report)
app.command(rich_help_panel=_LOOK)(plotting.plot)
app.command(rich_help_panel=_LOOK)(using.evaluate)
app.command(rich_help_panel=_LOOK)(using.predict)
app.command(rich_help_panel=_LOOK)(recipes.schema)
