"""What data hold, for a digest: every byte up to 1 GiB, evenly spaced parts of what is larger."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from frugalkd.errors import DataError
from frugalkd.files.parsing import one_line

WHOLE = 1 << 30
"""Bytes of a data set that are all read for its digest; of a larger one, about as many are."""

_BLOCK, _AT_ONCE = 1 << 16, 1 << 20
_COARSE = 2_000_000_000
"""Nanoseconds within which a file system's clock may miss a second change of a file."""

_known: dict[bytes, str] = {}
"""Digests of files, in this process, by what ``stat`` says of them."""


def share(total: int, count: int) -> int:
    """Bytes to read of each of ``count`` pieces of ``total`` bytes together."""
    return WHOLE if total <= WHOLE else WHOLE // count


def spans(size: int, most: int, block: int = _BLOCK) -> list[tuple[int, int]]:
    """``(start, length)`` of the parts to read of ``size`` where ``most`` may be: all of it, or
    evenly spaced blocks, the first and the last included."""
    if size <= most:
        return [(0, size)]
    count = max(2, most // block)
    length = max(1, min(block, most // count))
    return [(int(start), length) for start in np.linspace(0, size - length, count)]


def feed(digest: Any, piece: bytes | memoryview, most: int) -> None:
    """Adds the length of a piece, and of its bytes up to ``most``, to ``digest``."""
    digest.update(b"%d:" % len(piece))
    for start, length in spans(len(piece), most):
        digest.update(memoryview(piece)[start : start + length])


def files_digest(folder: str, names: Sequence[str]) -> str:
    """SHA-256 (hex) of files in ``folder``: their names, sizes and bytes, in order. Of more than
    1 GiB together, each file has the same share of that.

    A process reads files again only where one's size, times or inode changed.

    Raises:
        DataError: a file cannot be read, or changes meanwhile.
    """
    about, changed, begun = [], 0, time.time_ns()
    for name in names:
        try:
            found = os.stat(os.path.join(folder, name))
        except OSError as error:
            raise _unreadable(folder, name, error) from None
        changed = max(changed, found.st_mtime_ns, found.st_ctime_ns)
        about.append((name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    key = hashlib.sha256(repr((os.path.abspath(folder), about)).encode()).digest()
    if key not in _known:
        digest, most = hashlib.sha256(), share(sum(size for _, size, *_ in about), len(about))
        for name, size, *_ in about:
            digest.update(repr((name, size)).encode())
            feed_file(digest, folder, name, size, most)
        if changed > begun - _COARSE:
            return digest.hexdigest()
        _known[key] = digest.hexdigest()
    return _known[key]


def feed_file(digest: Any, folder: str, name: str, size: int, most: int) -> None:
    """Adds the bytes of a file of ``size`` bytes, up to ``most``, to ``digest``. Raises DataError
    where it cannot be read, or has another size."""
    try:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size:
                raise OSError(0, "it changes while it is read")
            for start, length in spans(size, most):
                file.seek(start)
                while length:
                    found = file.read(min(length, _AT_ONCE))
                    if not found:
                        raise OSError(0, "it changes while it is read")
                    digest.update(found)
                    length -= len(found)
    except OSError as error:
        raise _unreadable(folder, name, error) from None


def _unreadable(folder: str, name: str, error: OSError) -> DataError:
    path = one_line(os.path.join(folder, name), 1000)
    return DataError(f"{path} cannot be read: {error.strerror}")


def leaves(value: Any) -> Iterator[bytes | memoryview]:
    """The bytes of a sample, part by part, each with its type and size, so that no two parts run
    together. What is neither a number, text, an array nor made of those counts by its text."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        yield from leaves_of_array(value)
    elif isinstance(value, Mapping):
        yield f"<{kind} {len(value)}>".encode()
        for key in value:
            yield from leaves(key)
            yield from leaves(value[key])
    elif isinstance(value, list | tuple):
        yield f"<{kind} {len(value)}>".encode()
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str | bytes):
        said = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        yield f"<{kind} {len(said)}>".encode() + said
    elif value is None or isinstance(value, bool | int | float):
        yield f"<{kind}>{value!r}".encode()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"<{kind}>".encode()
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    else:
        array = np.asarray(value)  # images offer themselves as one
        if not array.dtype.hasobject:
            yield from leaves_of_array(array)
        elif array.ndim:
            yield f"<{kind}>".encode()
            yield from leaves(array.tolist())
        else:
            said = sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)
            yield f"<{kind}>{re.sub(r' at 0x[0-9a-f]+', '', str(said))}".encode()


def leaves_of_array(value: torch.Tensor | np.ndarray) -> Iterator[bytes | memoryview]:
    """The type and shape of a tensor or an array, and its bytes."""
    yield f"<{type(value).__name__} {value.dtype} {tuple(value.shape)}>".encode()
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().to_dense().resolve_conj()
        value = plain.reshape(-1).contiguous().view(torch.uint8).numpy()
    yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
