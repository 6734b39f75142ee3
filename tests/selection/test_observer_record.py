"""A gate's verdict on its way to the ledger."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.selection.observer import record


class Skips(SelfRegulation):
    """Skips every sample for as many epochs as ``epochs`` says, in its dtype."""

    epochs = np.array(0)

    def skip_epochs(self, streak):
        return np.full(len(streak), self.epochs)


@pytest.mark.parametrize(
    ("epochs", "due"),
    [
        (np.int64(2**63 - 1), 65535),
        (np.uint64(2**64 - 1), 65535),
        (np.uint8(100), 301),
        (np.int8(100), 301),
    ],
)
def test_epochs_to_skip_of_any_dtype(monkeypatch, epochs, due):
    monkeypatch.setattr(Skips, "epochs", epochs)
    sure = np.ones(3, np.float32)
    ledger, ids = Ledger.new(3), np.arange(3)
    record(
        Skips(),
        ledger,
        EpochContext(200, 999, 0),
        ids,
        Outcome(sure, sure == 1, sure),
        screening=False,
    )
    assert ledger["due"].tolist() == [due] * 3
