"""Arrays in a safetensors file that says what it is, under a checksum."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from frugalkd.errors import FrugalKDError, refuse_schema
from frugalkd.files.atomic import atomic
from frugalkd.files.parsing import header_bytes, one_line, parse_json

_LARGEST_HEADER = 1 << 24
_UNREADABLE = (SafetensorError, ValueError, TypeError, AttributeError, OverflowError)
"""How safetensors' reader fails on a file that is none, or of types that numpy has not."""


def save_arrays(
    path: Path, kind: str, arrays: Mapping[str, NDArray], about: Mapping[str, Any]
) -> None:
    """Write ``arrays``, and ``about`` (JSON values, its ``schema`` among them), atomically.

    ``kind`` is one word, which :func:`load_arrays` asks for. Raises WriteFailed.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # One entry: safetensors writes several in an order of its own, other bytes each time.
    said = json.dumps(about, sort_keys=True)
    entry = {f"frugalkd-{kind}": _checksum(arrays, said) + said}
    with atomic(path) as aside:
        try:
            save_file(arrays, aside, metadata=entry)
        except SafetensorError as error:
            raise _system_error(error) from None


def load_arrays(
    path: Path, kind: str, *, what: str, schema: int, error: type[FrugalKDError], again: str
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The arrays that :func:`save_arrays` wrote, and what it said about them but for the schema.

    Raises:
        error: the file is unreadable or damaged, is not ``what`` (a noun), or of another schema;
            ``again`` says how to make such a file.
    """
    try:
        if header_bytes(path) > _LARGEST_HEADER:
            raise error(f"{path} is not a readable {what}: its header is too large; {again}")
        with safe_open(path, framework="np") as file:
            entry = (file.metadata() or {}).get(f"frugalkd-{kind}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as reason:
        raise error(f"cannot read {path}: {one_line(reason.strerror or reason)}") from None
    except _UNREADABLE as reason:
        raise error(f"{path} is not a readable {what}: {one_line(reason)}; {again}") from None
    if entry is None:
        raise error(f"{path} is a safetensors file but not a {what}")
    if not entry.startswith("{"):  # else of a version that kept no checksum
        checksum, entry = entry[:8], entry[8:]
        if checksum != _checksum(arrays, entry):
            raise error(f"{path} is damaged: its checksum is wrong; {again}")
    try:
        about = dict(parse_json(entry))
    except (TypeError, ValueError):
        raise error(f"{path} is damaged: what it says of itself is unreadable; {again}") from None
    refuse_schema(about.pop("schema", None), schema, path, error, again)
    return arrays, about


def _system_error(error: SafetensorError) -> OSError:
    """What the system said to safetensors, which keeps it as text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    code = int(found[1]) if found else None
    return OSError(code, os.strerror(code) if code else str(error))


def _checksum(arrays: Mapping[str, NDArray], said: str) -> str:
    """CRC-32 (8 hex digits) of all that a file holds."""
    crc = zlib.crc32(said.encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return f"{crc:08x}"
