"""The check that every test passes: see ``leaves_nothing``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack

import pytest

from leaks import nothing_left


def thread(ends: ExitStack) -> None:
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    ends.callback(done.set)


def child(ends: ExitStack) -> None:
    ends.enter_context(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))


def variable(ends: ExitStack) -> None:
    os.environ["FRUGALKD_LEFT"] = "1"
    ends.callback(os.environ.pop, "FRUGALKD_LEFT")


def file(ends: ExitStack) -> None:
    handle, name = tempfile.mkstemp()
    os.close(handle)
    ends.callback(os.unlink, name)


@pytest.mark.parametrize("leave", [thread, child, variable, file])
@pytest.mark.heavy
def test_what_a_test_leaves_is_found(leave, temporary):
    with ExitStack() as ends:
        check = nothing_left(temporary)
        check.__enter__()
        leave(ends)
        with pytest.raises(AssertionError, match=f"^left behind: .*{leave.__name__}"):
            check.__exit__(None, None, None)


def test_what_ends_by_itself_is_not_left(temporary):
    with nothing_left(temporary):
        threading.Timer(0.05, lambda: None).start()
