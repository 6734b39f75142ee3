"""A header is read back as it was written, or refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import TargetsError
from frugalkd.teachers.encodings import Dense, Sampled, TopK
from frugalkd.teachers.store import FILE, Header, read_header, shard_of, write_header

HEADER = Header(700, 3, 10, TopK(4), {"teacher": "t", "data set": "d"}, shards=3)


def test_it_comes_back(tmp_path):
    write_header(tmp_path, HEADER)
    assert read_header(tmp_path) == HEADER
    said = json.loads((tmp_path / FILE).read_text())
    assert said["schema"] == 2
    assert said["encoding"] == {"name": "top-k", "k": 4, "temperature": 4.0}


def test_sizes():
    header = Header(1000, 2, 10, Dense("float16"), {})
    assert header.record.itemsize == 20
    assert header.file_bytes(0) == (40_000, 8 * 64)
    assert header.disk_bytes == 40_512
    assert sum(HEADER.file_bytes(shard)[0] for shard in range(3)) == 2100 * HEADER.record.itemsize


@given(st.integers(1, 40), st.data())
def test_each_sample_has_one_shard(samples, data):
    shards = data.draw(st.integers(1, samples))
    header = Header(samples, 1, 2, Dense(), {}, shards)
    for sample in range(samples):
        shard = int(shard_of(sample, samples, shards))  # pyright: ignore[reportArgumentType]
        first, end = header.samples_of(shard)
        assert first <= sample < end


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": 701}, r"differ in samples \(700 there, 701 here\)"),
        ({"views": 2}, r"differ in views \(3 there, 2 here\)"),
        ({"classes": 11}, r"differ in classes \(10 there, 11 here\)"),
        ({"encoding": TopK(5)}, r"differ in encoding \(top-k 4 4.0 there, top-k 5 4.0 here\)"),
        ({"encoding": Sampled(4)}, "differ in encoding"),
        ({"shards": 1}, "differ in shards"),
        ({"about": {"teacher": "x", "data set": "d"}}, "differ in teacher:"),
        ({"about": {"teacher": "t", "data set": "d", "augmentation": "a"}}, "in augmentation:"),
        ({"about": {"teacher": "x", "data set": "y"}}, "differ in data set and teacher"),
    ],
)
def test_another_header_is_refused_by_what_differs(tmp_path, change, named):
    HEADER.refuse_other(HEADER, tmp_path)
    with pytest.raises(TargetsError, match=rf"^(?!.*\n).*{named}"):
        HEADER.refuse_other(replace(HEADER, **change), tmp_path)


@pytest.mark.parametrize(
    "change", [{"samples": 0}, {"views": -1}, {"classes": 1 << 30}, {"shards": 701}, {"views": 1.0}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(TargetsError, match=r"^(?!.*\n)"):
        replace(HEADER, **change)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "no keys and values"),
        (b'{"format": "else", "schema": 2}', "not the header"),
        (b'{"format": "frugalkd-store", "schema": 3}', "from a newer"),
        (b'{"format": "frugalkd-store", "schema": 2}', "checksum"),
        (b'{"format": "frugalkd-store", "schema": 1}', "fill it again"),
    ],
)
def test_damage_is_one_line(tmp_path, content, named):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(TargetsError, match=rf"^(?!.*\n).*{named}"):
        read_header(tmp_path)


def test_a_missing_one_says_how_to_make_it(tmp_path, monkeypatch):
    with pytest.raises(TargetsError, match=r"No such file .*frugalkd store"):
        read_header(tmp_path)
    stat = Path.stat

    def refused(path, **more):
        if path.name == FILE:
            raise PermissionError(13, "Permission denied")
        return stat(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refused)
        with pytest.raises(TargetsError, match="Permission denied"):
            read_header(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TargetsError, match="is a file"):
        read_header(tmp_path / "file")


@settings(max_examples=50)
@given(st.data())
def test_no_flipped_byte_gives_another_header(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("header")
    write_header(folder, HEADER)
    content = bytearray((folder / FILE).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / FILE).write_bytes(content)
    try:
        assert read_header(folder) == HEADER  # white space does not matter
    except TargetsError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)
