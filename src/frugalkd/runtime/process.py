"""This process: its memory, and what a launcher (torchrun, accelerate launch, mpirun) says of it.

By default glibc returns freed blocks of more than 32 MiB, and the top of its heap, to the system.
The kernel then clears every page of the next large batch, which doubled the time of a ResNet-20's
forward pass of 512 images on the machine of BENCHMARKS.md (mallopt(3) has the two settings).
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP = 2**31 - 1
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # what a recent glibc accepts, and what an older one does

_RANKS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate launch
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)


def rank_and_world() -> tuple[int, int]:
    """Which process this is, from 0, and of how many, as the launcher says: (0, 1) without one."""
    for names in _RANKS:
        rank, world = (os.environ.get(name, "") for name in names)
        if rank.isdecimal() and world.isdecimal():
            return int(rank), int(world)
    return 0, 1


def machine_bytes() -> int:
    """The machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for the next large tensor; returns whether it does: not
    without glibc, or where the environment configures the allocator. For entry points."""
    configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if configured or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Either setting stops glibc from adapting the other one, so trimming is left alone unless the
    # first was accepted.
    accepted = any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _MMAP_THRESHOLDS)
    return accepted and mallopt(_M_TRIM_THRESHOLD, _KEEP) == 1


def release_freed_memory() -> None:
    """Return to the system, between two runs of one process, what the last one leaves: models and
    data sets are reference cycles, which Python does not collect at once."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
