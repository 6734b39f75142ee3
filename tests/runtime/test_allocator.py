"""The allocator's settings, in a process of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from frugalkd.runtime import allocator

FAULTS = """
import resource, sys
import torch
from frugalkd.runtime.allocator import keep_freed_memory
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


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """No settings of the environment's own."""
    for name in [*os.environ]:
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES":
            monkeypatch.delenv(name)


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


class FakeLibrary:
    """A glibc that accepts thresholds up to ``largest``, and remembers."""

    def __init__(self, largest):
        self.largest, self.settings = largest, {}

    def mallopt(self, what, value):
        if what == -3 and value > self.largest:
            return 0
        self.settings[what] = value
        return 1


@pytest.mark.parametrize(
    ("largest", "settings"),
    [(1 << 31, {-3: 1 << 30, -1: 2**31 - 1}), (1 << 25, {-3: 1 << 25, -1: 2**31 - 1}), (0, {})],
)
def test_trimming_is_set_only_beside_a_threshold(largest, settings, monkeypatch):
    library = FakeLibrary(largest)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    assert allocator.keep_freed_memory() is bool(settings)
    assert library.settings == settings


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_left_alone(name, monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("was set"))
    monkeypatch.setenv(name, "1")
    assert allocator.keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_cleared_again():
    # With transparent huge pages a fault covers 2 MiB, 32 of them a tensor; else 16,384.
    assert faults("leave") > 10 * 30
    assert faults("keep") < 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False


RELEASED = """
from frugalkd.runtime.allocator import keep_freed_memory, release_freed_memory
import torch

class Circle:
    def __init__(self):
        self.me, self.data = self, torch.ones(1 << 25)  # 128 MiB

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
Circle()
before = memory()
release_freed_memory()
print(before - memory())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_a_run_leaves_in_a_circle_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", RELEASED], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 100 * 2**20
