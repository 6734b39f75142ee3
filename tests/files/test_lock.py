"""One process at a time in a folder, and none where the last one was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from frugalkd.errors import FrugalKDWarning, RunFolderError, WriteFailed
from frugalkd.files.lock import FILE, Lock

HOLD = """
import sys, time
from pathlib import Path
from frugalkd.files.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_is_refused_and_the_holder_named(tmp_path):
    with holder(tmp_path) as process:
        try:
            with pytest.raises(RunFolderError, match=rf"another process \({process.pid}\) is at"):
                Lock(tmp_path)
            process.send_signal(signal.SIGKILL)
            process.wait()
            Lock(tmp_path).release()  # a killed process leaves the file, and no lock
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_within_a_process_too(tmp_path):
    lock = Lock(tmp_path)
    assert (tmp_path / FILE).read_text() == str(os.getpid())
    with pytest.raises(RunFolderError, match="another process"):
        Lock(tmp_path)
    lock.release()
    lock.release()
    again = Lock(tmp_path)
    again.release()
    assert list(tmp_path.iterdir()) == []


def test_a_waiter_whose_file_is_removed_tries_again(tmp_path, monkeypatch):
    """Between opening the file and locking it, its holder removes it."""
    flock, first = fcntl.flock, Lock(tmp_path)

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = Lock(tmp_path)
    assert (tmp_path / FILE).exists()
    with pytest.raises(RunFolderError, match="another process"):
        Lock(tmp_path)
    second.release()


def test_spawned_children_do_not_keep_it(tmp_path):
    lock = Lock(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lock.release()
        Lock(tmp_path).release()
        child.kill()


def test_who_waits_comes_next(tmp_path):
    first, released = Lock(tmp_path), threading.Event()

    def let_go():
        released.set()
        first.release()

    release = threading.Timer(0.3, let_go)
    release.start()
    with Lock(tmp_path, wait=True):
        assert released.is_set()
        with pytest.raises(RunFolderError, match="another process"):
            Lock(tmp_path)
    release.join()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_it_warns(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(FrugalKDWarning, match="has no locks"):
        Lock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(WriteFailed, match=r"^cannot write .*: No such file or directory: "):
        Lock(tmp_path / "absent")
