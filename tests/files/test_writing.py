"""Failing writes, as the system says them."""

from __future__ import annotations

import errno
import os

import pytest

from frugalkd.errors import WriteFailed
from frugalkd.files.writing import make_folder, writing


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "another disk"),
        (errno.EACCES, "ask for the right"),
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
