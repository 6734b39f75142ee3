"""The header of a folder of binary files: JSON that says what they hold, under a checksum. A folder
counts only once its header is there."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frugalkd.errors import FrugalKDError, RunFolderError
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import write_json


def write_header(path: Path, form: str, schema: int, plain: Mapping[str, Any]) -> None:
    """Write ``plain``, JSON values, as a header of this ``form`` and ``schema``, atomically. Raises
    WriteFailed."""
    write_json(path, {"format": form, "schema": schema, **plain, "crc32": _checksum(plain)})


def read_header(
    path: Path, form: str, schema: int, *, what: str, error: type[FrugalKDError], again: str
) -> dict[str, Any]:
    """What :func:`write_header` wrote. ``what`` it is the header of, and how to make it ``again``,
    in messages. Raises error."""
    try:
        value = read_json(path, schema, again)
    except RunFolderError as reason:
        raise error(str(reason)) from None
    del value["schema"]
    if value.pop("format", None) != form:
        raise error(f"{path} is not the header of {what}")
    if value.pop("crc32", None) != _checksum(value):
        raise error(f"{path} is damaged: its checksum is wrong; {again}")
    return value


def _checksum(plain: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())
