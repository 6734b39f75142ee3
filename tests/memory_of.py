"""The most memory that a few lines take, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import resource, sys, warnings
import torch
torch.set_num_threads(1)
{before}
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 * (sys.platform != "darwin")
at_first = peak()
{code}
print(peak() - at_first)
"""


def peak_of(before: str, code: str) -> int:
    """Bytes that ``code`` takes at most, beyond what was taken after ``before``: its imports."""
    script = _SCRIPT.format(before=before, code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])
