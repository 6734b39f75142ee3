"""Training dynamics in the ledger, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from frugalkd.errors import LedgerError, SettingError
from frugalkd.ledger.dynamics import COLUMNS, counts_early, enter
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from toys import check_dynamics, same_columns

SAMPLES = 12


def outcome(logits, labels) -> Outcome:
    """What rows of logits (rows, classes) say of their labels; what a gate reads is left out."""
    rows = np.arange(len(labels))
    given, others = logits[rows, labels], logits.copy()
    others[rows, labels] = -np.inf
    odds = np.exp(logits - given[:, None])
    correct = logits.argmax(axis=1) == labels
    return Outcome(
        np.float32(odds.max(axis=1) / odds.sum(axis=1)), correct, None,
        margin=np.float32(given - others.max(axis=1)), given=np.float32(1 / odds.sum(axis=1)),
        other=others.argmax(axis=1),
    )  # fmt: skip


def visit(ledger, ids, logits, epoch, epochs, screening=False) -> None:
    seen = outcome(logits, ledger.labels[ids])
    early = counts_early(epoch, epochs)
    learned = enter(ledger.columns, ids, seen, epoch=epoch, early=early)
    ledger.record(
        ids, epoch=epoch, confidence=seen.confidence, correct=seen.correct, failed=~seen.correct,
        screening=screening, learned=learned,
    )  # fmt: skip


def trained(seed=0, epochs=9.0) -> Any:
    """A ledger of random visits, some of them two in an epoch, and all outcomes of each sample."""
    stream = np.random.default_rng(seed)
    ledger = Ledger.new(SAMPLES, labels=stream.integers(5, size=SAMPLES), dynamics=True)
    outcomes = [[] for _ in range(SAMPLES)]
    for number in range(2 * int(epochs)):
        ids = stream.permutation(SAMPLES)[: stream.integers(SAMPLES + 1)]
        logits = stream.normal(size=(len(ids), 5))
        logits[stream.random(len(ids)) < 0.2] = 1.5  # ties: the given label is among the largest
        visit(ledger, ids, logits, number // 2, epochs, screening=number % 2 == 0)
        for id, row in zip(ids, logits, strict=True):
            outcomes[id].append((number // 2, row))
    ledger.epochs = epochs
    return ledger, outcomes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("epochs", [1.0, 3.0, 9.0])
def test_columns_are_what_their_definitions_say(seed, epochs):
    ledger, outcomes = trained(seed, epochs)
    check_dynamics(ledger, outcomes, ledger.labels, epochs)
    learned = [_learned_last(*pair) for pair in zip(outcomes, ledger.labels, strict=True)]
    assert (ledger["flags"] & 4 > 0).tolist() == ledger.accepted.tolist() == learned


def _learned_last(outcomes, label) -> bool:
    last = [row for epoch, row in outcomes if epoch == outcomes[-1][0]]
    return bool(last) and last[0][label] == max(last[0])


def test_means_take_in_the_first_half():
    assert [counts_early(epoch, 7) for epoch in range(7)] == [True] * 4 + [False] * 3
    assert [counts_early(epoch, 8) for epoch in range(8)] == [True] * 4 + [False] * 4
    assert counts_early(0, 0.3)


def test_a_class_with_most_votes_is_found():
    ledger, one = Ledger.new(1, labels=np.array([0]), dynamics=True), np.array([0])
    for epoch, winner in enumerate([1, 2, 3, 2, 4, 2, 2]):
        visit(ledger, one, 5.0 * np.eye(5)[[winner]], epoch, 99)
    assert ledger["other"].tolist() == [2]


def test_counts_end_where_their_types_do():
    ledger, one = Ledger.new(1, labels=np.array([0]), dynamics=True), np.array([0])
    for epoch in range(600):
        visit(ledger, one, np.array([[-1.0 if epoch % 2 else 1.0, 0.0]]), epoch, 99)
    assert (ledger["forgotten"][0], ledger["other_votes"][0]) == (255, 255)
    visit(ledger, one, np.zeros((1, 70_000)), 600, 99)
    seen = outcome(np.zeros((1, 2)), np.array([0]))._replace(other=np.array([70_000]))
    for epoch in range(601, 1200):
        enter(ledger.columns, one, seen, epoch=epoch, early=False)
    assert ledger["other"].tolist() == [65535], "a class beyond 16 bits is not known"


def test_a_file_keeps_them_and_all_of_them_are_needed(tmp_path):
    ledger, _ = trained()
    ledger.save(tmp_path / "l.safetensors")
    loaded = Ledger.load(tmp_path / "l.safetensors")
    assert loaded.has_dynamics
    assert same_columns(loaded, ledger)
    arrays = load_file(str(tmp_path / "l.safetensors"))
    meta = {"frugalkd-ledger": '{"schema": "1", "epochs": "2.0"}'}
    for damage in (
        {name: column for name, column in arrays.items() if name != "margin"},
        {**arrays, "other": arrays["other"].astype(np.int32)},
    ):
        save_file(damage, tmp_path / "d.safetensors", metadata=meta)
        with pytest.raises(LedgerError, match="damaged"):
            Ledger.load(tmp_path / "d.safetensors")


def test_they_double_a_ledger_and_have_their_names():
    assert sum(np.dtype(dtype).itemsize for dtype, _ in COLUMNS.values()) == 20
    plain, full = Ledger.new(3), Ledger.new(3, dynamics=True)
    assert full.columns.keys() - plain.columns.keys() == COLUMNS.keys()
    assert (plain.has_dynamics, full.has_dynamics) == (False, True)
    with pytest.raises(SettingError, match="'margin' is the ledger's own"):
        Ledger.new(3, extra={"margin": "float32"})
