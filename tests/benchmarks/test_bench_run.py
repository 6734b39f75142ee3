from __future__ import annotations

import json
import shutil
from dataclasses import replace
from statistics import median

import pytest

from benchmarks.timing import Arm, Figure, Measurement, Options, Teacher
from benchmarks.timing.run import bench, planned
from frugalkd.errors import FrugalKDError, RunFolderError, UnknownName


def arms_of(content):
    return {arm["arm"]: arm for arm in content["arms"]}


@pytest.mark.heavy
def test_a_case_from_the_teacher_to_its_file(processes, tiny, options):
    content = bench(tiny, options)
    assert processes.names("teach") == ["teacher-t"]
    assert processes.names("targets") == ["filling-stored"]
    # The order of the arms rotates.
    assert processes.names() == [
        "0-live.part", "0-stored", "0-regulated", "1-stored", "1-regulated", "1-live.part",
    ]  # fmt: skip
    assert json.loads((options.out / "tiny.json").read_text()) == content
    assert content["failed"] == []
    arms = arms_of(content)
    for arm in arms.values():
        assert [run["round"] for run in arm["runs"]] == [0, 1]
        assert arm["seconds"]["median"] == median(run["seconds_whole"] for run in arm["runs"])
    for run in arms["live"]["runs"]:
        assert (run["part"], run["epochs"], run["accuracy"]) == (1, 4, None)
        assert run["seconds_whole"] == 4 * run["seconds"]
    assert arms["live"]["scaled"]
    assert not arms["stored"]["scaled"]
    assert arms["stored"]["accuracy"]["n"] == 2
    assert arms["stored"]["filling_apart"]["rows"] == 200
    assert arms["stored"]["meters"]["teacher_queries"] == 0
    assert arms["regulated"]["meters"]["teacher_queries"] == 200
    assert arms["live"]["meters"]["teacher_queries"] == 200  # one epoch
    assert not list(options.out.rglob("*.scratch"))
    assert not list(options.out.rglob("*.answer"))


@pytest.mark.heavy
def test_finished_runs_are_not_repeated(processes, tiny, options):
    before = bench(tiny, options)
    processes.started.clear()
    lines = []
    assert bench(tiny, options, lines.append) == before
    assert processes.names() == []
    assert processes.names("teach") == []
    assert len([line for line in lines if line.endswith("(done before)")]) == 6
    bench(tiny, replace(options, rounds=3, arms=("regulated",)))
    assert processes.names() == ["2-regulated"]
    processes.started.clear()
    arm = replace(tiny.arms[2], set={"student.training.optimizer.lr": 0.001})
    bench(replace(tiny, arms=[*tiny.arms[:2], arm]), options)
    assert processes.names() == ["0-regulated", "1-regulated"]


@pytest.mark.heavy
def test_a_complete_run_replaces_a_part(processes, tiny, options):
    one = replace(options, rounds=1, arms=("live",))
    bench(tiny, one)
    content = bench(tiny, replace(one, whole=True))
    assert processes.names() == ["0-live.part", "0-live"]
    assert [run["part"] for run in arms_of(content)["live"]["runs"]] == [None]
    assert arms_of(bench(tiny, one)) == arms_of(content)
    bench(tiny, replace(one, part=2, rounds=2))
    assert processes.names() == ["0-live.part", "0-live", "1-live.part"]


@pytest.mark.parametrize("part", [4, 9])
def test_a_part_of_all_epochs_is_complete(processes, tiny, options, part):
    content = bench(tiny, replace(options, rounds=1, arms=("live",), part=part))
    assert processes.names() == ["0-live"]
    (run,) = arms_of(content)["live"]["runs"]
    assert run["part"] is None
    assert run["seconds_whole"] == run["seconds"]


@pytest.mark.heavy
def test_a_failed_run_is_one_line_and_others_run(processes, tiny, options):
    processes.broken.add("0-regulated")
    wrong = Arm("wrong", "distill", {"student.objective": {"name": "cross-entropy"},
                                     "student.regulation.ceiling": 0.9})  # fmt: skip
    lines = []
    content = bench(
        replace(tiny, arms=[wrong, *tiny.arms]), replace(options, rounds=1), lines.append
    )
    assert [failure["run"] for failure in content["failed"]] == ["0-wrong", "0-regulated"]
    assert all("\n" not in failure["error"] for failure in content["failed"])
    assert len([line for line in lines if line.startswith("failed: tiny ")]) == 2
    arms = arms_of(content)
    assert arms["regulated"]["seconds"] is None
    assert arms["stored"]["seconds"]["n"] == arms["live"]["seconds"]["n"] == 1
    assert [ratio["value"] for ratio in content["ratios"]] == [None, None]
    # The failed run is repeated.
    processes.broken.clear()
    content = bench(tiny, replace(options, rounds=1))
    assert arms_of(content)["regulated"]["seconds"]["n"] == 1


