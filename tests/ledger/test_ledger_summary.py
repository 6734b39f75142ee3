import numpy as np
import pytest

from frugalkd.errors import LedgerError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.summary import summarise


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


def test_both_ends_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    for samples in (1, 5, 60, 400):
        labels = rng.integers(0, 4, samples)
        ledger = _ledger(rng.integers(0, 4, samples), labels)
        ledger["confidence"][:] = rng.integers(0, 6, samples) / 5
        summary = summarise(ledger, top=7)
        for end, sign in (("most", 1), ("least", -1)):
            participations = ledger["participations"].tolist()
            confidence = ledger["confidence"].tolist()
            rank = [(-sign * participations[i], sign * confidence[i], i) for i in range(samples)]
            turns = [
                sum(
                    rank[j][0] == rank[i][0] and labels[j] == labels[i] and rank[j] < rank[i]
                    for j in range(samples)
                )
                for i in range(samples)
            ]
            order = sorted(range(samples), key=lambda i: (rank[i][0], turns[i], *rank[i][1:]))
            assert [sample["id"] for sample in summary[end]] == order[:7]
