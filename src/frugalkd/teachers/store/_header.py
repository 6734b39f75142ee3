"""The header of a store: what its rows are, and whose."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from frugalkd.errors import FrugalKDError, TargetsError, refuse_schema
from frugalkd.files.parsing import one_line, parse_json, read_bounded
from frugalkd.files.writing import write_json
from frugalkd.models.identity import TORCH, differences
from frugalkd.teachers.encodings import Encoding, make_encoding
from frugalkd.teachers.encodings._encoding import Ids

FILE = "header.json"
FORMAT, SCHEMA = "frugalkd-store", 2
BLOCK = 256
"""Rows of one block, the unit of checksums."""
RECORD = 64
"""Bytes that a block takes in the presence file."""

_LARGEST_FILE = 1 << 22
_MOST = {"samples": 1 << 40, "views": 1 << 16, "classes": 1 << 24, "shards": 1 << 16}


@dataclass(frozen=True)
class Header:
    """What a store holds.

    Attributes:
        samples, views: there is a row for each sample in each view.
        classes: of the teacher.
        encoding: how a row is kept.
        about: what the rows belong to: see :func:`frugalkd.teachers.about.describe_asking`.
        shards: parts of the store, each of consecutive samples; one process writes a shard.
    """

    samples: int
    views: int
    classes: int
    encoding: Encoding
    about: dict[str, str]
    shards: int = 1

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise TargetsError(f"{name} of a store: {str(value)[:20]}, give 1 .. {most}")
        if self.shards > self.samples:
            raise TargetsError(f"{self.shards} shards for {self.samples} samples: give fewer")

    @property
    def row_bytes(self) -> int:
        return self.encoding.record(self.classes).itemsize

    def samples_of(self, shard: int) -> tuple[int, int]:
        """The first sample of a shard, and the one after its last."""
        return (
            self.samples * shard // self.shards,
            self.samples * (shard + 1) // self.shards,
        )

    def rows_of(self, shard: int) -> int:
        first, end = self.samples_of(shard)
        return (end - first) * self.views

    def file_bytes(self, shard: int) -> tuple[int, int]:
        """Sizes of a shard's files: its rows, and what says which of them are there."""
        rows = self.rows_of(shard)
        return rows * self.row_bytes, -(-rows // BLOCK) * RECORD

    @property
    def disk_bytes(self) -> int:
        """What the whole store takes on disk, but for this header's few hundred bytes."""
        return sum(sum(self.file_bytes(shard)) for shard in range(self.shards))

    def refuse_other(self, wanted: Header, where: Path) -> None:
        """Raises TargetsError, naming what differs, unless this is the ``wanted`` header."""
        ours, theirs = _plain(self), _plain(wanted)
        about, other = ours.pop("about"), theirs.pop("about")
        others = [
            f"{name} ({_short(ours[name])} there, {_short(theirs[name])} here)"
            for name in ours
            if ours[name] != theirs[name]
        ]
        unknown = about.keys() - other.keys() - {TORCH}
        others += sorted({*differences(about, other, str(where)), *unknown})
        if others:
            raise TargetsError(
                f"{where} holds other soft targets, which differ in {' and '.join(others)}: "
                "delete it, or name another folder"
            )


def shard_of(ids: Ids, samples: int, shards: int) -> Ids:
    """The shard that holds each of ``ids``."""
    firsts = samples * np.arange(1, shards) // shards
    return np.searchsorted(firsts, ids, side="right")


def write_header(folder: Path, header: Header) -> None:
    """Write ``header`` atomically; from then on the folder is a store."""
    plain = _plain(header)
    write_json(folder / FILE, {**_named(), **plain, "crc32": _checksum(plain)})


def read_header(folder: Path) -> Header:
    """The header of a store.

    Raises:
        TargetsError: there is none, or it is damaged, or of another version.
    """
    path = folder / FILE
    if folder.is_file():
        raise TargetsError(f"{folder} is a file: a store of soft targets is a folder")
    try:
        content = read_bounded(path, _LARGEST_FILE)
    except ValueError:
        raise TargetsError(f"{path} is damaged: it is too large") from None
    except OSError as error:
        raise TargetsError(
            f"{folder} holds no stored soft targets ({FILE}: {error.strerror}): make them with "
            "'frugalkd store RECIPE --teacher DIR --out DIR'"
        ) from None
    try:
        value = parse_json(content)
        json.dumps(value)
    except (ValueError, RecursionError):
        raise TargetsError(f"{path} is damaged: it is not JSON; delete the folder") from None
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise TargetsError(f"{path} is not the header of stored soft targets")
    again = "delete the folder and fill it anew"
    refuse_schema(value.pop("schema", None), SCHEMA, path, TargetsError, again)
    if value.pop("crc32", None) != _checksum(value):
        raise TargetsError(f"{path} is damaged: its checksum is wrong; delete the folder")
    try:
        encoding = make_encoding(**value.pop("encoding"))
        header = Header(encoding=encoding, **value)
        header.encoding.record(header.classes)
        if not all(isinstance(text, str) for item in header.about.items() for text in item):
            raise TypeError("about")
    except (TypeError, KeyError, AttributeError, FrugalKDError) as error:
        raise TargetsError(f"{path} is damaged: {one_line(error)}") from None
    return header


def _named() -> dict[str, Any]:
    return {"format": FORMAT, "schema": SCHEMA}


def _plain(header: Header) -> dict[str, Any]:
    values = {name: getattr(header, name) for name in (field.name for field in fields(Header))}
    return {**values, "encoding": header.encoding.settings, "about": dict(header.about)}


def _checksum(plain: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return str(value)
