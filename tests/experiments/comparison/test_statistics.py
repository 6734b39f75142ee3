from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from frugalkd.errors import UnknownName
from frugalkd.experiments.comparison.statistics import (
    Claim,
    claims,
    claims_together,
    differences,
    frontier,
    interval,
    spread,
)


def comparison(**arms):
    return {
        "arms": [
            {"arm": name, "seeds": list(range(len(values))), "accuracy": {"values": list(values)}}
            for name, values in arms.items()
        ]
    }


def t_test(values, mean):
    return tuple(stats.ttest_1samp(values, mean))[1]


def test_interval_by_hand():
    # Mean 3, standard deviation sqrt(2.5), t(0.975, 4 degrees of freedom) = 2.776445.
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == pytest.approx([3 - half, 3 + half])


def test_interval_is_scipys():
    values = np.random.default_rng(0).normal(0.9, 0.01, 10)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(list(values)) == pytest.approx([theirs.low, theirs.high])


def test_intervals_of_one_value_and_of_equal_ones():
    assert interval([0.5]) is None
    assert interval([]) is None
    assert interval([0.5, 0.5, 0.5]) == pytest.approx([0.5, 0.5])


def test_spread_keeps_the_place_of_a_failed_run():
    assert spread([0.5, None]) == {"mean": 0.5, "ci95": None, "values": [0.5, None]}
    assert spread([None])["mean"] is None


def test_differences_pair_by_seed():
    assert differences({0: 0.9, 1: 0.8, 2: None}, {1: 0.5, 0: 0.7, 2: 0.1}) == (
        [0, 1],
        pytest.approx([0.2, 0.3]),
    )


def test_claims_against_scipy_and_holm_by_hand():
    stream = np.random.default_rng(1)
    base = stream.normal(0.9, 0.01, 10)
    better = base + stream.normal(0.01, 0.002, 10)
    same = base + stream.normal(0.0, 0.001, 10)
    found = claims(
        comparison(base=base, better=better, same=same),
        [
            Claim("better", "base", "better"),
            Claim("same", "base", "no worse"),
            Claim("same", "base", "better"),
        ],
    )
    p = [
        t_test(better - base, 0),
        t_test(same - base, -0.005) / 2,  # one-sided: its mean is above
        t_test(same - base, 0),
    ]
    assert [claim["p"] for claim in found] == pytest.approx(p)
    # Holm: the smallest times 3, the next times 2, the largest as it is, never decreasing.
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.sort(p) * [3, 2, 1])
    assert [found[i]["p_holm"] for i in order] == pytest.approx(np.minimum(stepped, 1))
    assert [claim["holds"] for claim in found] == [True, True, False]
    assert found[2]["why"]


def test_a_significant_loss_is_no_gain():
    base = np.linspace(0.9, 0.91, 10)
    worse = base - np.linspace(0.02, 0.021, 10)
    for claim, said in (("better", ""), ("no worse", " by more than the margin")):
        (found,) = claims(comparison(base=base, worse=worse), [Claim("worse", "base", claim)])  # pyright: ignore
        assert found["p"] < 0.001 if claim == "better" else found["p"] > 0.999
        assert not found["holds"]
        assert found["why"].split("; ")[0] == f"it is worse{said}"


def test_a_loss_within_the_margin_is_not_worse_by_more_than_it():
    base = np.linspace(0.9, 0.91, 10)
    (found,) = claims(
        comparison(base=base, less=base - np.linspace(0.004, 0.0055, 10)),
        [Claim("less", "base", "no worse")],
    )
    assert found["difference"]["ci95"][0] < -0.005 < found["difference"]["ci95"][1]
    assert found["why"].startswith("the interval reaches the margin")


def test_a_claim_needs_ten_whole_seeds():
    base = [0.9 + 0.001 * seed for seed in range(10)]
    better = [value + 0.01 + 0.0001 * seed for seed, value in enumerate(base)]
    few = claims(comparison(a=base[:9], b=better[:9]), [Claim("b", "a", "better")])[0]
    assert few["p_holm"] < 0.05
    assert not few["holds"]
    assert "9 of the 10 seeds" in few["why"]
    broken = claims(comparison(a=[*base, 0.9], b=[*better, None]), [Claim("b", "a", "better")])[0]
    assert not broken["holds"]
    assert "seeds 10" in broken["why"]


def test_claims_of_several_comparisons_are_corrected_together():
    base = [0.9 + 0.001 * seed for seed in range(10)]
    better = [value + 0.01 + 0.0001 * seed for seed, value in enumerate(base)]
    pairs = [(comparison(a=base, b=better), [Claim("b", "a", "better")]) for _ in range(3)]
    alone, *_ = claims(*pairs[0])
    assert [claim["p_holm"] for claim in claims_together(pairs)] == [3 * alone["p"]] * 3


def test_equal_runs():
    same = [0.9] * 10
    better, no_worse = claims(
        comparison(a=same, b=same), [Claim("b", "a", "better"), Claim("b", "a", "no worse")]
    )
    assert (better["p"], better["holds"]) == (1.0, False)
    assert (no_worse["p"], no_worse["holds"]) == (0.0, True)


def test_bad_claims():
    with pytest.raises(UnknownName, match="unknown arm 'c'"):
        claims(comparison(a=[0.9], b=[0.9]), [Claim("c", "a", "better")])
    with pytest.raises(ValueError, match="'better' or 'no worse'"):
        claims(comparison(a=[0.9], b=[0.9]), [Claim("b", "a", "nicer")])  # pyright: ignore
    assert claims(comparison(a=[0.9]), []) == []


@pytest.mark.parametrize(("more", "said"), [(1.004, False), (1.006, True), (2.0, True)])
def test_better_with_more_samples_is_no_claim(more, said):
    rng = np.random.default_rng(0)
    found = comparison(ours=0.9 + rng.normal(0, 1e-3, 10), theirs=0.8 + rng.normal(0, 1e-3, 10))
    for row, budget in zip(found["arms"], (0.25 * more, 0.25), strict=True):
        row["budget"] = {"mean": budget}
    (claim,) = claims(found, [Claim("ours", "theirs", "better")])
    assert claim["holds"] != said
    assert ("of the samples, the other 25.0%" in claim["why"]) == said


def test_budgets_a_batch_apart_count_as_equal():
    points = [(0.0999, 0.87), (0.1, 0.89), (0.25, 0.9), (0.05, 0.8)]
    assert frontier(points) == [True, True, True, True]
    assert frontier(points, 0.02) == [False, True, True, True]
    assert frontier([(0.1, 0.8), (0.1001, 0.8)], 0.02) == [True, True]
