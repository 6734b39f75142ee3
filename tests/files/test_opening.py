"""frugalkd's files are opened through no link, whatever stands in their place."""

from __future__ import annotations

import os
import stat

import pytest

from frugalkd.errors import PathRefused, WriteFailed
from frugalkd.files import opening, writing
from frugalkd.files.lock import FILE, Lock
from frugalkd.files.opening import (
    list_folder,
    named,
    named_file,
    open_file,
    open_new,
    refuse_ways_out,
    remove,
    remove_folder,
)
from frugalkd.files.parsing import header_bytes, read_bounded
from frugalkd.files.writing import allocate, make_folder, sweep, write_atomic, write_json
from planting import KINDS, nothing_is_written_outside, refusal, snapshot, within

each_kind = pytest.mark.parametrize("kind", KINDS)


def overwritten(path):
    file = open_file(path, write=True)
    os.pwrite(file, b"ours", 0)
    os.close(file)


def made_again(path):
    file = open_new(path)
    os.write(file, b"ours")
    os.close(file)


def held(path):
    with Lock(path.parent):
        assert path.name == FILE


def removed(path):
    remove(path)
    path.write_bytes(b"ours")


WRITERS = {
    "write_atomic": lambda path: write_atomic(path, b"ours"),
    "write_json": lambda path: write_json(path, {"ours": 1}),
    "allocate": lambda path: allocate(path, 1000),
    "open_file": overwritten,
    "open_new": made_again,
    "Lock": held,
    "remove": removed,
}


@each_kind
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_refuses_it_or_replaces_it(tmp_path, writer, kind):
    sound, name = tmp_path / "sound", FILE if writer == "Lock" else "file"
    (sound / "inner").mkdir(parents=True)
    (sound / "inner" / name).write_bytes(b"sound")

    def act(copy):
        path = named(copy) / "inner" / name
        before = stat.S_IFMT(path.parent.lstat().st_mode) if path.parent.exists() else 0
        try:
            said = refusal(WRITERS[writer], path)
        except OSError:
            assert writer in ("open_file", "open_new", "allocate", "remove"), "the bare ones"
            return
        if said is None:
            assert stat.S_ISDIR(before), "written behind a link"
            assert writer == "Lock" or path.is_file()
            assert not path.is_symlink()

    assert nothing_is_written_outside(sound, act, kind, tmp_path) >= 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("link", "is a symbolic link"),
        ("dangling link", "is a symbolic link"),
        ("pipe", "is a named pipe"),
        ("folder", "is a folder"),
    ],
)
def test_the_error_names_what_stands_there_and_what_to_do(tmp_path, kind, said):
    sound = tmp_path / "sound"
    sound.mkdir()
    (sound / "file").touch()

    def act(copy):
        with pytest.raises(PathRefused, match=rf"^\S*/file {said}, .*: delete it, or name") as info:
            write_atomic(named(copy) / "file", b"")
        assert isinstance(info.value, WriteFailed)

    assert nothing_is_written_outside(sound, act, kind, tmp_path) == 1


def test_a_hard_link_is_replaced_never_written_in_place(tmp_path):
    (tmp_path / "users").write_bytes(b"the user's")
    (tmp_path / "file").hardlink_to(tmp_path / "users")
    with pytest.raises(PathRefused, match=r"file is one of several names of a file \(hard links\)"):
        open_file(tmp_path / "file", write=True)
    os.close(open_file(tmp_path / "file"))
    write_atomic(tmp_path / "file", b"ours")
    assert (tmp_path / "users").read_bytes() == b"the user's"
    assert (tmp_path / "file").read_bytes() == b"ours"


