"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

from frugalkd.files.cache import cache_root


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "link" / "own"))
    assert cache_root() == tmp_path / "own"  # naming a link is consent
    monkeypatch.setenv("FRUGALKD_CACHE", "")
    assert cache_root() is None


def test_else_it_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("FRUGALKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "frugalkd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "frugalkd"

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_root() is None
    assert not (tmp_path / ".cache").exists()
