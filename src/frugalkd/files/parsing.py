"""Reading frugalkd's files, which may be damaged or malicious: what is allocated is bounded by the
file's size, whatever the file declares; and text from elsewhere as printable text."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frugalkd.errors import RunFolderError, refuse_schema

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file."""

_JOINERS = "\u200c\u200d"
_NEGATIVE = re.compile(r"-[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")

_SPARE = 48 << 20
# The most that Python keeps for one of these characters of JSON, in bytes: an object, a list, an
# entry of an object, another item of either, half of a text. A history of 10,000 epochs: 45 MB.
_COST = {b"{": 200, b"[": 100, b":": 60, b",": 50, b'"': 32}


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises OSError, ValueError."""
    with open(path, "rb", opener=_regular) as file:
        # read() allocates as many bytes as it is given, whether they are there or not.
        content = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return content


def _regular(path: str, flags: int) -> int:
    """An opener that refuses a named pipe, which would block, and the like. Raises OSError."""
    file = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def parse_json(content: bytes | str) -> Any:
    """A JSON value, of numbers that are finite. Raises ValueError."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    _refuse_dense(content)
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(
    path: Path, schema: int = 1, again: str = "delete the folder and run it again"
) -> dict[str, Any]:
    """A JSON object from one of frugalkd's files, of ``schema``; ``again``: how to make the
    file. Raises RunFolderError."""
    try:
        value = parse_json(read_bounded(path, LARGEST_JSON))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RunFolderError(
            f"{path} is damaged: it is not JSON ({one_line(error, 100)}); {again}"
        ) from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds no keys and values; {again}")
    refuse_schema(value.get("schema"), schema, path, RunFolderError, again)
    return value


def parse_json_lines(content: bytes) -> Iterator[Any]:
    """The JSON values of a text with one in each line. Raises ValueError as :func:`parse_json`."""
    _refuse_dense(content)
    for line in io.BytesIO(content):
        yield parse_json(line)


def one_line(said: object, most: int = 200) -> str:
    """The text of a library or a file: printable, without line breaks, and not too long."""
    return printable(" ".join(str(said).split())[:most])


def printable(said: object, instead: str = "?") -> str:
    """Text from elsewhere on one line: white space is spaces, and characters that are invisible,
    control a terminal or change the reading direction are ``instead``. Joiners of emoji stay."""
    return _replaced(said, lambda sign: " " if sign.isspace() else instead)


def cell(said: object) -> str:
    """Text from elsewhere as a cell of a CSV file. Invisible characters are escaped as in Python;
    an apostrophe keeps a spreadsheet from running a cell that begins like a formula, and is no
    negative number."""
    text = _replaced(said, lambda sign: sign.encode("unicode_escape").decode())
    formula = text.startswith(("=", "+", "-", "@")) and not _NEGATIVE.fullmatch(text)
    return f"'{text}" if formula else text


def _replaced(said: object, by: Callable[[str], str]) -> str:
    text = str(said)
    if text.isprintable():
        return text
    return "".join(s if s.isprintable() or s in _JOINERS else by(s) for s in text)


def most_unpacked(size: int) -> int:
    """Bytes that a compressed file of ``size`` bytes may hold: 16 MiB, or 64 times its size."""
    return max(1 << 24, 64 * size)


def header_bytes(path: Path) -> int:
    """The declared length of a safetensors file's header, which may be wrong. Raises OSError."""
    with open(path, "rb", opener=_regular) as file:
        first = file.read(8)
    return struct.unpack("<Q", first)[0] if len(first) == 8 else 0


def _refuse_dense(content: bytes) -> None:
    cost = sum(content.count(sign) * size for sign, size in _COST.items())
    if cost > len(content) + _SPARE:
        raise ValueError("it holds too many values")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a JSON number, or is too large")
    return value
