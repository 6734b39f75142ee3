"""Files are replaced whole or not at all, and a failing write says what to do."""

from __future__ import annotations

import errno
import json
import os

import pytest

from frugalkd.errors import WriteFailed
from frugalkd.files.writing import (
    allocate,
    make_folder,
    write_at,
    write_atomic,
    write_json,
    writing,
)


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        write_atomic(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_readable_and_strict(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "x"})
    assert json.loads(path.read_text()) == {"b": [1, 2.5, None], "a": "x"}
    assert path.read_text().startswith('{\n  "b"')
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text())["a"] == "x"


def test_allocated_space_is_zero_and_takes_room(tmp_path):
    allocate(tmp_path / "a", 3 << 20)
    found = (tmp_path / "a").stat()
    assert found.st_size == 3 << 20
    assert found.st_blocks * 512 >= 3 << 20
    assert not any((tmp_path / "a").read_bytes())


def test_without_fallocate_zeros_are_written(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    allocate(tmp_path / "a", (1 << 20) + 7)
    assert (tmp_path / "a").stat().st_size == (1 << 20) + 7


def test_short_writes_are_continued(tmp_path, monkeypatch):
    allocate(tmp_path / "a", 10)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:2], at))
    file = os.open(tmp_path / "a", os.O_RDWR)
    write_at(file, b"hello", 3)
    os.close(file)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0hello\0\0"


def test_the_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "aside", b"")
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "aside")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "another disk"),
        (errno.EACCES, "get permission"),
        (errno.EIO, "the disk fails"),
        (errno.ENAMETOOLONG, "name another folder"),
    ],
)
def test_a_failing_write_names_the_file_and_what_to_do(code, advice):
    with pytest.raises(WriteFailed) as caught, writing("some/file"):
        raise OSError(code, os.strerror(code), "some/.file.1.tmp")
    assert str(caught.value).startswith(f"cannot write some/file: {os.strerror(code)}: ")
    assert advice in str(caught.value)
    assert caught.value.errno == code


def test_the_innermost_file_is_named():
    with pytest.raises(WriteFailed, match="cannot write inner"), writing("outer"), writing("inner"):
        raise OSError(errno.ENOSPC, "full")


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match=r"/file is a file, not a folder: name another folder"):
        make_folder(tmp_path / "file/below")
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    with pytest.raises(WriteFailed, match=r"/file is a file, not a folder"):
        make_folder(tmp_path / "file")
