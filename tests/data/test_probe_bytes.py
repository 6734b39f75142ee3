"""Which bytes enter a digest, and when files are read again."""

from __future__ import annotations

import hashlib
import os
import time

import numpy as np
import pytest
import torch

from frugalkd.data import probe
from frugalkd.data.probe import feed, files_digest, leaves, spans
from frugalkd.errors import DataError

NAMES = ["a", "b/c", "d"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]) * 1000)
    return tmp_path


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("most", [1, 2, 3, 64, 100, 1000])
def test_spans_lie_apart_from_the_begin_to_the_end(size, most):
    found = spans(size, most, block=16)
    assert (found[0][0], sum(found[-1])) == (0, size)
    ends = [start + length for start, length in found]
    assert all(end <= start for end, (start, _) in zip(ends, found[1:], strict=False))
    assert sum(length for _, length in found) <= max(most, 2)
    if size <= most:
        assert found == [(0, size)]


def test_feed_says_how_long_a_piece_is():
    def of(*pieces, most=100):
        digest = hashlib.sha256()
        for piece in pieces:
            feed(digest, piece, most)
        return digest.hexdigest()

    assert of(b"ab", b"c") != of(b"a", b"bc")
    assert of(bytes(1000), most=10) != of(bytes(1001), most=10)
    assert of(bytes(999) + b"1", most=10) != of(bytes(1000), most=10)


def test_names_sizes_and_bytes_of_files_matter(folder):
    one = files_digest(str(folder), NAMES)
    assert one == files_digest(str(folder), NAMES)
    assert one != files_digest(str(folder), NAMES[::-1])
    (folder / "b" / "c").rename(folder / "c")
    assert one != files_digest(str(folder), ["a", "c", "d"])
    (folder / "c").rename(folder / "b" / "c")
    assert one == files_digest(str(folder), NAMES)
    (folder / "d").write_bytes(bytes([2]) * 999 + b"\0")
    assert one != files_digest(str(folder), NAMES)


def test_a_folder_may_lie_elsewhere(folder, tmp_path_factory):
    one = files_digest(str(folder), NAMES)
    there = tmp_path_factory.mktemp("there") / "x"
    folder.rename(there)
    assert files_digest(str(there), NAMES) == one


def test_files_are_read_again_where_size_or_times_say_so(folder, monkeypatch):
    read = []
    feed_file = probe.feed_file
    monkeypatch.setattr(probe, "feed_file", lambda *said: read.append(said[2]) or feed_file(*said))
    one = files_digest(str(folder), NAMES)
    files_digest(str(folder), NAMES)
    assert read == NAMES * 2  # their times are too recent
    clock = time.time_ns
    monkeypatch.setattr(probe.time, "time_ns", lambda: clock() + 60 * 10**9)
    files_digest(str(folder), NAMES)
    read.clear()
    assert files_digest(str(folder), NAMES) == one
    assert not read
    about = os.stat(folder / "d")
    (folder / "d").write_bytes(b"x" * 1000)
    os.utime(folder / "d", ns=(about.st_atime_ns, about.st_mtime_ns))  # as cp -p, rsync -a do
    assert files_digest(str(folder), NAMES) != one


def test_of_many_bytes_each_file_has_its_share(folder, monkeypatch):
    monkeypatch.setattr(probe, "WHOLE", 300)
    one = files_digest(str(folder), NAMES)
    for place, seen in ((0, True), (999, True), (500, False)):
        content = bytearray(bytes([2]) * 1000)
        content[place] = 9
        (folder / "d").write_bytes(content)
        assert (files_digest(str(folder), NAMES) != one) == seen, place
    (folder / "d").write_bytes(bytes([2]) * 1001)
    assert files_digest(str(folder), NAMES) != one


def test_what_cannot_be_read_is_named(folder, monkeypatch):
    with pytest.raises(DataError, match=r"e\?f cannot be read: No such file"):
        files_digest(str(folder), ["a", "e\nf".replace("\n", "\x1b")])
    with pytest.raises(DataError, match="d cannot be read: it changes while"):
        probe.feed_file(hashlib.sha256(), str(folder), "d", 999, 2000)


ODD = {
    "empty": torch.zeros(0, 3),
    "number": torch.tensor(3),
    "turned": torch.arange(6).reshape(2, 3).T,
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "float8": torch.ones(2).to(torch.float8_e4m3fn),
    "sparse": torch.eye(2).to_sparse(),
    "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
    "records": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "words": np.array(["a", "bc"]),
    "time": np.datetime64("2020-01-01"),
}


@pytest.mark.parametrize("name", ODD)
def test_arrays_of_every_kind_have_bytes(name):
    _, content = leaves(ODD[name])
    value = ODD[name].to_dense() if name == "sparse" else ODD[name]
    assert len(content) == value.nbytes
    assert content == list(leaves(ODD[name]))[1]


def test_an_object_counts_by_its_text_without_its_address():
    assert list(leaves(object())) == list(leaves(object()))
    assert list(leaves({"b", "a"})) == list(leaves({"a", "b"}))
