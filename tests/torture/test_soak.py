"""The soak sees what leaks, and the runs of the digits do not."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from soak import held, leaks, soak

SCRIPT = Path(__file__).with_name("soak.py")

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")


def after(tmp_path, work):
    return leaks(soak(12, work, tmp_path, lambda run, now: None), warm_up=2)


@pytest.mark.heavy
def test_what_lets_go_of_all_it_takes_does_not_leak(tmp_path):
    def work(run):
        with tempfile.TemporaryDirectory(dir=tmp_path), open(os.devnull):
            bytearray(1 << 22)

    assert after(tmp_path, work) == []


@pytest.mark.heavy
def test_memory_that_is_kept_is_seen(tmp_path):
    kept = []

    def work(run):
        # Pages of its own: the heap may have room left that other tests made.
        pages = mmap.mmap(-1, 1 << 20)
        pages.write(os.urandom(1 << 20))
        kept.append(pages)

    (said,) = after(tmp_path, work)
    for pages in kept:
        pages.close()
    assert "memory grows by 1,0" in said


@pytest.mark.heavy
def test_an_open_file_a_temporary_one_and_a_thread_are_seen(tmp_path):
    files, stop = [], threading.Event()

    def work(run):
        files.append(open(tmp_path / str(run), "w"))  # noqa: SIM115
        threading.Thread(target=stop.wait).start()

    said = " ".join(after(tmp_path, work))
    stop.set()
    for file in files:
        file.close()
    for what in ("python_threads", "threads", "open_files", "temporary"):
        assert f"{what} grew from" in said
    assert held(tmp_path).temporary == 12


@pytest.mark.heavy
def test_forty_runs_leak_nothing():
    # What lasts longer than the rest of a run moves the heap by some pages; the digits are 92 kB.
    command = [sys.executable, SCRIPT, "--runs", "40", "--most", "50000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no leak" in done.stdout
