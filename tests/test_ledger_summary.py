import numpy as np
import pytest

from frugalkd.errors import LedgerError
from frugalkd.ledger import Ledger
from frugalkd.ledger_summary import summarise


def _ledger(participations, labels) -> Ledger:
    ledger = Ledger.new(len(labels), labels=np.array(labels))
    ledger["participations"][:] = participations
    ledger["confidence"][:] = 0.5
    ledger.epochs = 10
    ledger.about = {"classes": "ant\nbee"}
    return ledger


def test_summary_counts_by_hand():
    summary = summarise(_ledger([0, 10, 3, 5], [0, 1, 0, 1]), top=2)
    assert summary["mean"] == pytest.approx(0.45)
    assert (summary["never"], summary["always"]) == (0.25, 0.25)
    assert summary["histogram"] == [1, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    assert [record["class"] for record in summary["classes"]] == ["bee", "ant"]
    assert summary["classes"][0]["mean"] == pytest.approx(0.75)
    assert [sample["id"] for sample in summary["most"]] == [1, 3]
    assert [sample["id"] for sample in summary["least"]] == [0, 2]


def test_a_ledger_without_labels_has_no_classes():
    ledger = Ledger.new(3)
    ledger.epochs = 2
    summary = summarise(ledger)
    assert summary["classes"] == []
    assert summary["most"][0]["confidence"] is None


def test_an_unfinished_ledger_is_refused():
    with pytest.raises(LedgerError):
        summarise(Ledger.new(3))
