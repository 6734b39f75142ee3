"""A store: made once, filled by several processes, refused where it is not what it should be."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from frugalkd.errors import FrugalKDError, FrugalKDWarning, PathRefused, TargetsError, WriteFailed
from frugalkd.teachers.encodings import Dense, Sampled
from frugalkd.teachers.store import Header, Store, create_store

HEADER = Header(301, 2, 5, Dense("float32"), {"teacher": "t"}, shards=2)
LOGITS = np.random.default_rng(0).standard_normal((2, 301, 5)).astype(np.float32)


def write(store, ids, view):
    store.write(ids, np.full(len(ids), view), LOGITS[view][ids])


def write_and_sync(store, ids, view):
    write(store, ids, view)
    store.sync()


def fill_shard(folder, index):
    """What each of two writers does; both may be the first."""
    create_store(Path(folder), HEADER)
    store = Store(Path(folder), write=[index])
    first, end = HEADER.samples_of(index)
    for view in range(2):
        for start in range(first, end, 40):
            write(store, np.arange(start, min(start + 40, end)), view)
    store.sync()
    store.close()


def test_two_writers_fill_two_shards(tmp_path):
    with ThreadPoolExecutor(2) as writers:
        list(writers.map(fill_shard, [tmp_path / "s"] * 2, range(2)))
    store = Store(tmp_path / "s")
    assert store.count() == 602
    order = np.random.default_rng(1).permutation(301)
    for view in range(2):
        assert np.array_equal(store.read(order, np.full(301, view)), LOGITS[view][order])
    mixed = order % 2
    assert np.array_equal(store.read(order, mixed), LOGITS[mixed, order])


def test_rows_of_another_process_are_ignored(tmp_path):
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=[1])
    write(store, np.arange(301), 0)
    assert store.count() == 151
    assert store.present(np.array([0, 150, 300]), np.zeros(3, np.int64)).tolist() == [0, 1, 1]
    with pytest.raises(TargetsError, match="no soft targets of sample 7 in view 0"):
        store.read(np.array([300, 7]), np.zeros(2, np.int64))
    with pytest.raises(TargetsError, match="no soft targets of sample 300 in view 1"):
        store.read(np.array([300]), np.ones(1, np.int64))
    store.close()


def test_making_it_twice_changes_nothing(tmp_path):
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=None)
    write(store, np.arange(9), 0)
    store.sync()
    store.close()
    create_store(tmp_path / "s", HEADER)
    assert Store(tmp_path / "s").count() == 9
    other = Header(301, 2, 5, Sampled(3), {"teacher": "u"}, shards=2)
    with pytest.raises(TargetsError, match=r"differ in encoding .* and teacher"):
        create_store(tmp_path / "s", other)


def test_other_contents_are_refused_half_a_store_is_remade(tmp_path):
    create_store(tmp_path / "s", HEADER)
    (tmp_path / "s" / "header.json").unlink()  # killed before the header was written
    (tmp_path / "s" / "rows-00001.bin").write_bytes(b"half")
    create_store(tmp_path / "s", HEADER)
    assert Store(tmp_path / "s").count() == 0
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("x")
    with pytest.raises(TargetsError, match="is not empty and holds no store"):
        create_store(tmp_path / "else", HEADER)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PathRefused, match="is a file, not a folder"):
        create_store(tmp_path / "file", HEADER)


def test_without_locks_it_warns_and_is_filled(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(FrugalKDWarning, match="has no locks"):
        create_store(tmp_path / "s", HEADER)
    with pytest.warns(FrugalKDWarning, match="has no locks"):
        store = Store(tmp_path / "s", write=None)
    write_and_sync(store, np.arange(9), 0)
    store.close()
    assert Store(tmp_path / "s").count() == 9
    assert len(list((tmp_path / "s").iterdir())) == 5


def test_the_lock_is_of_a_file_open_for_writing(tmp_path, monkeypatch):
    """As NFS does, which refuses to lock what is open for reading alone."""
    flock = fcntl.flock

    def strict(file, how):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", strict)
    create_store(tmp_path / "s", HEADER)
    Store(tmp_path / "s", write=None).close()


def test_temporary_files_of_a_killed_process_do_not_matter(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".header.json.123.tmp").write_bytes(b"half")
    create_store(tmp_path / "s", HEADER)
    assert len(list((tmp_path / "s").iterdir())) == 5


def test_where_nothing_can_be_written(tmp_path, read_only):
    create_store(tmp_path / "s", HEADER)
    read_only(tmp_path)
    create_store(tmp_path / "s", HEADER)
    assert Store(tmp_path / "s").count() == 0
    with pytest.raises(TargetsError, match=r"^(?!.*\n).*/s lacks soft targets .*targets.folder$"):
        Store(tmp_path / "s", write=None)
    with pytest.raises(FrugalKDError, match=r"^(?!.*\n)cannot write .*/t: "):
        create_store(tmp_path / "t", HEADER)


def test_the_announced_space_is_allocated(tmp_path):
    create_store(tmp_path / "s", HEADER)
    sizes = [path.stat() for path in (tmp_path / "s").glob("*.bin")]
    assert sum(size.st_size for size in sizes) == HEADER.disk_bytes == 602 * 20 + 2 * 2 * 64
    assert all(size.st_blocks * 512 >= size.st_size for size in sizes)


def test_a_full_disk_is_an_error_before_any_row(tmp_path, monkeypatch):
    allocated = os.posix_fallocate

    def full(file, offset, size):
        if size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocated(file, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TargetsError, match=r"^(?!.*\n).*need 12.3 kB, .* are free"):
        create_store(tmp_path / "s", HEADER)
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_failing_disk_keeps_what_was_durable(tmp_path, monkeypatch, call):
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=None)
    write(store, np.arange(9), 0)
    store.sync()

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing)
        with pytest.raises(WriteFailed, match=r"^(?!.*\n)cannot write .*Input/output error"):
            write_and_sync(store, np.arange(9, 20), 0)
    store.close()
    again = Store(tmp_path / "s")
    assert again.count() == 9
    assert np.array_equal(again.read(np.arange(9), np.zeros(9, np.int64)), LOGITS[0][:9])


def test_what_cannot_be_stored_is_refused(tmp_path):
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=None)
    bad = LOGITS[0][:4].copy()
    bad[2, 1] = np.nan
    with pytest.raises(TargetsError, match="for samples 12 are not finite: check"):
        store.write(np.arange(10, 14), np.zeros(4, np.int64), bad)
    with pytest.raises(TargetsError, match=r"4 classes .* holds 5"):
        store.write(np.arange(3), np.zeros(3, np.int64), LOGITS[0][:3, :4])
    assert store.count() == 0
    store.close()


def test_damage_to_any_file_is_found(tmp_path):
    fill_shard(tmp_path / "s", 0)
    fill_shard(tmp_path / "s", 1)
    for path in sorted((tmp_path / "s").iterdir()):
        shutil.copytree(tmp_path / "s", tmp_path / "d")
        damaged = bytearray(path.read_bytes())
        damaged[3] ^= 64
        (tmp_path / "d" / path.name).write_bytes(damaged)
        with pytest.raises(TargetsError, match=r"^(?!.*\n)"):
            Store(tmp_path / "d").read(np.arange(301), np.zeros(301, np.int64))
        shutil.rmtree(tmp_path / "d")
