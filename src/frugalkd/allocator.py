"""glibc's allocator, told to keep the memory of large tensors.

By default glibc takes blocks of more than 32 MiB from the system and gives them back at once, and
it gives back what is free at the top of its heap: each forward pass of a large batch then touches
fresh pages, and the kernel clears every one of them. On the machine of docs/time.md that doubled
the time of a ResNet-20's forward pass of 512 images (see mallopt(3) for the two settings).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 1 << 30


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for the next large tensor; returns whether it does.

    For entry points of a process, not for a library's import: it holds for all that runs in it.
    Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, _KEEP))
    return all([libc.mallopt(what, value) == 1 for what, value in settings])
