"""The table of stored tokens' errors."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.language.encodings import EXPONENTS, measure, table

RESULTS = Path(__file__).parents[2] / "benchmarks/results/language-encodings.json"
PAGE = Path(__file__).parents[2] / "docs/language.md"


def test_a_head_and_a_tail_are_nearer_than_draws_where_a_head_is():
    found = measure(200, 64)["distributions"]
    assert len(found) == len(EXPONENTS)
    sharp = found[0]["squared_error"]
    assert sharp["head+tail, 64 bytes"] < sharp["sampled, 64 bytes"]
    assert sharp["head+tail, 64 bytes"] < sharp["head+tail, 32 bytes"]
    entropies = [each["entropy"] for each in found]
    assert entropies == sorted(entropies)


def test_the_page_has_the_table_of_the_results():
    results = json.loads(RESULTS.read_text())
    assert table(results) in PAGE.read_text()
