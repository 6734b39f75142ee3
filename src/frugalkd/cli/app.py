"""The application: all commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

import frugalkd
from frugalkd.cli import comparing, ledgers, recipes, results, training
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
"""Commands that several processes of a launcher run together."""


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
            help="Show the traceback of an error; valid anywhere: "
            "[cyan]frugalkd teach digits --out runs/t --debug[/cyan].",
        ),
    ] = False,
) -> None:
    """What holds for every command; main() handles --debug."""
    name, (_, world) = context.invoked_subcommand, rank_and_world()
    if world > 1 and name not in TOGETHER:
        raise RankError(
            f"'frugalkd {name}' runs in one process, and this launch has {world}: start it without "
            f"torchrun or accelerate launch, which are for {', '.join(TOGETHER)}"
        )


_RUN, _USE = "Run", "Show and use"
for _command in (
    comparing.demo, comparing.estimate, training.teach, training.store, training.distill,
    training.chain, comparing.compare,
):  # fmt: skip
    app.command(rich_help_panel=_RUN)(_command)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_USE)
app.add_typer(ledgers.app, name="ledger", rich_help_panel=_USE)
for _command in (
    results.report, results.plot, results.evaluate, results.predict, recipes.schema,
):  # fmt: skip
    app.command(rich_help_panel=_USE)(_command)
