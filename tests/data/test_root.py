from __future__ import annotations

from pathlib import Path

import pytest

from frugalkd.data import data_root
from frugalkd.data.root import located
from frugalkd.errors import DataError


def test_the_argument_comes_first_then_the_environment_then_shared_then_data(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("FRUGALKD_DATA", raising=False)
    assert data_root() == Path("data")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert data_root() == Path("../shared/data")
    monkeypatch.setenv("FRUGALKD_DATA", "elsewhere")
    assert data_root() == Path("elsewhere")
    assert data_root("mine") == Path("mine")


def test_located_says_where():
    with pytest.raises(DataError, match=r"^here: wrong$"), located("here"):
        raise DataError("wrong")
