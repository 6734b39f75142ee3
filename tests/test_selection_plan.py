"""The plan of an epoch, in its order: that of the hashes, with what the policy says of each id."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd import draws
from frugalkd.policies import Plan
from frugalkd.policies._policy import Ungated
from frugalkd.selection import Selection
from toys import Ids


class Said(Ungated):
    """Plans what it was told."""

    def __init__(self, plan):
        self.told = plan

    def plan(self, ledger, pool, at):
        return self.told


@pytest.mark.parametrize("what", ["ids", "weights", "forced", "both"])
@pytest.mark.parametrize("epochs", [2.0, 1.3])
def test_ids_weights_and_forced_stay_together(what, epochs):
    stream = np.random.default_rng(1)
    ids = stream.permutation(90)[:60]
    weights = stream.random(60, dtype=np.float32) if what in ("weights", "both") else None
    forced = stream.random(60) < 0.5 if what in ("forced", "both") else None
    policy = Said(Plan(ids, weights, forced, lr_factor=0.5))
    selection = Selection(Ids([0] * 90), policy=policy, epochs=epochs, batch_size=7, seed=4)
    for index, epoch in enumerate(selection):
        key = draws.hash64(4, draws.stream("order"), index, ids)
        by_hash = np.argsort(key, kind="stable")[: 18 if (index, epochs) == (1, 1.3) else 60]
        batches = []
        for batch in epoch:
            batches.append(batch)
            batch.observe(batch.weights[:, None].expand(-1, 2), batch.labels)
        assert np.concatenate([batch.ids for batch in batches]).tolist() == ids[by_hash].tolist()
        expected = np.ones(60, np.float32) if weights is None else weights
        assert np.concatenate([b.weights for b in batches]).tolist() == expected[by_hash].tolist()
        expected = np.zeros(60, bool) if forced is None else forced
        assert np.concatenate([b.forced for b in batches]).tolist() == expected[by_hash].tolist()
        assert epoch.lr_factor == 0.5