def test_a_folder_within_is_no_link(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    for folder in (outside / "below", run):
        folder.mkdir(parents=True)
    for name in ("epoch-1", ".a.1.tmp", "below/file"):
        (outside / name).write_bytes(b"the user's")
    (run / "inner").symlink_to(outside)
    before, inner = snapshot(outside), named(run) / "inner"
    for act in (
        lambda: make_folder(inner),
        lambda: make_folder(inner / "new/newer"),
        lambda: write_atomic(inner / "epoch-1", b""),
        lambda: allocate(inner / "new", 10),
        lambda: open_file(inner / "epoch-1"),
        lambda: list_folder(inner),
        lambda: remove(inner / "epoch-1"),
        lambda: remove_folder(inner / "below"),
        lambda: refuse_ways_out(inner),
        lambda: refuse_ways_out(inner / "below"),
        lambda: Lock(inner),
    ):
        with pytest.raises(PathRefused, match=r"run/inner is a symbolic link"):
            act()
    sweep(inner)
    assert snapshot(outside) == before


def test_a_folder_that_the_user_names_may_be_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert named(tmp_path / "real/new") == tmp_path / "real/new"
    assert named(tmp_path / "link/new") == tmp_path / "real/new"
    assert named(str(tmp_path / "link")) == tmp_path / "real"
    assert named(named(tmp_path / "real") / "x") == tmp_path / "real/x"
    make_folder(named(tmp_path / "link/new"))
    write_atomic(named_file(tmp_path / "link/new/file"), b"ours")
    assert (tmp_path / "real/new/file").read_bytes() == b"ours"
    monkeypatch.chdir(tmp_path)
    assert str(named("real/new")) == "real/new"
    assert str(named_file("file.csv")) == "file.csv"
    (tmp_path / "real/inner").symlink_to(tmp_path)
    assert named(named(tmp_path / "real") / "inner") == tmp_path / "real/inner", "not followed"
    with pytest.raises(PathRefused, match="link is a symbolic link"):
        write_atomic(tmp_path / "link/file", b"")  # a path that went through no named()


def test_a_link_made_between_check_and_write_leads_nowhere(tmp_path, monkeypatch):
    (tmp_path / "users").write_bytes(b"the user's")
    check = opening.refuse_irregular

    def late(path, folder):
        check(path, folder)
        path.symlink_to(tmp_path / "users")

    for module in (opening, writing):
        monkeypatch.setattr(module, "refuse_irregular", late)
    for act in (
        lambda path: write_atomic(path, b"ours"),
        lambda path: Lock(path.parent),
        lambda path: os.close(open_new(path)),
    ):
        folder = tmp_path / "run"
        folder.mkdir()
        assert "symbolic link" in (refusal(act, folder / FILE) or "a symbolic link, replaced")
        assert (tmp_path / "users").read_bytes() == b"the user's"
        (folder / FILE).unlink(missing_ok=True)
        folder.rmdir()


def test_an_open_folder_that_becomes_a_link_leads_nowhere(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (run, outside):
        folder.mkdir()
    with opening.entered(run) as folder:
        run.rename(tmp_path / "moved")
        run.symlink_to(outside)
        os.close(opening.new_in(folder, "file"))
    assert list(outside.iterdir()) == []
    assert (tmp_path / "moved/file").exists()


def test_names_that_are_written_aside_cannot_be_foretold(tmp_path, monkeypatch):
    (tmp_path / "users").write_bytes(b"the user's")
    for process in (os.getpid(), 1):
        (tmp_path / f".file.{process}.tmp").symlink_to(tmp_path / "users")
    write_atomic(tmp_path / "file", b"ours")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda size: "1")
    with pytest.raises(WriteFailed, match="File exists"):
        write_atomic(tmp_path / "file", b"more")
    assert (tmp_path / "users").read_bytes() == b"the user's"
    assert (tmp_path / "file").read_bytes() == b"ours"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for act in (header_bytes, lambda path: read_bounded(path, 10), open_file):
        with within(5), pytest.raises(OSError, match=r"not a regular file|a named pipe"):
            act(tmp_path / "pipe")


def test_what_a_library_writes_to_has_no_way_out(tmp_path):
    folder, users = tmp_path / "tensorboard", tmp_path / "users"
    users.write_bytes(b"the user's")
    refuse_ways_out(folder)
    (folder / "run").mkdir(parents=True)
    (folder / "events").touch()
    (folder / "latest").symlink_to("run")  # as wandb makes it
    refuse_ways_out(folder)
    (folder / "events").unlink()
    for plant in (folder / "events").symlink_to, (folder / "events").hardlink_to:
        plant(users)
        with pytest.raises(PathRefused, match="events is "):
            refuse_ways_out(folder)
        (folder / "events").unlink()