def test_a_failed_teacher_is_an_error(processes, tiny, options):
    processes.broken.add("teacher-t")
    with pytest.raises(FrugalKDError, match=r"^teacher t: its process was ended by SIGKILL"):
        bench(tiny, options)


@pytest.mark.heavy
def test_an_existing_teacher_is_used(processes, tiny, options, tmp_path):
    one = replace(options, rounds=1, arms=("stored",))
    bench(tiny, one)
    copied = Options(tmp_path / "other", rounds=1, arms=("stored",))
    shutil.copytree(options.out / "teachers/t", copied.out / "teachers/t")
    processes.started.clear()
    bench(tiny, copied)
    assert processes.names("teach") == []
    named = Options(
        tmp_path / "third", rounds=1, arms=("live",), teachers={"t": options.out / "teachers/t"}
    )
    bench(tiny, named)
    assert processes.names("teach") == []
    assert not (named.out / "teachers").exists()
    other = replace(tiny, teacher=Teacher("t", "digits", {"teacher.training.epochs": 1}))
    with pytest.raises(RunFolderError, match=r"holds a teacher with other settings: delete it$"):
        bench(other, copied)


@pytest.mark.heavy
def test_arms_in_one_process(processes, beside, options):
    content = bench(beside, options)
    assert processes.started == [("together", "together")]
    for arm in content["arms"]:
        assert arm["seconds"]["n"] == 3
        assert arm["first_seconds"] > 0
    assert content["ratios"][0]["value"]["n"] == 3
    assert bench(beside, replace(options, rounds=2)) == content
    assert len(processes.started) == 1
    bench(beside, replace(options, rounds=4))
    assert len(processes.started) == 2


def test_an_arm_in_one_process_may_fail(processes, beside, options):
    wrong = Arm("wrong", "plain", {"student.objective": {"name": "cross-entropy"}})
    content = bench(replace(beside, arms=[wrong, *beside.arms]), options)
    assert [failure["run"] for failure in content["failed"]] == ["wrong"]
    assert arms_of(content)["wrong"]["runs"] == []
    assert arms_of(content)["engine"]["seconds"]["n"] == 3


@pytest.mark.heavy
def test_a_quick_run_has_separate_files(processes, tiny, options):
    content = bench(tiny, replace(options, quick=True, rounds=1))
    assert content["quick"]
    assert (options.out / "quick-tiny.json").is_file()
    assert not (options.out / "tiny.json").exists()
    assert not arms_of(content)["live"]["scaled"]
    assert (options.out / "teachers/quick-t/results.json").is_file()


@pytest.mark.heavy
def test_the_plan_lists_finished_runs(processes, tiny, beside, options):
    before = planned(tiny, options)
    assert not list(options.out.iterdir())
    assert before["teacher"] == {"name": "t", "there": False}
    assert [(arm["epochs"], arm["of"]) for arm in before["arms"]] == [(1, 4), (4, 4), (4, 4)]
    assert {(arm["runs"], arm["done"], arm["seconds"]) for arm in before["arms"]} == {(2, 0, None)}
    bench(tiny, replace(options, arms=("stored",)))
    after = planned(tiny, options)
    assert after["teacher"] == {"name": "t", "there": True}
    assert [arm["done"] for arm in after["arms"]] == [0, 2, 0]
    assert after["arms"][1]["seconds"] > 0
    assert {arm["done"] for arm in planned(beside, options)["arms"]} == {0}
    with pytest.raises(UnknownName):
        planned(tiny, replace(options, arms=("none",)))


@pytest.fixture
def ledger():
    figures = [Figure("bytes", "bytes per sample", 20, at_most=True), Figure("plan_all", "s", 1e-9)]
    return Measurement("ledger", "a ledger", "a second", 10**8, 300, figures)


def test_figures_are_measured_once(processes, ledger, options, monkeypatch):
    monkeypatch.setattr("benchmarks.timing.ledger.BLOCKS", 2)
    monkeypatch.setattr("benchmarks.timing.ledger._SAVES", 1)
    quick = replace(options, quick=True)
    assert planned(ledger, quick)["arms"][0]["done"] == 0
    content = bench(ledger, quick)
    assert json.loads((options.out / "quick-ledger.json").read_text()) == content
    assert content["samples"] == 300
    size, plan = content["figures"]
    assert size["value"] == {"median": 20, "min": 20, "max": 20, "n": 1}
    assert size["reached"] == {"must": True, "aim": None}
    assert plan["value"]["n"] == 3
    assert bench(ledger, quick) == content
    assert len(processes.started) == 1
    assert planned(ledger, quick)["arms"][0]["done"] == 1
    assert planned(ledger, options)["arms"][0]["done"] == 0


def test_a_failed_measurement_is_reported(processes, ledger, options):
    processes.broken.add("measured")
    content = bench(ledger, options)
    assert [failure["run"] for failure in content["failed"]] == ["measured"]
    assert content["figures"] == []
