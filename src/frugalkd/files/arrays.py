"""Arrays in safetensors files under a checksum, and columns that are too large for memory.

Ledgers, scores, checkpoints and weights have one format: one entry of the metadata holds a CRC-32
(8 hex digits) of everything in the file, and then the text that describes the arrays.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from frugalkd.errors import FrugalKDError, refuse_schema
from frugalkd.files import StrPath
from frugalkd.files.opening import named, open_new, remove
from frugalkd.files.parsing import LARGEST_JSON, header_bytes, one_line, parse_json
from frugalkd.files.writing import atomic, make_folder, set_aside, write_at, writing

_TYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32",
    "uint32": "U32", "int32": "I32", "bfloat16": "BF16", "float16": "F16", "uint16": "U16",
    "int16": "I16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Of numpy and torch, and of safetensors, in the order of arrays in a file."""

UNREADABLE = (SafetensorError, ValueError, TypeError, AttributeError, OverflowError)
"""How safetensors' reader fails on another file, or on types that numpy does not have."""

MAPPED_FROM = 1 << 32
"""Bytes of all columns from which they are in files: the ledger of 215 million samples."""


def save_arrays(
    path: Path, kind: str, arrays: Mapping[str, NDArray], about: Mapping[str, Any]
) -> None:
    """Write ``arrays``, and ``about`` (JSON values, its ``schema`` among them), atomically.
    ``kind`` is one word, which :func:`load_arrays` requires. Raises WriteFailed."""
    write_arrays(path, f"frugalkd-{kind}", arrays, json.dumps(about, sort_keys=True))


def load_arrays(
    path: Path, kind: str, *, what: str, schema: int, error: type[FrugalKDError], again: str
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The arrays that :func:`save_arrays` wrote, and what it said about them but for the schema.
    Raises error."""
    try:
        arrays, text = read_arrays(path, f"frugalkd-{kind}", "np")
        if text is None:
            raise error(f"{path} is a safetensors file but not a {what}")
        about = dict(parse_json(text))
    except OSError as reason:
        raise error(f"cannot read {path}: {one_line(reason.strerror or reason)}") from None
    except UNREADABLE as reason:
        raise error(f"{path} is not a readable {what}: {one_line(reason)}; {again}") from None
    refuse_schema(about.pop("schema", None), schema, path, error, again)
    return arrays, about


def write_arrays(path: Path, key: str, arrays: Mapping[str, Any], text: str) -> None:
    """Write ``arrays`` (numpy's, or contiguous tensors in main memory), and ``text`` as the entry
    ``key`` of the metadata behind the checksum, atomically. Raises WriteFailed."""
    # One entry: safetensors writes several in an order of its own, other bytes each time.
    entry = {key: _checksum(arrays, text) + text}
    with atomic(path) as file:
        written = 0
        for part in _serialised(arrays, entry):
            write_at(file, part, written)
            written += len(part)


def read_arrays(path: Path, key: str, framework: str) -> tuple[dict[str, Any], str | None]:
    """The arrays of a file (``np``, ``pt``), and the text that :func:`write_arrays` wrote with
    them, None where there is no entry ``key``. Raises OSError, UNREADABLE."""
    if header_bytes(path) > LARGEST_JSON:
        raise ValueError("its header is too large")
    with safe_open(path, framework=framework) as file:
        entry = (file.metadata() or {}).get(key)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if entry is None or entry.startswith("{"):  # of a version that kept no checksum
        return arrays, entry
    if entry[:8] != _checksum(arrays, entry[8:]):
        raise ValueError("its checksum is wrong")
    return arrays, entry[8:]


def _checksum(arrays: Mapping[str, Any], text: str) -> str:
    crc = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {tuple(array.shape)}".encode(), crc)
        crc = zlib.crc32(_content(array), crc)
    return f"{crc:08x}"


def _content(array: Any) -> memoryview:
    """The bytes of an array or a tensor, not copied where they are contiguous."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    import torch

    flat = array.as_strided((array.numel(),), (1,))  # contiguous, whatever a size of 1 says
    return flat.view(torch.uint8).numpy().data


def _serialised(
    arrays: Mapping[str, Any], entry: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """A safetensors file, byte by byte as safetensors itself writes it: its own writer opens a path
    again, and follows links that were put there meanwhile."""
    kinds = {name: str(array.dtype).removeprefix("torch.") for name, array in arrays.items()}
    for name, kind in kinds.items():
        if kind not in _TYPES:
            raise OSError(errno.EINVAL, f"safetensors has no type for {name}, of {kind}")
    order = list(_TYPES)
    names = sorted(arrays, key=lambda name: (order.index(kinds[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(entry)}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        dtype, shape = _TYPES[kinds[name]], tuple(arrays[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    said = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    yield struct.pack("<Q", len(said)) + said
    for name in names:
        if arrays[name].nbytes:
            yield _content(arrays[name])


def filled_columns(
    samples: int, wanted: Mapping[str, tuple[str, float]], folder: StrPath | None
) -> dict[str, NDArray]:
    """Columns (samples,) of the ``wanted`` dtypes and first values, in memory or, where all of them
    are large and there is a ``folder``, mapped from files in it, which have no names and end with
    the process. A full disk is an error here and not a fault later. Raises WriteFailed."""
    size = samples * sum(np.dtype(dtype).itemsize for dtype, _ in wanted.values())
    if folder is None or size < MAPPED_FROM:
        return {name: np.full(samples, fill, dtype) for name, (dtype, fill) in wanted.items()}
    folder = named(folder)
    make_folder(folder)
    columns = {}
    with writing(folder):
        for name, (dtype, fill) in wanted.items():
            path = folder / f".ledger-{secrets.token_hex(4)}"
            with os.fdopen(open_new(path), "r+b") as file:
                remove(path)  # the mapping outlives the name
                set_aside(file.fileno(), samples * np.dtype(dtype).itemsize)
                columns[name] = np.memmap(file, dtype=dtype, mode="r+", shape=(samples,))
            if fill != 0:  # what was set aside is zeros
                columns[name][:] = fill
    return columns
