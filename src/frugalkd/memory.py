"""Running out of memory, said in one line that names what to lower."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from frugalkd.errors import OutOfMemory

_SIGNS = (
    "out of memory",  # CUDA and MPS, whatever they raise it with
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is Python's, numpy's or torch's way to say that memory ran out."""
    if isinstance(error, MemoryError):  # numpy's is one
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def machine_bytes() -> int:
    """The machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Running out of memory inside becomes OutOfMemory: ``out of memory for WHAT: ADVICE``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory for {what}: {advice}") from error
