"""The table of a training's memory from a store and with a live teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.language.memory import measure, table

ROOT = Path(__file__).parents[2]

pytest.importorskip("transformers", reason="needs the extra transformers")


@pytest.mark.slow
@pytest.mark.heavy
def test_a_store_is_measured_against_a_live_teacher():
    found = measure({"layers": 2, "width": 64, "vocabulary": 512}, 2, 32, 2)
    assert found["tokens"] == 2 * 31
    assert found["peak"]["live"] > 0 < found["peak"]["stored"]
    assert found["store_bytes_per_token"] > 64


def test_the_page_has_the_table_of_the_results():
    results = json.loads((ROOT / "benchmarks/results/language-memory.json").read_text())
    assert table(results) in (ROOT / "docs/language.md").read_text()
