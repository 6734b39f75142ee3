"""Which blocks half of a training uses, and the table."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra transformers")

from benchmarks.language.blocks import REST, Half, table


def test_a_gate_takes_large_divergences_and_no_long_rest():
    half, uses = Half("gate", 10, 0), np.zeros(10, dtype=int)
    last = np.full(10, -1)
    divergences = np.arange(10, dtype=float)
    for epoch in range(12):
        used = half()
        assert len(used) == len(set(used)) == 5
        half.enter(used, divergences[used])
        uses[used] += 1
        last[used] = epoch
        assert epoch - last.min() <= REST + 1
    assert uses[:5].sum() < uses[5:].sum()


@pytest.mark.parametrize(("arm", "blocks"), [("dense", 10), ("positions", 10), ("random", 5)])
def test_the_others_draw(arm, blocks):
    half = Half(arm, 10, 1)
    first, second = half(), half()
    assert len(set(first)) == len(first) == blocks
    assert not np.array_equal(first, second)


def test_the_table_has_an_interval_beside_each_difference():
    perplexity = {"dense": [10.0, 20.0, 30.0], "gate": [11.0, 22.0, 33.0]}
    seconds = {"dense": [2.0, 4.0, 6.0], "gate": [1.0, 2.0, 3.0]}
    lines = table({"made": {"perplexity": perplexity, "seconds": seconds}}).splitlines()
    assert lines[3] == "| made | gate | 3 | 19.99 | +10.00 (+10.00 to +10.00) | 0.50 |"
