"""A run folder holds one run, one process uses it at a time, and damaged files are refused."""

from __future__ import annotations

import errno
import json
import os
import re

import pytest

from frugalkd.cli import main
from frugalkd.errors import RunFolderError, WriteFailed
from frugalkd.experiments.comparison import compare
from frugalkd.experiments.comparison.plan import Job, Key
from frugalkd.experiments.comparison.pool import execute
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.folder import RunFolder, read_metrics, read_results
from frugalkd.files.lock import FILE, Lock
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import write_json

BUSY = rf"another process \({os.getpid()}\) is at work in "


@pytest.fixture(scope="module")
def tiny():
    return override(
        load_recipe("digits"),
        {
            "data.train_size": 100,
            "teacher.model": {"name": "mlp", "options": {"hidden": [8]}},
            "teacher.training.epochs": 2,
            "student.model": {"name": "mlp", "options": {"hidden": [8]}},
            "student.training.epochs": 2,
        },
    )


def checkpoint(folder):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "epoch-00000.safetensors").touch()


def test_a_folder_in_use_is_refused_everywhere(tiny, tmp_path, capsys):
    out, teacher = tmp_path / "out", tmp_path / "teacher"
    teach(tiny, teacher)
    out.mkdir()
    lock = Lock(out)
    with pytest.raises(RunFolderError, match=BUSY):
        teach(tiny, out)
    with pytest.raises(RunFolderError, match=BUSY):
        distill(tiny, out, teacher=teacher, resume=True)
    job = Job(Key("teach", "out", 0), "0" * 64, out, lambda _: tiny)
    assert BUSY.replace("\\", "") in execute(job.task(tmp_path, tiny))["error"]
    with pytest.raises(RunFolderError, match=BUSY):
        compare(tiny, arms=["ce"], seeds=1, out=out)
    assert main(["teach", "digits", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "is at work in" in said
    assert said.count("\n") == 1
    assert [path.name for path in out.iterdir()] == [FILE]
    lock.release()
    teach(tiny, out)
    assert not (out / FILE).exists()


def test_the_lock_is_held_to_the_end_and_no_longer(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=False)
        with pytest.raises(RunFolderError, match="another process"):
            Lock(tmp_path)
        folder.finish({"schema": 1, "history": []})
        with pytest.raises(RunFolderError, match="another process"):
            Lock(tmp_path)
    Lock(tmp_path).release()


def test_the_lock_goes_with_an_exception(tmp_path):
    def stop():
        raise KeyboardInterrupt

    def run():
        with RunFolder(tmp_path / "b") as folder:
            folder.begin("d", {}, "teach", resume=False)
            stop()

    with pytest.raises(KeyboardInterrupt):
        run()
    Lock(tmp_path / "b").release()


def test_a_finished_run_can_be_read_while_locked(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=False)
        folder.finish({"schema": 1, "history": []})
    lock = Lock(tmp_path)
    with RunFolder(tmp_path) as folder:
        assert folder.begin("d", {}, "teach", resume=False) == {"schema": 1, "history": []}
    lock.release()


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".run.json.123.tmp").touch()
    (tmp_path / FILE).touch()
    checkpoint(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 1, "kind": "teach", "digest": "d"}')
    (tmp_path / "checkpoints" / ".epoch-00001.safetensors.123.tmp").touch()
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=True)
        folder.finish({"schema": 1, "history": []})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "run.json"]


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoints", "lock-alone"])
def test_a_finished_run_removes_what_a_kill_left(tmp_path, kept):
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=False)
        folder.finish({"schema": 1, "history": []})
    (tmp_path / FILE).touch()
    if kept:
        checkpoint(tmp_path)
    with RunFolder(tmp_path) as folder:
        assert folder.begin("d", {}, "teach", resume=True) == {"schema": 1, "history": []}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "run.json"]


def test_only_temporary_files_before_the_first_run(tmp_path):
    (tmp_path / ".run.json.123.tmp").touch()
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.png").touch()
    (tmp_path / "b" / ".photo.png.1.tmp").touch()
    with pytest.raises(RunFolderError, match="holds no run"), RunFolder(tmp_path / "b") as folder:
        folder.begin("d", {}, "teach", resume=False)
    assert sorted(os.listdir(tmp_path / "b")) == [".photo.png.1.tmp", "photo.png"]


def test_a_record_lost_after_a_checkpoint_is_written_again(tmp_path):
    records = [{"epoch": epoch, "loss": 0.1} for epoch in range(3)]
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=False)
        for record in records[:1]:
            folder.append_metrics(record)
    checkpoint(tmp_path)
    with RunFolder(tmp_path) as folder:
        folder.begin("d", {}, "teach", resume=True)
        folder.append_metrics(records[2])
        folder.finish({"schema": 1, "history": records})
    assert read_metrics(tmp_path) == records


def test_a_failing_disk_is_one_line_with_advice(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def run():
        with RunFolder(tmp_path) as folder:
            folder.begin("d", {}, "teach", resume=False)
            monkeypatch.setattr(os, "fsync", full)
            folder.append_metrics({"epoch": 0})

    with pytest.raises(WriteFailed, match=r"metrics.jsonl: No space left .*free some space"):
        run()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"5",
        b'{"schema": 2}',
        b'{"schema": 1, "x": NaN}',
        b'{"schema": 1, "x": 1e999}',
        b'{"schema": 1, "x": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"schema": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"schema": 1, "x": [' + b"{}," * 1_000_000 + b"1]}",
    ],
    ids=lambda text: text[:30].decode("latin1"),
)
def test_damaged_json_is_one_line(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(RunFolderError) as caught:
        read_results(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert re.search(r"[:;] (delete the folder and run|install a newer)", str(caught.value))


@pytest.mark.parametrize("text", [b"{", b"5\n", b'{"epoch": "a"}\n', b'{"epoch": 1}, {"epoch": 2}'])
def test_damaged_metrics_are_one_line(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_bytes(text)
    with pytest.raises(RunFolderError, match=r"metrics.jsonl is damaged .*delete it"):
        read_metrics(tmp_path)


def test_whole_files_come_back(tmp_path):
    value = {"schema": 1, "text": "é😀\n", "list": [1, 2.5, None, True], "empty": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert read_metrics(tmp_path) == []
    lines = [{"epoch": 0, "x": "]["}, {"epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_metrics(tmp_path) == lines


@pytest.mark.parametrize("seconds", [None, "x", [], 10**400])
def test_damaged_notes_are_one_line(tmp_path, seconds):
    folder = RunFolder(tmp_path)
    folder.note(queries_of={"teacher": 1}, seconds=2.0, teacher_seconds=1.0)
    noted = json.loads((tmp_path / "notes.json").read_text())
    (tmp_path / "notes.json").write_text(json.dumps({**noted, "seconds": seconds}))
    with pytest.raises(RunFolderError, match=r"notes.json is damaged: delete it"):
        folder.notes()
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"not JSON .*; delete it; costs before a stop"):
        folder.notes()
