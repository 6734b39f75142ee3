"""The ledger's file, its merge, its table, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from frugalkd.errors import LedgerError, WriteFailed
from frugalkd.ledger.dynamics import NEVER
from frugalkd.ledger.ledger import Ledger
from toys import same_columns


def visited(samples=20, seed=0, epochs=4) -> Any:
    """A ledger that a random training has gone through."""
    stream = np.random.default_rng(seed)
    ledger = Ledger.new(samples, labels=stream.integers(4, size=samples))
    for epoch in range(epochs):
        visit(ledger, np.flatnonzero(stream.random(samples) < 0.7), epoch, stream)
    ledger.epochs = float(epochs)
    ledger.about = {"data": "d" * 64, "policy": "p", "classes": "a\nb"}
    return ledger


def visit(ledger, ids, epoch, stream):
    failed = stream.random(len(ids)) < 0.5
    ledger.record(
        ids,
        epoch=epoch,
        confidence=stream.random(len(ids), dtype=np.float32),
        correct=stream.random(len(ids)) < 0.5,
        failed=failed,
        screening=bool(stream.integers(2)),
    )
    ledger.trained(
        ids,
        participated=failed,
        forced=~failed & (stream.random(len(ids)) < 0.5),
        losses=stream.random(len(ids), dtype=np.float32),
    )


def test_a_new_ledger_has_seen_nothing():
    ledger = Ledger.new(3, extra={"score": "float32"})
    assert len(ledger) == 3
    assert ledger["score"].dtype == np.float32
    assert ledger["visits"].sum() == ledger["participations"].sum() == ledger["due"].sum() == 0
    assert (ledger["last_epoch"] == NEVER).all()
    assert np.isnan(ledger["confidence"]).all()
    with pytest.raises(LedgerError, match="no finished epoch"):
        _ = ledger.significance


def test_what_is_saved_comes_back_in_the_same_bytes(tmp_path):
    ledger = visited()
    files = [tmp_path / f"{i}.safetensors" for i in range(12)]
    for file in files:
        ledger.save(file)
    assert len({file.read_bytes() for file in files}) == 1
    loaded = Ledger.load(files[0])
    assert same_columns(loaded, ledger)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == ledger.labels.tolist()
    assert (loaded.epochs, loaded.about) == (ledger.epochs, ledger.about)
    loaded.save(files[1])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_file_is_what_safetensors_makes_of_the_columns(tmp_path):
    ledger = visited()
    arrays = {**ledger.columns, "label": ledger.labels}
    ledger.save(tmp_path / "ledger")
    with safe_open(tmp_path / "ledger", framework="np") as file:
        meta = file.metadata()
    assert (tmp_path / "ledger").read_bytes() == save(arrays, metadata=meta)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_columns_that_are_not_contiguous_are_saved_right(tmp_path):
    ledger = visited()
    whole: Any = Ledger.load(_saved(ledger, tmp_path))
    ledger.labels = np.repeat(ledger.labels, 2)[::2]
    ledger.columns["loss"] = np.repeat(ledger["loss"], 3)[::3]
    again: Any = Ledger.load(_saved(ledger, tmp_path))
    assert same_columns(again, whole)
    assert np.array_equal(again.labels, whole.labels)


def test_a_ledger_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = _saved(visited(), tmp_path)
    old = path.read_bytes()

    def fail(file, data, offset):
        os.pwrite(file, data[:100], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("frugalkd.files.arrays.write_at", fail)
    with pytest.raises(WriteFailed, match=r"^(?!.*\n).*cannot write.*No space left"):
        visited(seed=1).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(WriteFailed, match="cannot write"):
        visited().save(tmp_path / "absent" / "ledger.safetensors")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), visits=st.integers(1, 40))
def test_verdicts_are_entered_as_one_by_one(seed, visits):
    """The columns against plain Python numbers, row by row."""
    stream = np.random.default_rng(seed)
    ledger = Ledger.new(12)
    ledger["streak"][:] = stream.choice([0, 1, 253, 254, 255], 12)
    rows = [{name: ledger[name][i].item() for name in ledger.columns} for i in range(12)]
    for visit_number in range(visits):
        epoch, screening = visit_number // 2, bool(stream.integers(2))
        ids = stream.permutation(12)[: stream.integers(13)]
        correct, failed, participated, forced = stream.random((4, len(ids))) < 0.5
        confidence, losses = stream.random((2, len(ids)), dtype=np.float32)
        streaks = ledger.record(
            ids,
            epoch=epoch,
            confidence=confidence,
            correct=correct,
            failed=failed,
            screening=screening,
        )
        ledger.trained(ids, participated=participated, forced=forced, losses=losses)
        for i, id in enumerate(ids):
            row = rows[id]
            again = row["last_epoch"] == epoch
            row["visits"] += not again
            grown = max(row["streak"], 1) if again else min(row["streak"] + 1, 255)
            row["streak"] = 0 if failed[i] else grown
            row["flags"] = int(correct[i]) + 2 * screening
            row |= {"last_epoch": epoch, "confidence": confidence[i], "loss": losses[i]}
            row["participations"] += int(participated[i])
            row["forced"] += int(forced[i])
            assert streaks[i] == row["streak"]
    for name, column in ledger.columns.items():
        np.testing.assert_array_equal(column, [row[name] for row in rows])
    assert ledger["streak"].dtype == np.uint8
    assert sum(column.itemsize for column in ledger.columns.values()) == 20


def test_a_folder_stands_for_the_ledger_in_it(tmp_path):
    visited().save(tmp_path / "ledger.safetensors")
    assert same_columns(Ledger.load(tmp_path), visited())


def test_unreadable_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "ledger.safetensors"
    with pytest.raises(LedgerError, match="frugalkd teach"):
        Ledger.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(LedgerError, match=r"^(?!.*\n).*not a readable ledger"):
        Ledger.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.load(path)
    visited().save(path)
    whole = path.read_bytes()
    for kept in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(
            LedgerError, match=r"not a readable ledger: .+; make it again with 'frugalkd teach'$"
        ):
            Ledger.load(path)
    arrays = load_file(str(_saved(visited(), tmp_path)))
    meta = {"frugalkd-ledger": '{"schema": "1", "epochs": "2.0"}'}
    for damage in (
        {**arrays, "visits": arrays["visits"][:-1]},
        {**arrays, "visits": arrays["visits"].astype(np.int64)},
        {k: v for k, v in arrays.items() if k != "streak"},
    ):
        save_file(damage, path, metadata=meta)
        with pytest.raises(LedgerError, match="damaged"):
            Ledger.load(path)
    for entry, message in {
        '{"schema": "2", "epochs": "1"}': "from a newer",
        '{"schema": "1"}': "epochs",
        "nonsense": "checksum",
        "{nonsense": "unreadable",
    }.items():
        save_file(arrays, path, metadata={"frugalkd-ledger": entry})
        with pytest.raises(LedgerError, match=message):
            Ledger.load(path)


def test_damage_that_is_well_formed_is_seen(tmp_path):
    """Every byte of a ledger counts: whichever is flipped, it is refused."""
    path = _saved(visited(), tmp_path)
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LedgerError) as caught:
            Ledger.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epochs", ["nan", "inf", "-1", "1e9"])
def test_impossible_epochs_are_refused(tmp_path, epochs):
    arrays = load_file(str(_saved(visited(), tmp_path)))
    meta = {"frugalkd-ledger": json.dumps({"schema": "1", "epochs": epochs})}
    save_file(arrays, tmp_path / "l.safetensors", metadata=meta)
    with pytest.raises(LedgerError, match="epochs"):
        Ledger.load(tmp_path / "l.safetensors")


def test_a_ledger_without_a_checksum_is_read(tmp_path):
    ledger = visited()
    arrays = load_file(str(_saved(ledger, tmp_path)))
    meta = {"frugalkd-ledger": json.dumps({"schema": "1", "epochs": "2.0", "policy": "p"})}
    save_file(arrays, tmp_path / "l.safetensors", metadata=meta)
    loaded = Ledger.load(tmp_path / "l.safetensors")
    assert same_columns(loaded, ledger)
    assert loaded.about == {"policy": "p"}


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "l.safetensors"
    path.write_bytes((1 << 27).to_bytes(8, "little") + b"{}")
    with pytest.raises(LedgerError, match="header is too large"):
        Ledger.load(path)


def _saved(ledger, folder):
    ledger.save(folder / "whole.safetensors")
    return folder / "whole.safetensors"


def test_significance_is_a_share_of_the_epochs():
    ledger = Ledger.new(3)
    ledger["participations"][:] = [0, 2, 3]
    ledger.epochs = 2.5
    np.testing.assert_allclose(ledger.significance, [0, 0.8, 1.0])
    assert ledger.significance.dtype == np.float32


def test_a_streak_stops_at_255():
    ledger, one = Ledger.new(1), np.array([0])
    for epoch in range(300):
        ledger.record(
            one,
            epoch=epoch,
            confidence=np.array([1], np.float32),
            correct=np.array([True]),
            failed=np.array([False]),
            screening=False,
        )
    assert ledger["streak"][0] == 255
    assert ledger["visits"][0] == 300


def test_two_verdicts_in_an_epoch_are_one_visit_in_one_view():
    ledger, ids = Ledger.new(2), np.array([1])
    assert ledger.views(ids, 0).tolist() == [0]
    for failed in (True, False):
        ledger.record(
            ids,
            epoch=0,
            confidence=np.array([0.5], np.float32),
            correct=np.array([True]),
            failed=np.array([failed]),
            screening=failed,
        )
        assert ledger.views(ids, 0).tolist() == [0]
    assert ledger["visits"].tolist() == [0, 1]
    assert ledger["streak"].tolist() == [0, 1]
    assert ledger.views(ids, 1).tolist() == [1]


def test_the_table_is_csv_with_one_row_a_sample(tmp_path):
    ledger = visited()
    ledger.export(tmp_path / "ledger.csv")
    with open(tmp_path / "ledger.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(20))
    assert [int(row["visits"]) for row in rows] == ledger["visits"].tolist()
    assert [np.float32(row["significance"]) for row in rows] == ledger.significance.tolist()
    assert [row["correct"] == "True" for row in rows] == ledger.correct.tolist()
    with pytest.raises(LedgerError, match=r"\.csv or \.parquet"):
        ledger.export(tmp_path / "ledger.xls")


def test_the_table_is_parquet_too(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    ledger = visited()
    ledger.export(tmp_path / "ledger.parquet")
    table = parquet.read_table(tmp_path / "ledger.parquet").to_pydict()
    assert table["id"] == list(range(20))
    assert table["participations"] == ledger["participations"].tolist()


def test_labels_beyond_32_bits_are_not_known():
    labels = np.array([3, -1, 2**40, -(2**40)])
    found = Ledger.new(4, labels=labels).labels
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == [3, -1, -1, -1]
