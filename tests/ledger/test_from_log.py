"""Ledgers from logs: against plain loops, in all three forms of a table, and what is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import LedgerError
from frugalkd.ledger.from_log import ledger_from_log

LOG = [
    {"epoch": 1, "id": 0, "confidence": 0.95, "correct": True},
    {"epoch": 1, "id": 2, "confidence": 0.4, "correct": True},
    {"epoch": 4, "id": 0, "confidence": 0.99, "correct": False},
    {"epoch": 4, "id": 1, "confidence": 0.9, "correct": True},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_same_from_every_form(tmp_path, ending):
    path = write(tmp_path / f"log.{ending}", [{**row, "loss": 0.1} for row in LOG])
    ledger = ledger_from_log(path, 4, labels=np.array([0, 1, 1, 0]))
    assert ledger.epochs == 2
    assert ledger["visits"].tolist() == [2, 1, 1, 0]
    assert ledger["participations"].tolist() == [1, 0, 1, 0]
    assert ledger.significance.tolist() == [0.5, 0, 0.5, 0]
    assert ledger.correct.tolist() == [False, True, True, False]
    assert ledger["confidence"].tolist()[:3] == pytest.approx([0.99, 0.9, 0.4])
    ledger.save(tmp_path / "ledger.safetensors")
    assert ledger_from_log(path, 4, confidence=0.99)["participations"].tolist() == [2, 1, 1, 0]


@given(data=st.data(), tau=st.sampled_from([0.5, 0.9]))
@settings(max_examples=25, deadline=None)
def test_significance_is_the_part_of_epochs_that_fail_the_gate(data, tau, tmp_path_factory):
    rows = data.draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 20), st.booleans()),
            min_size=1, unique_by=lambda row: row[:2],
        )
    )  # fmt: skip
    log = [dict(zip(("epoch", "id", "confidence", "correct"), row, strict=True)) for row in rows]
    for row in log:
        row["confidence"] /= 20
    path = write(tmp_path_factory.mktemp("log") / "log.jsonl", log)
    failed = [0] * 6
    for row in log:
        sure = np.float32(row["confidence"]) >= np.float32(tau)
        failed[row["id"]] += not (row["correct"] and sure)
    epochs = len({row["epoch"] for row in log})
    found = ledger_from_log(path, 6, confidence=tau).significance
    np.testing.assert_allclose(found, np.array(failed) / epochs, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 4}, "row 1 has id 4: 0 .. 3"),
        ({"id": 0}, "sample 0 is named more than once in epoch 1"),
        ({"epoch": -1}, "row 1 has epoch -1"),
        ({"epoch": 0.5}, "row 1 has epoch 0.5"),
        ({"confidence": 1.5}, "row 1 has confidence 1.5"),
        ({"confidence": "nan"}, "row 1 has confidence nan"),
        ({"confidence": "high"}, "a value is impossible"),
        ({"correct": "perhaps"}, "a value is impossible"),
    ],
)
def test_impossible_values_are_refused(tmp_path, change, message):
    log = [dict(row) for row in LOG]
    log[1] |= change
    with pytest.raises(LedgerError, match=message):
        ledger_from_log(write(tmp_path / "log.csv", log), 4)


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="cannot read"):
        ledger_from_log(tmp_path / "nowhere.csv", 4)
    with pytest.raises(LedgerError, match=r"ends in .parquet, .csv or .jsonl"):
        ledger_from_log(tmp_path / "log.txt", 4)
    for name, content, message in (
        ("a.csv", b"epoch,id,confidence\n0,0,1\n", "row 0 has no 'correct'"),
        ("b.csv", b"epoch,id,confidence,correct\n", "it holds no rows"),
        ("c.csv", b"\xff\xfe\x00", "not a table of text"),
        ("d.jsonl", b"{\n", "line 1 is not JSON"),
        ("e.jsonl", b"[1]\n", "line 1 is not an object"),
        ("f.jsonl", b'{"epoch": 0}\n', "row 0 has no 'id'"),
        ("g.parquet", b"PAR1", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LedgerError, match=message):
            ledger_from_log(tmp_path / name, 4)
