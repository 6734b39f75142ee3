"""A shard: bits after rows, checksums, and a stop at any moment."""

from __future__ import annotations

import errno
import os
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.teachers.encodings import Dense
from frugalkd.teachers.store import Header, Shard, allocate_shard

HEADER = Header(300, 2, 3, Dense("float32"), {})


@pytest.fixture
def folder(tmp_path):
    allocate_shard(tmp_path, 0, HEADER)
    return tmp_path


def content(rows):
    stream = np.random.default_rng(0).integers(0, 256, (600, 12), dtype=np.uint8)
    return stream[np.asarray(rows)]


def rows(*some):
    return np.array(some, dtype=np.int64)


def test_rows_are_readable_once_written_and_durable_once_synced(folder):
    shard = Shard(folder, 0, HEADER, write=True)
    some = rows(599, 0, 1, 2, 77)
    assert shard.count() == 0
    shard.write(some, content(some))
    assert (shard.count(), shard.pending) == (5, 5)
    assert np.array_equal(shard.read(some), content(some))
    assert shard.present(rows(0, 3, 599)).tolist() == [True, False, True]
    # Not durable yet: another reader does not see them.
    assert Shard(folder, 0, HEADER).count() == 0
    shard.sync()
    assert shard.pending == 0
    other = Shard(folder, 0, HEADER)
    assert other.count() == 5
    assert np.array_equal(other.read(some), content(some))
    shard.close()
    assert np.array_equal(shard.read(some), content(some))


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 599), min_size=1, max_size=40), max_size=5), st.data())
def test_any_order_of_writes_syncs_and_stops(tmp_path_factory, batches, data):
    folder = tmp_path_factory.mktemp("shard")
    allocate_shard(folder, 0, HEADER)
    durable, known = set(), set()
    shard = Shard(folder, 0, HEADER, write=True)
    for batch in batches:
        some = rows(*(row for row in dict.fromkeys(batch) if row not in known))
        if len(some):
            shard.write(some, content(some))
            known |= set(some.tolist())
        what = data.draw(st.sampled_from(["sync", "stop", "continue"]))
        if what == "sync":
            shard.sync()
            durable = set(known)
        elif what == "stop":
            shard.close()
            shard = Shard(folder, 0, HEADER, write=True)
            known = set(durable)
        there = np.flatnonzero(shard.present(np.arange(600)))
        assert set(there.tolist()) == known
        assert np.array_equal(shard.read(there), content(there))
    shard.close()


def test_the_rows_are_synced_before_the_bits(folder, monkeypatch):
    shard = Shard(folder, 0, HEADER, write=True)
    done = []
    fsync, pwrite = os.fsync, os.pwrite
    names = {file: name for file, name in zip(shard._files, ("rows", "bits"), strict=True)}
    monkeypatch.setattr(os, "fsync", lambda f: (done.append(("sync", names[f])), fsync(f))[1])
    monkeypatch.setattr(
        os, "pwrite", lambda f, *a: (done.append(("write", names[f])), pwrite(f, *a))[1]
    )
    shard.write(rows(4, 5), content([4, 5]))
    shard.sync()
    shard.sync()
    assert done == [("write", "rows"), ("sync", "rows"), ("write", "bits"), ("sync", "bits")]
    shard.close()


def test_short_writes_are_continued(folder, monkeypatch):
    shard, pwrite = Shard(folder, 0, HEADER, write=True), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, at: pwrite(f, data[:5], at))
    shard.write(np.arange(600), content(np.arange(600)))
    shard.sync()
    shard.close()
    assert np.array_equal(Shard(folder, 0, HEADER).read(np.arange(600)), content(np.arange(600)))


def test_one_process_writes_at_a_time(folder):
    one = Shard(folder, 0, HEADER, write=True)
    with pytest.raises(TargetsError, match="another process is filling"):
        Shard(folder, 0, HEADER, write=True)
    Shard(folder, 0, HEADER)
    one.close()
    Shard(folder, 0, HEADER, write=True).close()


def filled(folder):
    shard = Shard(folder, 0, HEADER, write=True)
    some = np.arange(0, 600, 2)
    shard.write(some, content(some))
    shard.sync()
    shard.close()
    return some


