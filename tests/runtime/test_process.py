"""The allocator's settings, measured in a new process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from frugalkd.runtime import process

MEMORY = """
import resource
import numpy as np
from frugalkd.runtime.process import keep_freed_memory, release_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(1 << 24, dtype=np.float32)  # 64 MiB, more than glibc keeps by default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

class Cycle:
    def __init__(self):
        self.me, self.data = self, np.ones(1 << 25, dtype=np.float32)  # 128 MiB

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

print(faults(), keep_freed_memory(), faults() * 0, faults())
Cycle()
before = memory()
release_freed_memory()
print(before - memory())
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """Without the settings of the tests' own environment."""
    for name in [*os.environ]:
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES":
            monkeypatch.delenv(name)


class FakeLibrary:
    """A glibc that accepts thresholds up to ``largest``, and records them."""

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
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: library)
    assert process.keep_freed_memory() is bool(settings)
    assert library.settings == settings


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_left_alone(name, monkeypatch):
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: pytest.fail("was set"))
    monkeypatch.setenv(name, "1")
    assert process.keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("", ""))
    assert process.keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.heavy
def test_freed_memory_is_kept_until_it_is_released():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_default, set_, _, kept, released = done.stdout.split()
    # With transparent huge pages a fault covers 2 MiB, 32 of them an array; else 16,384.
    assert int(by_default) > 10 * 30
    assert set_ == "True"
    assert int(kept) < 10
    assert int(released) > 100 * 2**20
