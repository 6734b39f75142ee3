"""Some malformed files of each kind; ``make fuzz`` reads many more."""

from __future__ import annotations

import mmap
import subprocess
from pathlib import Path

import pytest
from fuzz import KINDS, SPARE, fuzz, guard, table

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="memory is measured by Linux's /proc",
)


@pytest.mark.heavy
def test_malformed_files_are_one_line_or_right(tmp_path):
    cases = 300
    tallies = fuzz(cases, seed=1, kinds=KINDS, keep=tmp_path)
    assert not any(tally.failures for tally in tallies.values()), table(tallies) + "\n".join(
        failure for tally in tallies.values() for failure in tally.failures
    )
    assert all(tally.cases == cases for tally in tallies.values())
    assert all(tally.refused > cases / 15 for tally in tallies.values()), table(tallies)
    assert list(tmp_path.iterdir()) == []


HARM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz
from pathlib import Path

def make_kind(name, folder):
    path = folder / "file"
    path.write_bytes(b"sound")

    def read():
        content = path.read_bytes()
        if content == b"crash":
            os.abort()
        if content == b"hang":
            time.sleep(60)
        if content == b"much":
            bytearray(80 << 20)
        if content == b"untyped":
            raise KeyError("x")

    hurt = [b"crash", b"hang", b"much", b"untyped", b"sound"]
    return fuzz.Kind(path, read, [1], lambda value: b"sound", hurt)

fuzz.make_kind, fuzz.SECONDS = make_kind, 1
sys.argv = sys.argv[:1] + sys.argv[2:]
sys.exit(fuzz.main())
"""


@pytest.mark.heavy
def test_what_does_harm_is_seen_and_kept(tmp_path, monkeypatch):
    """The fuzzer itself can fail: it reports a crash, a hang, too much memory and a traceback."""
    script = tmp_path / "harm.py"
    script.write_text(HARM)
    here = str(Path(__file__).parent)
    popen = subprocess.Popen

    def other(command, **kwargs):
        return popen([command[0], str(script), here, *command[2:]], **kwargs)

    monkeypatch.setattr(subprocess, "Popen", other)
    keep = tmp_path / "kept"
    tally = fuzz(5, seed=0, kinds=("file",), keep=keep)["file"]
    said = "\n".join(tally.failures)
    assert len(tally.failures) == 4, said
    assert "case 0 crashed the interpreter (-6)" in said
    assert "case 1: took more than 1 s" in said
    assert "case 2: MemoryError" in said
    assert "case 3: KeyError" in said
    assert sorted(path.name for path in keep.iterdir()) == ["file-1", "file-2", "file-3"]


def test_memory_within_the_bound_is_measured():
    # Pages of its own: the heap may have room left that other tests made.
    with guard(0) as taken, mmap.mmap(-1, SPARE // 4) as pages:
        pages.write(b"1" * len(pages))
        assert taken() >= len(pages)
