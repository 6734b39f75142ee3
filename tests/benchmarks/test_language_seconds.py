"""The table of seconds from a store, with a live teacher and in TRL."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the extra transformers")

from benchmarks.language.seconds import ratios, table


def test_ratios_are_of_one_round_each():
    seconds = {"fill": [4.0, 5.0], "store": [6.0, 5.0], "live": [10.0, 5.0], "gkd": [40.0, 20.0]}
    found = {"epochs": 2, "seconds": seconds}
    made = ratios(found)
    assert made["an epoch from the store / live"] == [0.3, 0.5]
    assert made["all / GKD"] == [0.25, 0.5]
    lines = table(found).splitlines()
    assert "| filling the store, seconds | 2 | 4.5 | 4.0 – 5.0 |" in lines
    assert "| all / GKD, ratio | 2 | 0.38 | 0.25 – 0.50 |" in lines
