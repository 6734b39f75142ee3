"""Ctrl-C during a run: one line that says how to go on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Interrupted(Exception):
    """The user stopped a run. ``str(error)`` is one line: what is kept, how to go on."""


@contextmanager
def resumable(out: Path, *, runs: bool = False) -> Iterator[None]:
    """Turn Ctrl-C inside into Interrupted, which names the command that goes on.

    Args:
        out: the run folder, or with ``runs`` the folder of many: then the same command goes on.
    """
    try:
        yield
    except KeyboardInterrupt:
        if runs:
            again = shlex.join(["frugalkd", *sys.argv[1:]])
            raise Interrupted(f"stopped; finished runs are kept; go on with: {again}") from None
        kept = sorted(out.glob("checkpoints/epoch-*.safetensors"))
        if not kept:
            raise Interrupted("stopped before the first epoch's end: nothing is kept") from None
        # Checkpoints carry the number of the epoch that they finished, from 0.
        epochs = int(kept[-1].stem.partition("-")[2]) + 1
        what = f"{epochs} finished epoch{'s' if epochs > 1 else ''} kept"
        raise Interrupted(f"stopped; {what}; go on with: {resume_command()}") from None


def resume_command() -> str:
    """The command of this process, with ``--resume``."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["frugalkd", *arguments, "--resume"])
