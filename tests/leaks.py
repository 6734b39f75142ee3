"""What a test may leave behind in its process."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

OF_LIBRARIES = re.compile(
    r"PYTEST_CURRENT_TEST|PYTORCH_NVML_BASED_CUDA_CHECK|_?TORCHINDUCTOR_|KMP_|RAY_|tqdm_monitor|pymp-|matplotlib-|torchelastic_|tmp\w+wandb|torchinductor_"
    r"|.*multiprocessing\.(forkserver|resource_tracker)"
)
"""What libraries make or set once and keep until the process ends."""


@contextlib.contextmanager
def nothing_left(temporary: Path) -> Iterator[None]:
    """AssertionError if a thread, child process, environment variable or file in ``temporary`` is
    there after the block that was not there before."""
    before = resources(temporary)
    yield
    left: dict[str, list[str]] = {}
    for attempt in range(40):  # what is ending may take a moment
        after = resources(temporary)
        left = {kind: sorted(after[kind] - before[kind]) for kind in after}
        if not any(left.values()):
            return
        if attempt == 2:
            gc.collect()  # an error that was caught may hold it
        time.sleep(0.02)
    found = {kind: names for kind, names in left.items() if names}
    raise AssertionError(f"left behind: {found}")


def resources(temporary: Path) -> dict[str, set[str]]:
    """What a test may leave behind, by kind."""
    children = [
        f"{_read(f'/proc/{pid}/cmdline')} ({pid})"
        for task in Path("/proc/self/task").glob("*/children")  # Linux's
        for pid in _read(task).split()
    ]
    found = {
        "threads": [f"{thread.name} ({thread.ident})" for thread in threading.enumerate()],
        "child processes": children,
        "environment variables": [f"{name}={value}" for name, value in os.environ.items()],
        "temporary files": os.listdir(temporary),
    }
    return {
        kind: {name for name in names if not OF_LIBRARIES.match(name)}
        for kind, names in found.items()
    }


def _read(path: str | Path) -> str:
    """The text of a file of a process or thread; nothing once that has ended."""
    with contextlib.suppress(OSError):
        return Path(path).read_text().replace("\0", " ")
    return ""
