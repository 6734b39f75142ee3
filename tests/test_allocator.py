"""The allocator's settings, in a process of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from frugalkd import allocator

FAULTS = """
import resource, sys
import torch
from frugalkd.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    for _ in range(10):
        torch.ones(1 << 24)  # 64 MiB, more than glibc keeps by itself
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_cleared_again():
    # With transparent huge pages a fault covers 2 MiB, 32 of them a tensor; else 16,384.
    assert faults("leave") > 10 * 30
    assert faults("keep") < 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
