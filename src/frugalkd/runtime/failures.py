"""Failures of the user's code, and of the machine, as errors that say where in one line.

A seam where the user's code is called catches what it raises, and calls :func:`blame`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from frugalkd.errors import DataError, FrugalKDError, OutOfMemory
from frugalkd.files.parsing import one_line
from frugalkd.runtime.process import rank_and_world

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA and MPS, whatever the type of the error
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_PARTING = ("connection closed by peer", "connection reset by peer", "broken pipe", "read error")
"""What gloo says where the other end of a connection is gone."""

_WORKER = "DataLoader worker (pid"
"""How torch's message begins when a worker has died; a signal's handler raises it, on any line."""


def blame(error: Exception, kind: type[FrugalKDError], where: str) -> NoReturn:
    """Raise ``kind``, ``WHERE (TYPE: REASON)`` in one line, from ``error``; ``error`` itself where
    it is a FrugalKDError, memory ran out, or another rank is gone."""
    refuse_worker_gone(error)
    if isinstance(error, FrugalKDError) or is_out_of_memory(error) or is_parting(error):
        raise error
    raise kind(f"{where} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """The type of an error and its message, in one line."""
    said = text_of(error)
    return one_line(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def text_of(error: BaseException) -> str:
    """``str(error)``, or nothing where the user's own class fails at that."""
    try:
        return str(error)
    except Exception:
        return ""


def refuse_worker_gone(error: BaseException, where: str = "") -> None:
    """Raises DataError where ``error`` says that a DataLoader's worker process has died."""
    if isinstance(error, RuntimeError) and text_of(error).startswith(_WORKER):
        said = one_line(text_of(error).partition(". ")[0])
        raise DataError(
            f"a worker process died{where} ({said}): set num_workers to 0 for its own error, or "
            "lower it where the machine is short of memory"
        ) from error


def is_parting(error: BaseException) -> bool:
    """Whether ``error`` is what torch raises when another rank is gone."""
    if not isinstance(error, RuntimeError) or rank_and_world()[1] == 1:
        return False
    return any(sign in text_of(error).lower() for sign in _PARTING)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says, in Python, numpy or torch, that memory ran out."""
    if isinstance(error, MemoryError):  # numpy's is one
        return True
    return isinstance(error, RuntimeError) and any(s in text_of(error) for s in _OUT_OF_MEMORY)


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Running out of memory inside becomes OutOfMemory, the death of a worker DataError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        refuse_worker_gone(error)
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory for {what}: {advice}") from error
