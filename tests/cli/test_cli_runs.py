"""The command line with short runs on the digits, in this process."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from rich.console import Console
from small_runs import FEW, TINY

from frugalkd.cli.running import Bar
from frugalkd.cli.show import summary_table
from frugalkd.experiments.runs.schema import Comparison, Results
from toys import as_images


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_results_match_their_schema(runs, name):
    written = json.loads((runs / name / "results.json").read_text())
    results = Results.model_validate(written)
    assert results.model_fields_set == set(Results.model_fields)
    # Nothing is written that the schema does not describe.
    assert results.model_dump(mode="json", by_alias=True, exclude_unset=True) == written


def test_a_finished_run_is_shown_and_not_run_again(runs, cli):
    code, out, err = cli("teach", "digits", "--out", str(runs / "teacher"), *FEW)
    assert code == 0
    assert "finished" in err
    assert "epoch" not in err
    for words in ("accuracy", "samples backpropagated", "forwards", "seconds", "files", "next: "):
        assert words in out
    head = out.partition("next: ")[0]
    assert max(map(len, head.splitlines())) <= 80


def suggested(cli, runs, *settings):
    """The commands that ``teach`` ends with, as words after ``frugalkd``."""
    _, out, _ = cli("teach", "digits", "--out", str(runs / "teacher"), *FEW, *settings)
    return [line.removeprefix("next: frugalkd ").split() for line in out.splitlines()
            if line.startswith("next: ")]  # fmt: skip


def test_teach_suggests_a_student_and_what_it_is_worth(runs, cli, tmp_path):
    student, comparison = suggested(cli, runs)
    assert student[:6] == ["distill", "digits", "--mode", "regulated", "--cost", "0.5"]
    assert comparison[:4] == ["compare", "digits", "--arms", "regulated,short-cost:regulated"]
    for words in (student, comparison):
        words[words.index("--out") + 1] = str(tmp_path / words[0])
    assert cli(*student)[0] == 0
    assert json.loads((tmp_path / "distill" / "results.json").read_text())["cost"]["epochs"] < 11
    code, out, err = cli(*comparison, "--list", "--json")
    assert code == 0, err
    jobs = json.loads(out)
    assert [job["done"] for job in jobs if job["kind"] == "teach"] == [True]
    assert {job["name"] for job in jobs if job["kind"] == "distill"} == {
        "regulated", "short-cost:regulated"
    }  # fmt: skip


def test_teach_suggests_no_second_limit_nor_another_teacher(runs, cli):
    for limit in ("student.cost=0.3", "student.regulation.budget=0.3"):
        student, comparison = suggested(cli, runs, "--set", limit)
        assert "--cost" not in student
        assert "student.cost=0.5" not in comparison
    for teachers in (
        "{}",
        "{other: {teacher.training.epochs: 1}}",
        "{wrong: {teacher.nothing: 1}}",
    ):
        (student,) = suggested(cli, runs, "--set", f"teachers={teachers}")
        assert student[0] == "distill"


def test_json_is_results_json(runs, cli):
    code, out, _ = cli("teach", "digits", "--out", str(runs / "teacher"), *FEW, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((runs / "teacher" / "results.json").read_text())


def test_evaluate_gives_what_the_run_measured(runs, cli):
    written = json.loads((runs / "student" / "results.json").read_text())["evaluation"]
    code, out, _ = cli("evaluate", str(runs / "student"), "--data", "own", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == written["accuracy"]
    named = json.loads(cli("evaluate", str(runs / "student"), "--data", "digits", "--json")[1])
    assert named["accuracy"] == written["accuracy"]
    assert "accuracy" in cli("evaluate", str(runs / "student"), "--data", "own")[1]
    assert "teacher_agreement" not in named
    beside = ("--teacher", str(runs / "teacher"))
    code, _, err = cli("evaluate", str(runs / "student"), "--data", "own", *beside)
    assert code == 2
    assert "a teacher is compared with language models" in err


def test_predict_data_by_name(runs, cli, tmp_path):
    out = tmp_path / "a" / "p.csv"
    assert cli("predict", str(runs / "student"), "--data", "digits", "--out", str(out))[0] == 0
    with open(out) as file:
        rows = list(csv.DictReader(file))
    accuracy = np.mean([row["class"] == row["label"] for row in rows])
    written = json.loads((runs / "student" / "results.json").read_text())["evaluation"]
    assert accuracy == pytest.approx(written["accuracy"])


def test_pictures_and_arrays(runs, cli, tmp_path):
    from PIL import Image

    from frugalkd.data import load_data

    test, student = as_images(load_data("digits").test), str(runs / "student")
    pixels = test.images[:20, 0].numpy()
    for place, image in enumerate(pixels):
        folder = tmp_path / "pictures" / test.classes[int(test.labels[place])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place:02d}.png")
    np.save(tmp_path / "x.npy", pixels)
    found = {}
    for data in ("pictures", "x.npy"):
        out = str(tmp_path / "p.csv")
        arguments = ["--data", str(tmp_path / data), "--out", out, "--probabilities"]
        assert cli("predict", student, *arguments)[0] == 0
        with open(out) as file:
            found[data] = list(csv.DictReader(file))
    by_place = {int(Path(row["sample"]).stem): row["class"] for row in found["pictures"]}
    assert [by_place[place] for place in range(20)] == [row["class"] for row in found["x.npy"]]
    assert sum(float(found["x.npy"][0][f"p {name}"]) for name in test.classes) == pytest.approx(
        1, abs=1e-4
    )
    code, out, _ = cli("evaluate", student, "--data", str(tmp_path / "pictures"), "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 20


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"junk", "is not an array"),
        ("p/x.png", b"junk", "no readable picture in"),
        ("p/x.txt", b"", "no pictures in"),
    ],
)
def test_unreadable_images_are_one_line(runs, cli, tmp_path, name, content, says):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    data = tmp_path / Path(name).parts[0]
    arguments = ["--data", str(data), "--out", str(tmp_path / "p.csv")]
    code, _, err = cli("predict", str(runs / "student"), *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_labels_are_needed_to_evaluate(runs, cli, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8), np.uint8))
    code, _, err = cli("evaluate", str(runs / "student"), "--data", str(tmp_path / "x.npy"))
    assert code == 2
    assert "x.npy has no labels" in err


def test_an_impossible_part_of_the_data_names_the_field(cli, tmp_path):
    for field in ("data.validation", "data.train_size"):
        setting = f"{field}=5000"
        code, _, err = cli("teach", "digits", "--out", str(tmp_path / "t"), "--set", setting)
        assert code == 2
        assert err.startswith(f"error: {field}: ")
        assert err.count("\n") == 1


def test_a_changed_file_of_teacher_weights_is_another_run(runs, cli, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((runs / "teacher" / "teacher.safetensors").read_bytes())
    arguments = ["distill", "digits", "--mode", "regulated", "--out", str(tmp_path / "s"), *TINY]
    arguments += ["--set", f"teacher.weights={weights}"]
    assert cli(*arguments)[0] == 0
    assert "finished" in cli(*arguments)[2]
    state = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({name: -tensor for name, tensor in state.items()}, weights)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "holds another run" in err


def test_the_suggested_command_works_on_own_data(runs, cli, tmp_path, monkeypatch):
    (tmp_path / "own_digits.py").write_text(
        "from frugalkd import load_data\n"
        "def parts():\n"
        "    splits = load_data('digits')\n"
        "    return splits.train, splits.test\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = ["--set", "data.path=own_digits:parts", "--teacher", str(runs / "teacher"), *FEW]
    code, out, err = cli("distill", "digits", "--mode", "regulated", "--out", "s", *own)
    assert code == 0, err
    following = out.partition("next: frugalkd ")[2].split()
    assert cli(*following)[0] == 0


def test_ctrl_c_says_how_to_resume(cli, tmp_path, monkeypatch):
    out = tmp_path / "t"
    arguments = ["teach", "digits", "--out", str(out), *TINY]
    monkeypatch.setattr("sys.argv", ["frugalkd", *arguments])

    def stop(self, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "epoch", stop)
        code, _, err = cli(*arguments)
    assert code == 130
    assert err.count("\n") == 1
    assert "(1 complete epochs), which are kept" in err
    assert err.rstrip().endswith("--resume")
    code, _, err = cli(*arguments)
    assert code == 2
    assert "--resume" in err
    code, _, err = cli(*arguments, "--resume")
    assert code == 0
    assert "epoch 1," not in err
    assert "epoch 2, 100% done" in err


def test_compare_reports_failures_and_matches_its_schema(cli, tmp_path, monkeypatch):
    from frugalkd.experiments.comparison.run import ComparisonRun

    arm = {
        "arm": "vanilla",
        "seeds": [0],
        "accuracy": {"mean": 0.9, "ci95": None, "values": [0.9]},
        "budget": {"mean": 1.0, "values": [1.0]},
        "wall_ratio": {"mean": 1.0},
        "meters": {},
        "collapsed": 0,
    }
    failed = [{"kind": "distill", "name": "hybrid", "seed": 0, "error": "it broke"}]
    made = {
        "schema": 2, "reference": "vanilla", "arms": [arm], "failed": failed, "notes": [],
        "name": "digits", "seeds": [0], "recipe": {}, "teachers": [], "claims": [], "split": "test",
    }  # fmt: skip
    Comparison.model_validate(made)

    def execute(comparison, jobs, ray):
        assert [arm.name for arm in comparison.arms] == ["hybrid", "short:hybrid"]
        assert (list(comparison.seeds), jobs, ray) == ([0], 2, None)
        (claim,) = comparison.claims
        assert claim.margin == 0.005  # half a point, where no margin is set
        event = {"kind": "distill", "name": "hybrid", "seed": 0, "finished": 1, "total": 2}
        comparison._on_event({**event, "event": "begun", "accuracy": None, "error": None})
        comparison._on_event({**event, "event": "failed", "accuracy": None, "error": "it broke"})
        return made

    monkeypatch.setattr(ComparisonRun, "execute", execute)
    arguments = ["digits", "--arms", "hybrid, short:hybrid,hybrid", "--seeds", "1", "--json"]
    arguments += ["--claim", "hybrid > short:hybrid"]
    code, out, err = cli("compare", *arguments, "--out", str(tmp_path))
    assert code == 1
    assert json.loads(out) == made
    assert "compare digits: 1/2 hybrid seed 0 failed: it broke" in err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_loss_active_and_samples(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, legacy_windows=False)
    record = {"epoch": 0, "loss": 0.5, "rows": 50, "samples": 200, "wall_seconds": 1.0,
              "progress": 0.29}  # fmt: skip
    with Bar("teach x", console) as bar:
        bar.epoch({**record, "samples_backpropagated": 1234})
    shown = file.getvalue()
    for words in ("teach x", "epoch 1", "29%", "loss 0.5", "active 25%", "1,234"):
        assert words in shown
    assert terminal or shown.count("\n") == 1


def test_runs_progress_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, legacy_windows=False)
    event = {"kind": "teach", "name": "conventional", "seed": None, "finished": 0, "total": 9}
    with Bar("demo", console=console) as bar:
        bar.event({**event, "event": "begun", "accuracy": None, "error": None})
        bar.event({**event, "event": "failed", "accuracy": None, "error": "it broke"})
    assert "0/9" in file.getvalue()
    assert "failed: teacher conventional: it broke" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_long_runs_of_a_comparison_show_their_progress(terminal, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, legacy_windows=False)
    event = {"kind": "teach", "name": "big", "seed": None, "finished": 0, "total": 9,
             "accuracy": None, "error": None}  # fmt: skip
    at = {"kind": "distill", "name": "el2n", "seed": 1, "progress": "scoring run, epoch 2 of 10"}
    with Bar("demo", console=console) as bar:
        bar.event({**event, "event": "begun"})
        bar.event({**event, "event": "running", "progress": "epoch 3, 10% done"})
        assert terminal or not file.getvalue()  # there was a start a moment ago
        monkeypatch.setattr("frugalkd.cli.running.EVERY", 0.0)
        bar.event({**event, **at, "event": "running"})
        bar._progress.refresh()
    says = "teacher big, epoch 3, 10% done; el2n seed 1, scoring run, epoch 2 of 10"
    assert says in file.getvalue()
    if not terminal:
        assert file.getvalue() == f"demo: 0/9 done; running: {says}\n"


def test_what_precedes_the_epochs_is_shown(runs, monkeypatch, cli, tmp_path):
    monkeypatch.setattr("frugalkd.cli.running.EVERY", 0.0)
    scored = ["--set", "student.mode=null", "--set", "student.policy={name: el2n, epochs: 2}"]
    few = ["--set", "data.train_size=300", "--set", "student.training.epochs=1"]
    weights = ["--set", f"teacher.weights={runs / 'teacher' / 'teacher.safetensors'}"]
    _, _, err = cli("distill", "digits", *scored, *few, *weights, "--out", str(tmp_path / "s"))
    assert "distill digits el2n: scoring run (el2n), training 1 of 3, epoch 1 of 2\n" in err
    assert re.search(
        r": scoring run \(el2n\), training 1 of 3, epoch 2 of 2, about \d+ s left\n", err
    )
    assert "distill digits el2n: scoring run (el2n), training 3 of 3, epoch 2 of 2\n" in err
    assert "distill digits el2n: storing soft targets, 256 of 300\n" in err


def test_a_store_is_announced_filled_in_parts_and_used(runs, cli, tmp_path):
    where, teacher = str(tmp_path / "store"), str(runs / "teacher")
    command = ("store", "digits", "--teacher", teacher, "--out", where, *FEW)
    code, out, err = cli(*command, "--shard", "1/2")
    assert code == 0
    assert "will take 29.1 kB: 1,437 samples x 1 views x 20 bytes" in err
    assert "719 of 1,437" in out
    assert "next: frugalkd distill digits" in out
    done = json.loads(cli(*command, "--shard", "0/2", "--json")[1])
    assert (done["queries"], done["rows"], done["bytes"]) == (718, 1437, 29_124)
    used = ("--set", f"student.targets.folder={where}", "--out", str(tmp_path / "s"), "--json")
    results = json.loads(cli("distill", "digits", "--teacher", teacher, *FEW, *used)[1])
    assert results["meters"]["teacher_queries"] == 0
    for wrong in ("2/2", "x", "1", "-1/2"):
        code, _, err = cli(*command, "--shard", wrong)
        assert code == 2
        assert len(err.splitlines()) == 1
    code, _, err = cli(*command, "--set", "student.targets.views=2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "views (1 there, 2 here)" in err


def test_features_are_stored_where_they_are_named(runs, cli, tmp_path):
    where, teacher = str(tmp_path / "store"), str(runs / "teacher")
    command = ("store", "digits", "--teacher", teacher, "--out", where, *FEW)
    code, out, err = cli(*command, "--features", "layers.1", "--features", "layers.[34]")
    assert code == 0
    for name in (1, 3, 4):
        assert f"features of layers.{name} in {where} will take" in err
    assert "layers.1, layers.3, layers.4" in " ".join(out.split())
    assert f"student.targets.folder={where}" in "".join(out.split())
    code, _, err = cli(*command, "--features", "layer.4")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "the teacher has no module 'layer.4': did you mean layers.4" in err


def test_an_own_model_is_imported_only_where_allowed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name}"  # Python imports a module of one name once
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "def Net(width=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))\n"
    )
    own = ["--set", f"teacher.model.path={name}:Net", "--set", f"student.model.path={name}:Net"]
    assert cli("teach", "digits", "--out", "t", *TINY, *own)[0] == 0
    student = ["distill", "digits", "--mode", "vanilla", "--teacher", "t", *TINY]
    code, _, err = cli(*student, "--out", "s")
    assert code == 2
    assert f"t/model.json names the import path '{name}:Net'" in err
    code, out, _ = cli(*student, "--out", "own", *own)
    assert code == 0
    assert f"--import {name}:Net" in out
    code, _, err = cli("evaluate", "own")
    assert (code, err.count("\n")) == (2, 1)
    assert f"--import {name}:Net" in err
    assert cli("evaluate", "own", "--data", "own", "--import", f"{name}:Net")[0] == 0
    table = ["--data", "digits", "--out", "x.csv", "--import", f"{name}:Net"]
    assert cli("predict", "own", *table)[0] == 0


@pytest.mark.parametrize(("trained", "says"), [(2.0, ""), (1.0, "after 1 of 2 epochs")])
def test_a_training_that_its_policy_ended_says_so(runs, trained, says):
    results = json.loads((runs / "teacher" / "results.json").read_text())
    assert results["epochs"] == 2.0
    console = Console(width=80)
    with console.capture() as captured:
        console.print(summary_table({**results, "epochs": trained}, runs))
    assert ("stopped" in captured.get()) == bool(says)
    assert says in captured.get()
    results["recipe"]["teacher"]["policy"]["cost"] = 0.5
    with console.capture() as captured:
        console.print(summary_table({**results, "epochs": trained, "cost": None}, runs))
    assert ("its cost is spent" in captured.get()) == bool(says)


@pytest.mark.parametrize(("mode", "epochs"), [("regulated", None), ("vanilla", 2.0)])
def test_a_cost_limits_a_run(runs, cli, tmp_path, mode, epochs):
    common = ["--teacher", str(runs / "teacher"), "--out", str(tmp_path), "--json"]
    more = ["--mode", mode, "--cost", "0.5", "--set", "student.training.epochs=4"]
    code, said, _ = cli("distill", "digits", *common, *more)
    assert code == 0
    results = json.loads(said)
    assert results["cost"]["epochs"] == pytest.approx(2.0, abs=0.02)
    assert results["epochs"] == (epochs or pytest.approx(results["epochs"]))
    console = Console(width=90)
    with console.capture() as captured:
        console.print(summary_table(results, tmp_path))
    assert re.search(r"2.00 of 4 epochs, over \d+(\.\d+)?, \d+ of them on all", captured.get())


def test_a_cost_that_limits_nothing_is_refused(cli, tmp_path):
    policy = ["--set", "student.mode=null", "--set", "student.policy={name: random, fraction: 0.5}"]
    code, _, said = cli("distill", "digits", "--out", str(tmp_path), *policy, "--cost", "0.5")
    assert code != 0
    assert "RandomSubset has settings of its own" in said.replace("\n", " ")
