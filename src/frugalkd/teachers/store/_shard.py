"""One shard: a file of rows, and a file that says which of them are there and what they sum to."""

from __future__ import annotations

import mmap
import os
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.files.lock import flock
from frugalkd.files.opening import open_file
from frugalkd.files.writing import allocate, write_at
from frugalkd.teachers.store._header import BLOCK, RECORD, Header

Rows = NDArray[np.int64]
Bytes = NDArray[np.uint8]

# A block's record: a bit for each of its rows, and the CRC-32 of these bits and of the rows that
# are there. It lies within one sector, so that it is written whole or not at all.
_RECORD = np.dtype(
    [("bitmap", "u1", (BLOCK // 8,)), ("crc32", "<u4"), ("reserved", f"V{RECORD - BLOCK // 8 - 4}")]
)

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
"""How many bits of a byte are set."""


def shard_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    return folder / f"rows-{shard:05d}.bin", folder / f"presence-{shard:05d}.bin"


def allocate_shard(folder: Path, shard: int, header: Header) -> None:
    """Set the space of a shard's files aside. Raises OSError, and then leaves no file."""
    for path, size in zip(shard_paths(folder, shard), header.file_bytes(shard), strict=True):
        allocate(path, size)


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A file's content, of a descriptor of its own: a mapping keeps one, and a lock with it."""
    with os.fdopen(open_file(path), "rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


class Shard:
    """Rows ``0 .. rows - 1`` of one shard, as bytes, read through a read-only mapping.

    A block's checksum is compared when a row of it is first read. What is written is read back at
    once by this process, but on disk it counts as there only after :meth:`sync`, which syncs the
    rows before the bits that speak of them.

    Args:
        folder, shard, header: which one.
        write: also write; a second process that wants to is refused, or waits if ``wait``.

    Raises:
        TargetsError: a file is missing or of the wrong size, or another process writes it.
        PathRefused: a file is a link, lies behind one, or is to be written and has a second name.
    """

    def __init__(
        self, folder: Path, shard: int, header: Header, *, write: bool = False, wait: bool = False
    ):
        self.path, self.state_path = shard_paths(folder, shard)
        self._files: list[int] = []
        sizes = header.file_bytes(shard)
        try:
            self._open(sizes, write, wait)
            rows = _mapped(self.path, sizes[0])
            # Read after the lock: what another process has written until now is known.
            with open(self._files[1], "rb", closefd=False) as state:
                self._state = np.fromfile(state, _RECORD)
        except BaseException:
            self.close()
            raise
        if not write:
            self.close()
        self._rows: Bytes = np.frombuffer(rows, np.uint8).reshape(-1, header.row_bytes)
        if len(self._state) * RECORD != sizes[1]:
            raise TargetsError(f"{self.state_path} has changed its size while it was read")
        self._forget_half_written()
        self._bits: Bytes = self._state["bitmap"].reshape(-1).copy()
        self._checked = np.zeros(len(self._state), dtype=bool)
        self._dirty = np.zeros(len(self._state), dtype=bool)
        self._lost = False  # a sync has failed
        self.pending = 0
        """Rows written since the last sync."""

    def _open(self, sizes: tuple[int, int], write: bool, wait: bool) -> None:
        """Open both files; to write, alone."""
        for path, size in zip((self.path, self.state_path), sizes, strict=True):
            found = None
            with suppress(FileNotFoundError):
                self._files.append(open_file(path, write=write))
                found = os.fstat(self._files[-1]).st_size
            if found != size:
                what = "is missing" if found is None else f"is damaged: {found} bytes, not {size}"
                raise TargetsError(f"{path} {what}; delete {path.parent} and fill it anew")
        if write:
            try:
                flock(self._files[0], self.path.parent, wait=wait)
            except BlockingIOError:
                raise TargetsError(
                    f"another process is filling {self.path}: wait for it, or name another folder"
                ) from None

    def _forget_half_written(self) -> None:
        """A record of which bits or checksum alone are there was torn when it was first written: no
        row of it counts as there, so that all are asked for again."""
        said = self._state["bitmap"].any(axis=1)
        torn = said != (self._state["crc32"] != 0)
        if torn.any():
            self._state[torn] = np.zeros((), _RECORD)
            self._warn(np.flatnonzero(torn)[0], "its rows count as missing")

    def _warn(self, block: int, what: str) -> None:
        warnings.warn(
            f"{self.state_path} was torn at rows {self._span(block)}: {what}",
            FrugalKDWarning,
            stacklevel=4,
        )

    @property
    def writable(self) -> bool:
        return bool(self._files)

    def present(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of ``rows`` are there."""
        return (self._bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1

    def count(self) -> int:
        """How many rows are there."""
        return int(_ONES[self._bits].sum(dtype=np.int64))

    def read(self, rows: Rows) -> Bytes:
        """The bytes (rows, row_bytes) of ``rows``, which must be there.

        Raises:
            TargetsError: a checksum is wrong.
        """
        self._check(rows)
        if not self.present(rows).all():  # by a torn record alone
            raise TargetsError(f"{self.path} lacks rows: run the same command again")
        return self._rows[rows]

    def write(self, rows: Rows, content: Bytes) -> None:
        """Write ``content`` (rows, row_bytes) as ``rows``, none of which is there yet. Raises
        OSError."""
        self._check(rows)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        content, width = np.ascontiguousarray(content), content.shape[1]
        for start, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            write_at(self._files[0], content[start:end].data, int(rows[start]) * width)
        np.bitwise_or.at(self._bits, rows >> 3, np.uint8(1) << (rows & 7).astype(np.uint8))
        self._dirty[rows // BLOCK] = True
        self.pending += len(rows)

    def sync(self) -> None:
        """Make what was written durable: the rows, then the bits and checksums. Raises OSError;
        then nothing that was written since the last sync counts as there, whatever comes later: a
        second fsync would not speak of what the first one lost."""
        dirty = np.flatnonzero(self._dirty).tolist()
        if not dirty or self._lost:
            return
        self._lost = True
        os.fsync(self._files[0])
        bitmaps = self._bits.reshape(-1, BLOCK // 8)
        for block in dirty:
            self._state[block]["bitmap"] = bitmaps[block]
            self._state[block]["crc32"] = self._checksum(block, bitmaps[block])
            write_at(self._files[1], self._state[block].tobytes(), block * RECORD)
        os.fsync(self._files[1])
        self._lost = False
        self._dirty[:] = False
        self.pending = 0

    def close(self) -> None:
        """Let go of the files and of the lock, without a sync; reading goes on."""
        for file in self._files:
            os.close(file)
        self._files = []

    def _check(self, rows: Rows) -> None:
        """Compare the checksums of the blocks of ``rows`` that were not compared before."""
        blocks = rows // BLOCK
        for block in np.unique(blocks[~self._checked[blocks]]).tolist():
            record = self._state[block]
            # An empty block's record is all zeros, as the file was made.
            written = record["bitmap"].any() or record["crc32"]
            if written and record["crc32"] != self._checksum(block, self._bits_of(block)):
                self._mend(block)
            self._checked[block] = True

    def _mend(self, block: int) -> None:
        """Rows are mostly written in ascending order, and so a record that was torn between two
        writes has bits too few at its end, or too many. Where the checksum says which, they are
        put right; who cannot write, so that others learn of it, takes none away.

        Raises:
            TargetsError: it says of none that they are.
        """
        there = np.unpackbits(self._bits_of(block), bitorder="little")
        for end in range(min(BLOCK, len(self._rows) - block * BLOCK) + 1):
            before = np.arange(BLOCK) < end
            for guess in (there | before, there & before)[: 1 + self.writable]:
                bits = np.packbits(guess, bitorder="little")
                if self._checksum(block, bits) == self._state[block]["crc32"]:
                    self._bits_of(block)[:] = bits
                    self._dirty[block] = self.writable
                    self._warn(block, "its checksum says which of them are there")
                    return
        raise TargetsError(
            f"{self.path} is damaged: the checksum of rows {self._span(block)} is wrong; delete "
            f"{self.path.parent} and fill it anew"
        )

    def _span(self, block: int) -> str:
        return f"{block * BLOCK} .. {min((block + 1) * BLOCK, len(self._rows)) - 1}"

    def _bits_of(self, block: int) -> Bytes:
        """A view of the bits in memory."""
        return self._bits[block * BLOCK // 8 : (block + 1) * BLOCK // 8]

    def _checksum(self, block: int, bits: Bytes) -> int:
        """Of ``bits`` and of the rows that they say are there."""
        there = np.unpackbits(bits, bitorder="little").astype(bool)
        rows = self._rows[block * BLOCK : (block + 1) * BLOCK]
        if not there[: len(rows)].all():
            rows = rows[there[: len(rows)]]
        return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(bits.data))
