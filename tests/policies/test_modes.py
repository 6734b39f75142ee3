"""The four distillations as one table."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd import Sampling
from frugalkd.errors import LedgerError, SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import All, SelfRegulation
from frugalkd.policies.modes import MODES, significance_weights


def ledger(participations, epochs=4.0):
    made = Ledger.new(len(participations))
    made["participations"][:] = participations
    made.epochs = epochs
    return made


def test_the_table_is_the_specification():
    table = {name: (mode.gated, mode.weighted) for name, mode in MODES.items()}
    assert table == {
        "vanilla": (False, False),
        "significance": (False, True),
        "regulated": (True, False),
        "hybrid": (True, True),
    }
    gate = SelfRegulation(confidence=0.7)
    assert [m.policy(gate) for m in MODES.values()] == [All(), All(), gate, gate]


def test_sampling_is_regulated_unless_it_says_otherwise():
    gate = SelfRegulation(confidence=0.7)
    assert Sampling().chosen_policy == SelfRegulation()
    assert Sampling(weights=np.ones(3, np.float32)).chosen_policy == SelfRegulation()
    assert Sampling(regulation=gate).chosen_policy == gate
    assert Sampling(policy=All()).chosen_policy == All()
    teacher = ledger([1, 2])
    for name, mode in MODES.items():
        sampling = Sampling(mode=cast(Any, name), ledger=teacher, regulation=gate)
        assert sampling.chosen_policy == mode.policy(gate)
        assert sampling.weighing_ledger is (teacher if mode.weighted else None)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"mode": "hybird"}, SettingError, "regulated or hybrid or None, not 'hybird'"),
        ({"mode": 1}, SettingError, "mode must be .*, not 1"),
        ({"mode": "hybrid"}, LedgerError, "mode hybrid needs a significance ledger"),
        ({"mode": "vanilla", "policy": All()}, SettingError, "either one or the other"),
        ({"mode": "vanilla", "weights": np.ones(2)}, SettingError, "either one or the other"),
        ({"policy": All(), "regulation": SelfRegulation()}, SettingError, "give it, or a policy"),
        ({"policy": "all"}, SettingError, "policy must be a Policy"),
        ({"ledger": ledger([1, 2])}, SettingError, "ledger is for the modes significance and hyb"),
        ({"policy": All(), "gamma": 2.0}, SettingError, "gamma is for the modes significance"),
        ({"scores": np.ones(3)}, SettingError, "scores are for a policy that needs them"),
        ({"gamma": -1.0}, SettingError, "gamma must be 0 or more"),
        ({"ledger": "run"}, SettingError, "ledger must be a Ledger or None"),
    ],
)
def test_sampling_refuses_what_cannot_be(given, error, says):
    with pytest.raises(error, match=says):
        Sampling(**given)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(
        lambda c: any(c) and set(c) != {4}
    ),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_weights_are_powers_of_significance_with_mean_one(counts, gamma):
    weights = significance_weights(ledger(counts), gamma)
    kept = [(c / 4) ** gamma for c in counts if c]
    mean = sum(kept) / len(kept)
    expected = [(c / 4) ** gamma / mean if c else 0.0 for c in counts]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[weights > 0].mean() == pytest.approx(1.0, rel=1e-5)
    if gamma == 0:
        assert set(weights.tolist()) <= {0.0, 1.0}


def test_a_ledger_that_says_nothing_is_refused():
    with pytest.raises(LedgerError, match="no sample"):
        significance_weights(ledger([0, 0]))
    with pytest.raises(LedgerError, match="participated in every epoch"):
        significance_weights(ledger([4, 4]))
    with pytest.raises(LedgerError, match="no finished epoch"):
        significance_weights(Ledger.new(3))


@pytest.mark.parametrize("gamma", [True, "1", float("nan"), -0.5])
def test_gamma_is_a_number(gamma):
    with pytest.raises(SettingError, match=r"^gamma must be "):
        significance_weights(ledger([1, 2]), gamma)


@pytest.mark.parametrize("gamma", [200.0, 5000.0])
def test_a_gamma_that_leaves_out_used_samples_is_refused(gamma):
    assert significance_weights(ledger([1, 3]), 50.0).all()
    with pytest.raises(
        LedgerError, match=rf"gamma {gamma:g} makes a weight of 0 of the significan"
    ):
        significance_weights(ledger([1, 3]), gamma)
