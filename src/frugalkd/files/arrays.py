"""Arrays in a safetensors file that says what it is, under a checksum."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from frugalkd.errors import FrugalKDError, refuse_schema
from frugalkd.files.atomic import atomic, write_at
from frugalkd.files.parsing import header_bytes, one_line, parse_json

_LARGEST_HEADER = 1 << 24
_TYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32",
    "uint32": "U32", "int32": "I32", "float16": "F16", "uint16": "U16", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Of numpy and of safetensors, in whose order arrays lie in a file."""
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
    with atomic(path) as file:
        written = 0
        for part in _serialised(arrays, entry):
            write_at(file, part, written)
            written += len(part)


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


def _serialised(
    arrays: Mapping[str, NDArray], entry: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """A safetensors file, byte by byte as safetensors itself writes it: its own writer opens a path
    again, through links that were put there meanwhile. Nothing is copied."""
    for name, array in arrays.items():
        if array.dtype.name not in _TYPES:
            raise OSError(errno.EINVAL, f"safetensors has no type for {name}, of {array.dtype}")
    order = list(_TYPES)
    names = sorted(arrays, key=lambda name: (order.index(arrays[name].dtype.name), name))
    header: dict[str, Any] = {"__metadata__": dict(entry)}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _TYPES[arrays[name].dtype.name],
            "shape": arrays[name].shape,
            "data_offsets": (start, end),
        }
    said = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    yield struct.pack("<Q", len(said)) + said
    for name in names:
        if arrays[name].size:
            yield arrays[name].reshape(-1).view(np.uint8).data


def _checksum(arrays: Mapping[str, NDArray], said: str) -> str:
    """CRC-32 (8 hex digits) of all that a file holds."""
    crc = zlib.crc32(said.encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return f"{crc:08x}"