def repaired(folder, **settings):
    """The shard, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrugalKDWarning)
        shard = Shard(folder, 0, HEADER, **settings)
        for block in range(3):
            with suppress(TargetsError):
                shard._check(rows(block * 256))
    return shard


def states(folder, *fills):
    """The presence file after each of ``fills``."""
    found = [(folder / "presence-00000.bin").read_bytes()]
    for some in fills:
        shard = Shard(folder, 0, HEADER, write=True)
        shard.write(some, content(some))
        shard.sync()
        shard.close()
        found.append((folder / "presence-00000.bin").read_bytes())
    return found


@pytest.mark.parametrize("new_first", [True, False])
@pytest.mark.parametrize("cut", [1, 13, 32, 34])
@pytest.mark.parametrize("fills", [(300,), (100, 300), (301, 600)])
def test_a_torn_record_is_repaired_or_refused_and_never_wrong(folder, fills, cut, new_first):
    """The first block's record is half an old one, half a new one."""
    edges = [0, *fills]
    old, new = states(folder, *map(np.arange, edges[:-1], edges[1:]))[-2:]
    for block in range(3):
        first, last = (new, old) if new_first else (old, new)
        place = 64 * block
        torn = new[:place] + first[place:][:cut] + last[place + cut :][: 64 - cut]
        (folder / "presence-00000.bin").write_bytes(torn + new[place + 64 :])
        shard = repaired(folder, write=True)
        for row in range(0, 600, 7):
            if shard.present(rows(row))[0]:
                with suppress(TargetsError):
                    assert np.array_equal(shard.read(rows(row)), content([row]))
                    assert row < fills[-1]
        if len(fills) == 1 and cut <= 32:  # torn when it was first written: all is filled again
            missing = np.flatnonzero(~shard.present(np.arange(600)))
            shard.write(missing, content(missing))
            shard.sync()
            assert np.array_equal(repaired(folder).read(np.arange(600)), content(np.arange(600)))
        shard.close()


def tear(folder, old, new, cut):
    (folder / "presence-00000.bin").write_bytes(new[:cut] + old[cut:64] + new[64:])


def test_a_record_torn_when_first_written_is_discarded(folder):
    old, new = states(folder, np.arange(300))
    tear(folder, old, new, 20)
    with pytest.warns(FrugalKDWarning, match=r"presence-00000.bin was torn at rows 0 .. 255: its"):
        shard = Shard(folder, 0, HEADER, write=True)
    assert np.flatnonzero(shard.present(np.arange(600))).tolist() == list(range(256, 300))
    shard.write(np.arange(256), content(np.arange(256)))
    shard.sync()
    shard.close()
    assert (folder / "presence-00000.bin").read_bytes() == new


def test_a_record_whose_checksum_came_first_is_complete(folder):
    _, old, new = states(folder, np.arange(100), np.arange(100, 200))
    (folder / "presence-00000.bin").write_bytes(old[:20] + new[20:])
    shard = Shard(folder, 0, HEADER)
    with pytest.warns(FrugalKDWarning, match="its checksum says which of them are there"):
        assert np.array_equal(shard.read(rows(3, 99)), content([3, 99]))
    assert shard.count() == 200
    assert np.array_equal(shard.read(np.arange(200)), content(np.arange(200)))


def test_a_record_whose_bits_came_first_is_what_it_was(folder):
    _, old, new = states(folder, np.arange(100), np.arange(100, 200))
    tear(folder, old, new, 32)
    with pytest.raises(TargetsError, match=r"checksum of rows 0 .. 255 is wrong; delete"):
        Shard(folder, 0, HEADER).read(rows(3))
    shard = Shard(folder, 0, HEADER, write=True)
    with pytest.warns(FrugalKDWarning, match="its checksum says which of them are there"):
        shard.write(rows(250), content([250]))
    assert np.flatnonzero(shard.present(np.arange(600))).tolist() == [*range(100), 250]
    with pytest.raises(TargetsError, match="lacks rows: run the same command again"):
        shard.read(rows(150))
    shard.sync()
    shard.close()
    assert Shard(folder, 0, HEADER).count() == 101


@settings(max_examples=50)
@given(st.data())
def test_a_flipped_bit_is_found_or_does_not_matter(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("shard")
    allocate_shard(folder, 0, HEADER)
    some = filled(folder)
    path = data.draw(st.sampled_from(sorted(folder.glob("*.bin"))))
    damaged = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        shard = repaired(folder)
        there = some[shard.present(some)]
        assert np.array_equal(shard.read(there), content(there))
        for block in range(3):  # a writer finds the damage too
            shard._check(rows(block * 256))
        assert np.array_equal(there, some)
    except TargetsError as error:
        assert "checksum" in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize("which", ["rows-00000.bin", "presence-00000.bin"])
def test_a_file_of_another_size_is_refused(folder, which):
    filled(folder)
    whole = (folder / which).read_bytes()
    for wrong in (whole[:-1], whole + b"\0", b""):
        (folder / which).write_bytes(wrong)
        with pytest.raises(
            TargetsError, match=rf"^(?!.*\n).*{which} is damaged: {len(wrong)} bytes"
        ):
            Shard(folder, 0, HEADER)
    (folder / which).unlink()
    with pytest.raises(TargetsError, match="is missing"):
        Shard(folder, 0, HEADER)


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        allocate_shard(tmp_path, 0, HEADER)
    assert not list(tmp_path.iterdir())
