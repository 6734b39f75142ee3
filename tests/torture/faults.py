"""A disk that fails on request: replaces ``os`` below frugalkd's file functions."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import frugalkd.files.lock
import frugalkd.files.opening
import frugalkd.files.writing
import frugalkd.teachers.store

MODULES = (
    frugalkd.files.writing,
    frugalkd.files.lock,
    frugalkd.files.opening,
    frugalkd.teachers.store,
)
SECTOR = 512
CALLS = ("open", "pwrite", "fsync", "replace", "posix_fallocate")


@dataclass(frozen=True)
class Kind:
    """How a disk fails: with which error; ``torn``, after half of a write has been done; ``for
    good``, as a full disk does, at each later call too. Without an error it takes half of what it
    is given and says so, which is not a failure."""

    code: int | None
    torn: bool = False
    for_good: bool = False

    def __str__(self) -> str:
        if self.code is None:
            return "short"
        words = [errno.errorcode[self.code]]
        return "-".join(words + ["torn"] * self.torn + ["for-good"] * self.for_good)


KINDS = (
    Kind(errno.ENOSPC, torn=True, for_good=True),
    Kind(errno.ENOSPC),
    Kind(errno.EIO),
    Kind(errno.EIO, torn=True),
)
SHORT = Kind(None)


@dataclass
class Faulty:
    """``os``, but for its ``fail_at``-th call that touches a file, counted from 0.

    Attributes:
        calls: the names of the calls so far.
    """

    kind: Kind
    fail_at: int
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            on_the_way = name == "open" and args[1] & os.O_DIRECTORY  # no disk fails there
            if on_the_way or not self.fails(name):
                return real(*args, **kwargs)
            if name == "pwrite" and (self.kind.torn or self.kind.code is None):
                file, data, offset = args
                if self.kind.torn and offset // SECTOR == (offset + len(data) - 1) // SECTOR:
                    data = b""  # a sector is written whole or not at all
                written = real(file, data[: -(-len(data) // 2)], offset)
                if self.kind.code is None:
                    return written
            if self.kind.code is None:
                return real(*args, **kwargs)
            raise OSError(self.kind.code, os.strerror(self.kind.code))

        return call

    def fails(self, name: str) -> bool:
        """Whether this call, which is counted, is to fail."""
        place = len(self.calls)
        self.calls.append(name)
        return place == self.fail_at or (self.kind.for_good and place > self.fail_at)


@contextmanager
def failing(kind: Kind, fail_at: int) -> Iterator[Faulty]:
    """Our file functions on such a disk."""
    faulty = Faulty(kind, fail_at)
    patches: list[Any] = [patch.object(module, "os", faulty) for module in MODULES]
    for one in patches:
        one.start()
    try:
        yield faulty
    finally:
        for one in patches:
            one.stop()
