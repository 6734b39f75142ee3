"""Whichever write, sync or rename fails: no part of a file is taken for a file, what was there
before is there still, and the run can be resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import CALLS, KINDS, SHORT, Faulty, Kind, failing

from frugalkd.errors import FrugalKDError, FrugalKDWarning, TargetsError, WriteFailed
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.folder import RunFolder, read_metrics, read_results
from frugalkd.experiments.runs.summary import read_summary
from frugalkd.files.parsing import read_json
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.ledger.ledger import Ledger
from frugalkd.teachers.encodings import Dense
from frugalkd.teachers.store import Header, Store, create_store
from toys import same_columns

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
HEADER = Header(300, 2, 3, Dense("float32"), {"teacher": "t"}, shards=2)
LOGITS = np.random.default_rng(0).standard_normal((2, 300, 3)).astype(np.float32)


def everywhere(kind: Kind, work: Callable[[], object]) -> Iterator[Faulty]:
    """``work`` on a disk whose n-th call fails, for every n: after each failure, the disk. Every
    failure is one typed line."""
    for place in range(1000):
        with failing(kind, place) as disk:
            said = failure(work)
        if len(disk.calls) <= place:
            assert said is None, "it failed by itself"
            assert place > 3, "nothing was written"
            return
        yield disk
    raise AssertionError("it never ends")


def failure(work: Callable[[], object]) -> str | None:
    """What ``work`` says where it fails, in one line."""
    try:
        work()
    except FrugalKDError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said


def ledger(epochs: int) -> Ledger:
    made = Ledger.new(50, labels=np.arange(50) % 3)
    made.columns["visits"][:] = epochs
    made.epochs = epochs
    return made


@each_kind
def test_a_ledger(tmp_path, kind):
    path = tmp_path / "ledger.safetensors"
    ledger(1).save(path)
    failed = 0
    for disk in everywhere(kind, lambda: ledger(2).save(path)):
        found = Ledger.load(path)
        renamed = disk.calls.count("replace") > (disk.calls[disk.fail_at] == "replace")
        assert same_columns(found, ledger(2 if renamed else 1))
        assert list(tmp_path.iterdir()) == [path]
        failed += 1
        ledger(1).save(path)
    # Made, the header and ten columns written, synced, renamed; the folder opened, synced.
    assert failed == 16
    assert same_columns(Ledger.load(path), ledger(2))


@each_kind
def test_a_checkpoint(tmp_path, kind):
    path = tmp_path / "c.safetensors"
    trees = [{"step": step, "weights": torch.full((300,), step)} for step in range(2)]
    save_tree(path, trees[0])
    for disk in everywhere(kind, lambda: save_tree(path, trees[1])):
        renamed = disk.calls.count("replace") > (disk.calls[disk.fail_at] == "replace")
        found = load_tree(path)
        assert found["step"] == renamed
        assert torch.equal(found["weights"], trees[renamed]["weights"])
        assert list(tmp_path.iterdir()) == [path]
        save_tree(path, trees[0])
    assert load_tree(path)["step"] == 1


@pytest.mark.heavy
@each_kind
def test_a_run_folder(tmp_path, kind):
    """run.json, metrics.jsonl and results.json, with a checkpoint as the engine leaves one."""
    records = [{"epoch": epoch, "loss": epoch / 3} for epoch in range(2)]
    results = {"schema": 1, "digest": "d", "history": records}
    out = tmp_path / "out"

    def run(resume: bool = False) -> None:
        with RunFolder(out) as folder:
            if folder.begin("d", {}, "teach", resume) is not None:
                return
            folder.checkpoints.mkdir(exist_ok=True)
            for record in records[len(list(folder.checkpoints.glob("*"))) :]:
                save_tree(folder.checkpoints / f"epoch-{record['epoch']}.safetensors", record)
                folder.append_metrics(record)
            folder.finish(results)

    for _ in everywhere(kind, lambda: [shutil.rmtree(out, ignore_errors=True), run()]):
        for name in ("results.json", "run.json"):
            if (out / name).exists():
                assert read_json(out / name)["schema"] == 1
        assert read_metrics(out) == records[: len(read_metrics(out))]
        if (out / "results.json").exists():
            assert read_results(out) == results
        run(resume=True)
        assert read_results(out) == results
        assert read_metrics(out) == records
        assert sorted(path.name for path in out.iterdir()) == [
            "metrics.jsonl",
            "results.json",
            "run.json",
        ]


def fill_store(folder: Path) -> None:
    """All that is missing, some rows at a time, synced now and then."""
    create_store(folder, HEADER)
    store = Store(folder, write=None)
    try:
        for view in range(2):
            for start in range(0, 300, 70):
                ids = np.arange(start, min(start + 70, 300))
                ids = ids[~store.present(ids, np.full(len(ids), view))]
                store.write(ids, np.full(len(ids), view), LOGITS[view][ids])
            store.sync()
    finally:
        try:
            store.sync()  # as a filler does on its way out
        except WriteFailed:
            pass
        finally:
            store.close()


@pytest.mark.heavy
@each_kind
def test_a_store(tmp_path, kind):
    """What is there is right and durable; what is not can be filled."""
    folder, failed = tmp_path / "store", 0
    for disk in everywhere(
        kind, lambda: [shutil.rmtree(folder, ignore_errors=True), fill_store(folder)]
    ):
        failed += 1
        check_store(folder)
        fill_store(folder)
        check_store(folder, whole=True)
        assert len(list(folder.iterdir())) == 5, disk.calls[disk.fail_at]
    assert failed > 40


def check_store(folder: Path, whole: bool = False) -> None:
    if not whole and not (folder / "header.json").exists():
        with pytest.raises(TargetsError, match="holds no stored soft targets"):
            Store(folder)
        return
    store = Store(folder)
    ids = np.arange(300)
    for view in range(2):
        there = ids[store.present(ids, np.full(300, view))]
        assert len(there) == 300 or not whole
        assert np.array_equal(store.read(there, np.full(len(there), view)), LOGITS[view][there])


def test_a_store_with_a_failed_sync_claims_no_lost_rows(tmp_path):
    """A second fsync succeeds although the first one lost the pages: the bits must not be set."""
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=None)
    ids = np.arange(150)
    store.write(ids, np.zeros(150, np.int64), LOGITS[0][:150])
    with failing(KINDS[2], 0) as disk, pytest.raises(WriteFailed, match="Input/output error"):
        store.sync()
    assert disk.calls == ["fsync"]
    store.sync()
    store.close()
    assert Store(tmp_path / "s").count() == 0


def test_nothing_is_read_from_half_a_record(tmp_path):
    """No disk tears a sector; where one does, that block is filled again."""
    create_store(tmp_path / "s", HEADER)
    store = Store(tmp_path / "s", write=None)
    ids = np.arange(150)
    store.write(ids, np.zeros(150, np.int64), LOGITS[0][:150])
    store.sync()
    store.close()
    with open(tmp_path / "s" / "presence-00000.bin", "r+b") as file:
        file.seek(20)
        file.write(bytes(44))
    with pytest.warns(FrugalKDWarning, match="was torn at rows 0 .. 255"):
        store = Store(tmp_path / "s")
    with pytest.raises(TargetsError, match="holds no soft targets of sample 0 in view 0: fill it"):
        store.read(ids[:1], np.zeros(1, np.int64))
    with pytest.warns(FrugalKDWarning, match="was torn at rows 0 .. 255"):
        fill_store(tmp_path / "s")
    check_store(tmp_path / "s", whole=True)


@pytest.mark.parametrize("work", ["ledger", "checkpoint", "store"])
def test_a_disk_that_takes_less_than_it_is_given_is_no_failure(tmp_path, work):
    for place in range(40):
        with failing(SHORT, place):
            if work == "ledger":
                ledger(2).save(tmp_path / "l")
                assert same_columns(Ledger.load(tmp_path / "l"), ledger(2))
            elif work == "checkpoint":
                save_tree(tmp_path / "c", {"a": torch.arange(300)})
                assert torch.equal(load_tree(tmp_path / "c")["a"], torch.arange(300))
            else:
                shutil.rmtree(tmp_path / "s", ignore_errors=True)
                fill_store(tmp_path / "s")
                check_store(tmp_path / "s", whole=True)


# Whole runs.


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    return override(
        load_recipe("digits"),
        {
            "data.train_size": 100,
            "teacher.model": {"name": "mlp", "options": {"hidden": [8]}},
            "teacher.training.epochs": 3,
            "teacher.policy.confidence": 0.2,
            "teacher.training.batch_size": 8,
            "teacher.training.optimizer.lr": 0.02,
            "student.mode": "hybrid",
            "student.model": {"name": "mlp", "options": {"hidden": [8]}},
            "student.training.epochs": 3,
            "student.targets.fill": "first-visit",
        },
    )


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    teach(tiny, folder)
    return folder


def outcome(run: Path) -> dict[str, bytes]:
    """The bytes that a run must leave whatever happened to it."""
    found = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    found["summary.json"] = json.dumps(read_summary(run)).encode()
    for header in run.glob("targets*/header.json"):
        store = Store(header.parent)
        there = np.flatnonzero(store.present(np.arange(100), np.zeros(100, np.int64)))
        store.read(there, np.zeros(len(there), np.int64))  # raises where they are damaged
    assert not list(run.rglob(".*")), "something was left aside"
    assert not (run / "checkpoints").exists()
    return found


def calls_of(work: Callable[[], object], out: Path) -> int:
    """How often an undisturbed run touches a file."""
    shutil.rmtree(out, ignore_errors=True)
    with failing(SHORT, 10**9) as disk:
        work()
    assert set(CALLS) <= {*disk.calls, "posix_fallocate"}
    return len(disk.calls)


@pytest.mark.parametrize("what", ["teach", "distill"])
@pytest.mark.heavy
def test_some_failing_calls_of_a_run(tiny, teacher, tmp_path, what):
    check_whole_run(tiny, teacher, tmp_path, what, step=37)


@pytest.mark.heavy
@pytest.mark.parametrize("what", ["teach", "distill"])
def test_every_failing_call_of_a_run(tiny, teacher, tmp_path, what):
    check_whole_run(tiny, teacher, tmp_path, what, step=1)


def check_whole_run(tiny, teacher, tmp_path, what, step):
    """Kinds of failure take turns."""
    out = tmp_path / "out"

    def work(resume: bool = False) -> None:
        if what == "teach":
            teach(tiny, out, resume=resume)
        else:
            distill(tiny, out, teacher=teacher, resume=resume)

    work()  # which may leave something in the teacher's folder
    calls = calls_of(work, out)
    sound = outcome(out)
    assert len(sound) == 3
    for turn, place in enumerate(range(0, calls, step)):
        shutil.rmtree(out, ignore_errors=True)
        kind = KINDS[turn % len(KINDS)]
        with failing(kind, place) as disk:
            failure(work)
        assert len(disk.calls) > place
        work(resume=True)
        assert outcome(out) == sound, f"{kind} at call {place}: {disk.calls[place]}"
        assert [record["epoch"] for record in read_metrics(out)] == [0, 1, 2]


# A disk that is really full.


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "frugalkd-test", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount here: {error.strerror}")
    if done.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave(folder: Path, size: int) -> None:
    """Fill ``folder``'s disk up to ``size`` bytes."""
    (folder / "filler").unlink(missing_ok=True)
    with open(folder / "filler", "wb") as file:
        file.write(bytes(shutil.disk_usage(folder).free - size))


@pytest.mark.parametrize(
    ("what", "free"), [("teach", 0), ("teach", 12288), ("distill", 4096), ("distill", 20480)]
)
def test_a_run_on_a_full_disk(tiny, teacher, tmp_path, small_disk, what, free):
    out, sound = small_disk / "out", tmp_path / "sound"

    def work(where: Path, resume: bool = False) -> None:
        if what == "teach":
            teach(tiny, where, resume=resume)
        else:
            distill(tiny, where, teacher=teacher, resume=resume)

    work(sound)
    leave(small_disk, free)
    with pytest.raises(FrugalKDError) as caught:
        work(out)
    assert "\n" not in str(caught.value)
    assert "free" in str(caught.value)
    (small_disk / "filler").unlink()
    work(out, resume=True)
    assert outcome(out) == outcome(sound)


def test_a_ledger_on_a_full_disk(small_disk):
    path = small_disk / "ledger.safetensors"
    ledger(1).save(path)
    leave(small_disk, 0)
    with pytest.raises(FrugalKDError, match="No space left on device: free some space"):
        ledger(2).save(path)
    assert same_columns(Ledger.load(path), ledger(1))
