"""A folder from elsewhere leads no writer out of it: every place, every kind of link."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest

from frugalkd import Ledger, RunOptions, Sampling, StoredTargets, distill, train_teacher
from frugalkd.cli import main
from frugalkd.errors import PathRefused
from frugalkd.experiments.runs import scores
from frugalkd.experiments.runs.folder import RunFolder
from frugalkd.experiments.runs.from_recipe import place_for
from frugalkd.experiments.runs.summary import write_summary
from frugalkd.experiments.tracking.trackers import TensorBoard, Tracked, Tracking
from frugalkd.files import arrays
from frugalkd.files.arrays import save_arrays
from frugalkd.files.lock import Lock
from frugalkd.files.opening import named
from frugalkd.files.tensors import save_weights
from frugalkd.files.writing import make_folder
from frugalkd.models.building import ModelSettings
from frugalkd.models.saved import write_model_card
from frugalkd.policies import All
from frugalkd.teachers import FirstVisitTargets
from frugalkd.training.checkpoints import Checkpoints
from frugalkd.training.settings import Checkpointing, Training
from planting import KINDS, nothing_is_written_outside, places, refusal, snapshot
from toys import images, net

each_kind = pytest.mark.parametrize("kind", KINDS)
MODEL = net()
RECORDS = [{"epoch": epoch, "loss": 1.0} for epoch in range(2)]
RESULTS = {"schema": 1, "digest": "d", "history": RECORDS}


def ledger() -> Ledger:
    made = Ledger.new(40, labels=np.arange(40) % 4)
    made.epochs = 2.0
    return made


def a_run(folder, *, ends: bool = True) -> None:
    """All that a run writes into its folder."""
    with RunFolder(folder) as run:
        if run.begin("d", {}, "teach", resume=True) is not None:
            return
        run.note(queries_of={"teacher": 1}, seconds=1.0, teacher_seconds=1.0)
        run.note(trackers={"tracker": "a"})
        for record in RECORDS:
            Checkpoints(run.checkpoints, Checkpointing(keep=1)).save(record["epoch"], 1, record)
            run.append_metrics(record)
        save_weights(run.path / "teacher.safetensors", MODEL)
        ledger().save(run.path / "ledger.safetensors")
        model, data = ModelSettings.model_validate({"name": "mlp"}), images(augmented=False)
        write_model_card(run.path, model, data, "teacher.safetensors", {})
        write_summary(run.path, "ledger", ledger())
        if ends:
            run.finish(RESULTS)


@each_kind
@pytest.mark.parametrize("ends", [False, True], ids=["stopped", "done"])
def test_a_run_folder(tmp_path, kind, ends):
    sound = tmp_path / "sound"
    a_run(sound, ends=ends)
    (sound / ".lock").write_bytes(b"1")
    if ends:  # and stopped while it let its checkpoints go
        (sound / "checkpoints").mkdir()
        (sound / "checkpoints/epoch-00000-step-000000001.safetensors").write_bytes(b"")
    expected = {"run.json", "metrics.jsonl", "checkpoints", ".lock", "teacher.safetensors"}
    expected |= {"summary.json", "model.json", "ledger.safetensors"}
    expected |= {"results.json"} if ends else {"notes.json"}
    assert expected <= set(places(sound))
    tried = nothing_is_written_outside(sound, partial(refusal, a_run), kind, tmp_path)
    assert tried == len(places(sound)) - (kind == "hard link")


FEATURES = ("0",)


def a_store(folder, fill=StoredTargets.fill) -> None:
    targets = fill(MODEL, images(), named(folder) / "store", views=2)
    if isinstance(targets, FirstVisitTargets):
        with targets:
            targets.fetch(np.arange(20), np.zeros(20, np.int64), images().batch(
                np.arange(20), np.zeros(20, np.int64))[0])  # fmt: skip


def with_features(folder) -> None:
    StoredTargets.fill(
        MODEL, images(), named(folder) / "store", views=2, features=FEATURES, ids=np.arange(30)
    )


WAYS = {
    "ahead": a_store,
    "features": with_features,
    "first visit": partial(a_store, fill=FirstVisitTargets),
}


@pytest.mark.parametrize(
    ("way", "kind"),
    [*(("ahead", kind) for kind in KINDS), ("features", "link"), ("first visit", "link")],
)
@pytest.mark.parametrize("state", ["half filled", "half made"])
def test_a_store_in_a_teachers_folder(tmp_path, way, kind, state):
    sound = tmp_path / "sound"
    StoredTargets.fill(
        MODEL, images(), named(sound) / "store", views=2, ids=np.arange(10),
        features=FEATURES if way == "features" else (),
    )  # fmt: skip
    for path in list(sound.rglob("header.json")):
        (path.parent / ".lock").write_bytes(b"1")
        if state == "half made":
            path.unlink()
    found = places(sound)
    assert {"store/rows-00000.bin", "store/presence-00000.bin", "store/.lock"} <= set(found)
    assert way != "features" or "store/features/0/rows-00000.bin" in found
    tried = nothing_is_written_outside(sound, partial(refusal, WAYS[way]), kind, tmp_path)
    assert tried >= len(found) // 2


def test_a_store_behind_a_link_is_read_no_more_than_written(tmp_path):
    a_store(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere/store", tmp_path / "store")
    (tmp_path / "store/rows-00000.bin").unlink()
    (tmp_path / "store/rows-00000.bin").symlink_to("../elsewhere/store/rows-00000.bin")
    with pytest.raises(PathRefused, match=r"rows-00000.bin is a symbolic link"):
        StoredTargets(tmp_path / "store")


def exported(copy, name):
    ledger().export(copy / name)


def saved(copy):
    ledger().save(copy / "ledger.safetensors")


OUTPUTS = {
    "out.csv": partial(exported, name="out.csv"),
    "out.parquet": partial(exported, name="out.parquet"),
    "ledger.safetensors": saved,
}


@each_kind
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_that_is_named(tmp_path, name, kind):
    if name == "out.parquet":
        pytest.importorskip("pyarrow")
    sound = tmp_path / "sound"
    sound.mkdir()
    OUTPUTS[name](sound)
    act = partial(refusal, OUTPUTS[name])
    assert nothing_is_written_outside(sound, act, kind, tmp_path) == 1
    if kind == "link":
        (tmp_path / name).symlink_to(tmp_path / "users")
        with pytest.raises(PathRefused, match="is a symbolic link"):
            OUTPUTS[name](tmp_path)
        assert not (tmp_path / "users").exists()


@each_kind
def test_scores_in_a_teachers_folder(tmp_path, kind):
    sound = tmp_path / "sound"

    def act(copy):
        where = place_for("scores-1", [copy, tmp_path / "run"], lambda _: False)
        assert where is not None
        make_folder(where)
        with Lock(where):
            save_arrays(where / scores.FILE, "scores", {"score": np.zeros(3)}, {})

    sound.mkdir()
    act(sound)
    (sound / "scores-1/.lock").write_bytes(b"1")
    tried = nothing_is_written_outside(sound, partial(refusal, act), kind, tmp_path)
    assert tried == 3 - (kind == "hard link")


@each_kind
def test_a_training_that_is_stopped_and_resumed(tmp_path, kind):
    sound, training = tmp_path / "sound", Training(epochs=1, batch_size=20)

    def act(copy):
        train_teacher(
            net(),
            images(20),
            sampling=Sampling(policy=All()),
            training=training,
            device="cpu",
            run=RunOptions(folder=named(copy) / "checkpoints", resume=True),
        )

    act(sound)
    tried = nothing_is_written_outside(sound, partial(refusal, act), kind, tmp_path)
    assert tried == 2 - (kind == "hard link")


def test_a_link_that_comes_during_a_training(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "epoch-00009-step-000000009.safetensors").write_bytes(b"the user's")
    before = snapshot(outside)
    with RunFolder(tmp_path / "run") as run:
        run.begin("d", {}, "teach", resume=False)

        def swap(record):
            shutil.rmtree(run.checkpoints)
            run.checkpoints.symlink_to(outside)

        with pytest.raises(PathRefused, match="run/checkpoints is a symbolic link"):
            distill(
                net(),
                images(20),
                teacher=net(),
                training=Training(epochs=2, batch_size=20),
                device="cpu",
                run=RunOptions(folder=run.checkpoints, on_epoch_end=swap),
            )
    assert snapshot(outside) == before


def test_a_mapped_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAPPED_FROM", 0)
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with pytest.raises(PathRefused, match="checkpoints is a symbolic link"):
        Ledger.new(100, folder=named(tmp_path / "run") / "checkpoints")
    assert snapshot(tmp_path / "outside") == before


def test_a_tracker(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").symlink_to(tmp_path / "outside")
    run = Tracked("p", "run", "teach", named(tmp_path / "run"))
    with Tracking() as tracking, pytest.raises(PathRefused, match="tensorboard is a symbolic"):
        tracking.start({"tensorboard": TensorBoard()}, run, {}, known={}, before=[])
    assert list((tmp_path / "outside").iterdir()) == []


def test_folders_that_the_user_names_may_be_links(tmp_path):
    for name in ("run", "store", "checkpoints"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    a_run(tmp_path / "run")
    assert (tmp_path / "disk/run/results.json").is_file()
    StoredTargets.fill(MODEL, images(), tmp_path / "store")
    StoredTargets(tmp_path / "store")
    assert (tmp_path / "disk/store/rows-00000.bin").is_file()
    train_teacher(
        net(),
        images(20),
        training=Training(epochs=1, batch_size=20),
        device="cpu",
        run=RunOptions(folder=tmp_path / "checkpoints"),
    )
    assert list((tmp_path / "disk/checkpoints").iterdir())
    ledger().export(tmp_path / "run/ledger.csv")
    assert (tmp_path / "disk/run/ledger.csv").is_file()
    assert all((tmp_path / name).is_symlink() for name in ("run", "store", "checkpoints"))


# The command line.

FEW = [
    word
    for setting in (
        "data.train_size=40",
        "teacher.model={name: mlp, options: {hidden: [2]}}",
        "student.model={name: mlp, options: {hidden: [2]}}",
        "teacher.training.epochs=1",
        "teacher.training.batch_size=20",
        "student.training.epochs=1",
        "student.training.batch_size=20",
    )
    for word in ("--set", setting)
]
TEACHER = ("--teacher", "{}/teacher")
SCORED = ("--set", "student.policy={name: rho-loss, keep: 0.6, epochs: 1, seeds: 1}",
          "--set", "student.mode=null", "--set", "data.train_size=150")  # fmt: skip
WEIGHTS = ("--set", "teacher.weights={}/teacher/teacher.safetensors")
COMMANDS = {
    "teach": ("teach", "digits", "--out", "{}/run", "--resume", *FEW),
    "distill": ("distill", "digits", *TEACHER, "--out", "{}/run", "--resume", *FEW),
    "scored": ("distill", "digits", *TEACHER, "--out", "{}/run", *FEW, *SCORED),
    "own store": ("distill", "digits", *WEIGHTS, "--out", "{}/run", *FEW),
    "store": ("store", "digits", *TEACHER, "--features", "layers.1", "--out", "{}/store", *FEW),
    "chain": ("chain", "digits", "--out", "{}/chain", *FEW),
    "ledger make": (
        "ledger",
        "make",
        "digits",
        *TEACHER,
        "--out",
        "{}/made",
        *FEW,
        "--set",
        "teacher.policy.confidence=0.11",
    ),
    "ledger export": ("ledger", "export", "{}/teacher", "--to", "{}/out.csv"),
    "report": ("report", "{}/teacher"),
    "plot": ("plot", "{}/teacher", "--to", "{}/out.svg"),
    "predict": ("predict", "{}/teacher", "--data", "digits", "--out", "{}/out.csv"),
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with a teacher."""
    folder = tmp_path_factory.mktemp("links")
    assert main(("teach", "digits", "--out", f"{folder}/teacher", *FEW)) == 0
    return folder


