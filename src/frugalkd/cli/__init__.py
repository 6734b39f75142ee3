"""The command line: ``frugalkd``, or ``python -m frugalkd``. No torch until a command needs it."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import pairwise
from typing import Any, NoReturn

import typer

import frugalkd
from frugalkd.cli import ledgers, recipes, results, training
from frugalkd.cli.options import option
from frugalkd.cli.running import Interrupted
from frugalkd.distributed.launch import quiet_unless_first
from frugalkd.errors import FrugalKDError, FrugalKDWarning, OtherRankFailed, RankError
from frugalkd.files.parsing import printable
from frugalkd.files.writing import DISK, advice_for
from frugalkd.runtime.failures import is_out_of_memory, is_parting
from frugalkd.runtime.logs import logged
from frugalkd.runtime.process import keep_freed_memory, rank_and_world

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
    version: bool = option("--version", "Print the version.", callback=_version, is_eager=True),
    debug: bool = option("--debug", "Show the traceback of an error; valid anywhere."),
) -> None:
    # main() handles --debug.
    name, (_, world) = context.invoked_subcommand, rank_and_world()
    if world > 1 and name not in TOGETHER:
        raise RankError(
            f"'frugalkd {name}' runs in one process, and this launch has {world}: start it without "
            f"torchrun or accelerate launch, which are for {', '.join(TOGETHER)}"
        )


_RUN, _USE = "Run", "Show and use"
for _command in (
    training.demo, training.estimate, training.teach, training.store, training.distill,
    training.chain, training.compare,
):  # fmt: skip
    app.command(rich_help_panel=_RUN)(_command)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_USE)
app.add_typer(ledgers.app, name="ledger", rich_help_panel=_USE)
for _command in (
    results.report, results.plot, results.evaluate, results.predict, results.export, results.push,
    recipes.schema,
):  # fmt: skip
    app.command(rich_help_panel=_USE)(_command)

# Click's ClickException. Typer ships its own copy of click in new versions and the real one in
# old ones; this is the one that the installed typer raises.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]  # pyright: ignore

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

_command_of = cache(typer.main.get_command)


def main(
    argv: Sequence[str] | None = None, *, app: typer.Typer = app, name: str = "frugalkd"
) -> int:
    """Run the command line ``app`` on ``argv`` (default: the process's); returns the exit code.

    An expected failure is one line on stderr and 2; Ctrl-C is 130; ``--debug`` anywhere shows the
    traceback instead of the line. A warning of frugalkd is one line on stderr.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    keep_freed_memory()
    if arguments[:1] in (["evaluate"], ["export"]):
        arguments = results.with_own_data(arguments)
    command = _command_of(app)
    try:
        with quiet_unless_first(), logged(), warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            code = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Interrupted as error:
        return _fail(str(error), error.code, once=True)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", EXIT_INTERRUPTED, once=True)
    except OtherRankFailed:
        return EXIT_ERROR  # the rank that failed first prints the reason
    except BrokenPipeError:
        # The reader (head, less) has gone; closing stdout again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _CommandLineError as error:
        line = _usage(error, arguments)
        return _fail(line, EXIT_ERROR) if line else EXIT_ERROR
    except (FrugalKDError, OSError, MemoryError, RuntimeError) as error:
        reason = _reason(error)
        if debug or reason is None:
            raise
        return _fail(f"error: {reason}", EXIT_ERROR)


def run() -> NoReturn:
    """The process of ``frugalkd``: :func:`main`, whose exit code is always the process's. A signal
    while a stopped run ends, such as a second Ctrl-C, changes nothing."""
    code = EXIT_INTERRUPTED
    with suppress(KeyboardInterrupt):  # the second one, while the first one's line was made
        try:
            code = main()
        finally:
            _ignore_signals()
    _ignore_signals()
    if code == 0 and rank_and_world()[1] > 1:
        # A thread of gloo may still let go of the tensors of the last exchange. It needs the
        # interpreter for that, which aborts the process where it is ending (torch 2.13).
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    sys.exit(code)


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _fail(line: str, code: int, *, once: bool = False) -> int:
    """Print a line on stderr: of each rank, with its number, or with ``once`` of the first."""
    rank, _ = rank_and_world()
    if rank == 0 or not once:
        line = printable(" ".join(line.split()))
        print(f"rank {rank}: {line}" if rank else line, file=sys.stderr)
    return code


def _reason(error: Exception) -> str | None:
    """What went wrong, in a line; None where only a traceback helps."""
    if isinstance(error, FrugalKDError):
        return str(error) or type(error).__name__
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        advice = f"; {advice_for(error)}" if error.errno in DISK else ""
        return f"{where}{error.strerror or error}{advice}"
    if is_parting(error):
        return "another rank ended, and prints the reason: start all of them again, with --resume"
    if is_out_of_memory(error):
        return "out of memory: give the machine less to do at once, or lower the batch sizes"
    return None


def _show_warning(
    other: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any
) -> None:
    """A warning of frugalkd is a line on stderr; ``other`` shows all others."""
    if issubclass(category, FrugalKDWarning):
        _fail(f"warning: {message}", 0)
    else:
        other(message, category, *rest)


def _usage(error: Exception, arguments: Sequence[str]) -> str:
    """A mistake in the command line itself; empty where the help was printed already."""
    context = getattr(error, "ctx", None)
    message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    message = message.rstrip(".").partition(", unable to parse")[0]
    message = message.replace("Input should be", "it should be").replace("Value error, ", "")
    of = re.match(r"Invalid value for '(--\S+)': it should be a valid (number|integer)", message)
    if of is not None:
        given = dict(pairwise(arguments)).get(of[1])
        message += "" if given is None else f", not {given!r}"
    if not message:  # of a group without a command
        return ""
    if message.startswith("Got unexpected extra argument"):
        message += (
            ": quote values that contain spaces; separate list items by commas without spaces"
        )
    if "--data" in arguments and message.startswith("Missing argument"):
        message += ": if --data took it for its value, write --data own"
    path = context.command_path if context is not None else "frugalkd"
    return f"error: {message[:1].lower()}{message[1:]} (see '{path} --help')"
