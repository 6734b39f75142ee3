"""What positions drawn by a score replace, against draws, and the table of the results."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra transformers")

from benchmarks.language.gains import FLOOR, replaced, table


def test_r_is_the_ratio_of_variances():
    """Of sums of vectors in random directions, over positions drawn one by one."""
    generator = np.random.default_rng(0)
    norms = generator.lognormal(size=400)
    scores = norms * generator.lognormal(sigma=0.3, size=400)
    floored = np.maximum(scores, FLOOR * scores.mean())
    chances = floored / floored.sum()

    def variance(p):
        drawn = generator.choice(400, size=(20_000, 8), p=p)
        signs = generator.choice([-1.0, 1.0], size=drawn.shape)  # of independent directions
        return (signs * norms[drawn] / (400 * p[drawn])).mean(axis=1).var()

    ratio = variance(np.full(400, 1 / 400)) / variance(chances)
    assert replaced(norms, scores) == pytest.approx(ratio, rel=0.1)
    assert replaced(norms, np.ones(400)) == 1.0
    assert replaced(norms, norms) > replaced(norms, scores) > 1.5


def test_the_table_shows_three_epochs_and_the_bound():
    epochs = [{"loss": 1.0, "best": 1.5}]
    epochs += [
        {"loss": 0.5, "best": 1.4, "last gradient": 1.25, "last divergence": 0.9} for _ in range(7)
    ]
    lines = table({"made": {"epochs": epochs, "head": 0.8}}).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["2 of 8", "5 of 8", "8 of 8"]
    assert lines[0].endswith("4.0 % |")  # 0.8 * 0.25 * (1 - 1 / 1.25)