def said_by(name, folder, capsys):
    code = main([word.replace("{}", str(folder)) for word in COMMANDS[name]])
    return code, capsys.readouterr().err


OFTEN = ("teach", "distill", "store", "ledger make", "ledger export", "predict")


@pytest.mark.slow
@pytest.mark.parametrize("name", OFTEN)
@pytest.mark.heavy
def test_a_command(taught, tmp_path, capsys, name):
    check_command(taught, tmp_path, capsys, name, "link")


@pytest.mark.heavy
@each_kind
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_all_kinds(taught, tmp_path, capsys, name, kind):
    check_command(taught, tmp_path, capsys, name, kind)


def check_command(taught, tmp_path, capsys, name, kind):
    """All that it leaves, and what it wrote into the teacher's folder, is then a way out."""
    sound = tmp_path / "sound"
    shutil.copytree(taught, sound)
    code, said = said_by(name, sound, capsys)
    assert code == 0, said
    new = [place for place in places(sound) if place not in places(taught)]
    for results in sound.glob("*/results.json"):
        if results.parent.name != "teacher":
            results.unlink()  # else it is done, and writes nothing
            new.remove(str(results.relative_to(sound)))
    new = [place for place in new if "/" in place or (sound / place).is_file()]
    assert new  # a folder that is named may be a link

    def again(copy):
        code, said = said_by(name, copy, capsys)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) in ((0, 0), (2, 1)), said

    assert nothing_is_written_outside(sound, again, kind, tmp_path, new) > 0
