"""The fenced blocks of README.md and docs/, and a shell in which their commands are functions."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

Answer = tuple[int, str, str]
"""An exit code, stdout, stderr."""
Command = Callable[[list[str], str], Answer]
"""Of the words behind the command's name, and of stdin."""


class Block(NamedTuple):
    """A fenced block; ``where`` is its page and line."""

    where: str
    language: str
    text: str

    @property
    def script(self) -> str:
        """Of a shell block: what is typed, without the prompts of a console."""
        return re.sub(r"(?m)^\$ ", "", self.text)


def blocks_of(text: str, name: str) -> list[Block]:
    """All blocks, in order. Raises ValueError for a fence that opens none."""
    found = re.finditer(r"(?ms)^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2 *$", text)
    blocks = [
        Block(f"{name}:{text[: one.start()].count(chr(10)) + 1}", one[3].strip(), one[4])
        for one in found
    ]
    fences = len(re.findall(r"(?m)^ *(?:`{3,}|~{3,})", text))
    if fences != 2 * len(blocks):
        raise ValueError(f"{name}: {fences} fences, {len(blocks)} blocks")
    return blocks


_SHIM = """#!{python} -SE
import json, os, socket, sys
stdin = sys.stdin.read() if {reads} else ""
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    server.sendall(json.dumps([words, stdin, os.getcwd()]).encode() + b"\\n")
    code, out, err = json.loads(server.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
_SBATCH = """#!/bin/bash
[[ $# == 3 && $1 == --array=1-[0-9]* && $2 == --wrap ]] || exit 2
SLURM_ARRAY_TASK_ID=1 exec bash -euo pipefail -c "$3"
"""


def run_bash(script: str, folder: Path, commands: Mapping[str, Command], reads: str = "jq") -> str:
    """What bash prints while it runs ``script`` in ``folder``, where each of ``commands`` is a
    function of this process, which the second of a pipe (one of ``reads``) gets stdin for. A
    command that is neither of these nor the system's is not found.

    Raises AssertionError where a command of it fails.
    """
    with TemporaryDirectory(prefix="fk") as place, socket.socket(socket.AF_UNIX) as server:
        address = f"{place}/socket"
        for name in commands:
            shim = _SHIM.format(python=sys.executable, address=address, reads=name in reads.split())
            _script(Path(place, name), shim)
        _script(Path(place, "sbatch"), _SBATCH)
        server.bind(address)
        server.listen()
        server.settimeout(0.02)
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={"PATH": f"{place}:/usr/local/bin:/usr/bin:/bin", "HOME": place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as bash:
            while bash.poll() is None:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(None)
                    [name, *words], stdin, cwd = json.loads(connection.makefile().readline())
                    assert Path(cwd) == Path(os.getcwd()).resolve(), "commands share the folder"
                    connection.sendall(json.dumps(_answer(commands[name], words, stdin)).encode())
            assert bash.stdout is not None
            said = bash.stdout.read()
        assert bash.returncode == 0, said
        return said


def _answer(command: Command, words: list[str], stdin: str) -> Answer:
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # a parser of arguments exits
            return command(words, stdin)
    except SystemExit as error:
        return int(error.code or 0) or 2, "", said.getvalue()
    except Exception as error:
        return 1, "", f"{type(error).__name__}: {error}"


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
