from __future__ import annotations

import json
import shutil
from dataclasses import replace
from statistics import median

import pytest

from benchmarks.timing import Arm, Ask, Figure, Measurement, Teacher
from benchmarks.timing.run import bench, planned
from frugalkd.errors import FrugalKDError, RunFolderError, UnknownName


def arms_of(content):
    return {arm["arm"]: arm for arm in content["arms"]}


def test_a_case_from_the_teacher_to_its_file(processes, tiny, ask):
    content = bench(tiny, ask)
    assert processes.names("teach") == ["teacher-t"]
    assert processes.names("targets") == ["filling-stored"]
    # The second round begins with another arm.
    assert processes.names() == [
        "0-live.part", "0-stored", "0-regulated", "1-stored", "1-regulated", "1-live.part",
    ]  # fmt: skip
    assert json.loads((ask.out / "tiny.json").read_text()) == content
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
    assert arms["live"]["meters"]["teacher_queries"] == 200  # one epoch of them
    assert not list(ask.out.rglob("*.scratch"))
    assert not list(ask.out.rglob("*.answer"))


def test_what_is_done_is_not_run_again(processes, tiny, ask):
    before = bench(tiny, ask)
    processes.started.clear()
    said = []
    assert bench(tiny, ask, said.append) == before
    assert processes.names() == []
    assert processes.names("teach") == []
    assert len([line for line in said if line.endswith("(done before)")]) == 6
    bench(tiny, replace(ask, rounds=3, arms=("regulated",)))
    assert processes.names() == ["2-regulated"]
    processes.started.clear()
    arm = replace(tiny.arms[2], set={"student.training.optimizer.lr": 0.001})
    bench(replace(tiny, arms=[*tiny.arms[:2], arm]), ask)
    assert processes.names() == ["0-regulated", "1-regulated"]


def test_a_whole_run_stands_for_its_part(processes, tiny, ask):
    one = replace(ask, rounds=1, arms=("live",))
    bench(tiny, one)
    content = bench(tiny, replace(one, whole=True))
    assert processes.names() == ["0-live.part", "0-live"]
    assert [run["part"] for run in arms_of(content)["live"]["runs"]] == [None]
    assert arms_of(bench(tiny, one)) == arms_of(content)
    bench(tiny, replace(one, part=2, rounds=2))
    assert processes.names() == ["0-live.part", "0-live", "1-live.part"]


@pytest.mark.parametrize("part", [4, 9])
def test_a_part_is_not_more_than_the_whole(processes, tiny, ask, part):
    content = bench(tiny, replace(ask, rounds=1, arms=("live",), part=part))
    assert processes.names() == ["0-live"]
    (run,) = arms_of(content)["live"]["runs"]
    assert run["part"] is None
    assert run["seconds_whole"] == run["seconds"]


def test_a_run_that_fails_is_one_line_and_the_others_go_on(processes, tiny, ask):
    processes.broken.add("0-regulated")
    wrong = Arm("wrong", "distill", {"student.objective": {"name": "cross-entropy"},
                                     "student.regulation.ceiling": 0.9})  # fmt: skip
    said = []
    content = bench(replace(tiny, arms=[wrong, *tiny.arms]), replace(ask, rounds=1), said.append)
    assert [failure["run"] for failure in content["failed"]] == ["0-wrong", "0-regulated"]
    assert all("\n" not in failure["error"] for failure in content["failed"])
    assert len([line for line in said if line.startswith("failed: tiny ")]) == 2
    arms = arms_of(content)
    assert arms["regulated"]["seconds"] is None
    assert arms["stored"]["seconds"]["n"] == arms["live"]["seconds"]["n"] == 1
    assert [ratio["value"] for ratio in content["ratios"]] == [None, None]
    # It is tried again.
    processes.broken.clear()
    content = bench(tiny, replace(ask, rounds=1))
    assert arms_of(content)["regulated"]["seconds"]["n"] == 1


def test_a_teacher_that_cannot_be_had(processes, tiny, ask):
    processes.broken.add("teacher-t")
    with pytest.raises(FrugalKDError, match=r"^teacher t: its process was ended by SIGKILL"):
        bench(tiny, ask)


def test_a_teacher_that_is_there(processes, tiny, ask, tmp_path):
    one = replace(ask, rounds=1, arms=("stored",))
    bench(tiny, one)
    copied = Ask(tmp_path / "other", rounds=1, arms=("stored",))
    shutil.copytree(ask.out / "teachers/t", copied.out / "teachers/t")
    processes.started.clear()
    bench(tiny, copied)
    assert processes.names("teach") == []
    named = Ask(
        tmp_path / "third", rounds=1, arms=("live",), teachers={"t": ask.out / "teachers/t"}
    )
    bench(tiny, named)
    assert processes.names("teach") == []
    assert not (named.out / "teachers").exists()
    other = replace(tiny, teacher=Teacher("t", "digits", {"teacher.training.epochs": 1}))
    with pytest.raises(RunFolderError, match=r"holds a teacher of other settings: delete it$"):
        bench(other, copied)


def test_arms_beside_each_other(processes, beside, ask):
    content = bench(beside, ask)
    assert processes.started == [("together", "together")]
    for arm in content["arms"]:
        assert arm["seconds"]["n"] == 3
        assert arm["first_seconds"] > 0
    assert content["ratios"][0]["value"]["n"] == 3
    assert bench(beside, replace(ask, rounds=2)) == content
    assert len(processes.started) == 1
    bench(beside, replace(ask, rounds=4))
    assert len(processes.started) == 2


def test_an_arm_beside_others_may_fail(processes, beside, ask):
    wrong = Arm("wrong", "plain", {"student.objective": {"name": "cross-entropy"}})
    content = bench(replace(beside, arms=[wrong, *beside.arms]), ask)
    assert [failure["run"] for failure in content["failed"]] == ["wrong"]
    assert arms_of(content)["wrong"]["runs"] == []
    assert arms_of(content)["engine"]["seconds"]["n"] == 3


def test_a_quick_look_lies_apart(processes, tiny, ask):
    content = bench(tiny, replace(ask, quick=True, rounds=1))
    assert content["quick"]
    assert (ask.out / "quick-tiny.json").is_file()
    assert not (ask.out / "tiny.json").exists()
    assert not arms_of(content)["live"]["scaled"]
    assert (ask.out / "teachers/quick-t/results.json").is_file()


def test_the_plan_tells_what_is_done(processes, tiny, beside, ask):
    before = planned(tiny, ask)
    assert not list(ask.out.iterdir())
    assert before["teacher"] == {"name": "t", "there": False}
    assert [(arm["epochs"], arm["of"]) for arm in before["arms"]] == [(1, 4), (4, 4), (4, 4)]
    assert {(arm["runs"], arm["done"], arm["seconds"]) for arm in before["arms"]} == {(2, 0, None)}
    bench(tiny, replace(ask, arms=("stored",)))
    after = planned(tiny, ask)
    assert after["teacher"] == {"name": "t", "there": True}
    assert [arm["done"] for arm in after["arms"]] == [0, 2, 0]
    assert after["arms"][1]["seconds"] > 0
    assert {arm["done"] for arm in planned(beside, ask)["arms"]} == {0}
    with pytest.raises(UnknownName):
        planned(tiny, replace(ask, arms=("none",)))


@pytest.fixture
def ledger():
    figures = [Figure("bytes", "bytes a sample", 20, at_most=True), Figure("plan_all", "s", 1e-9)]
    return Measurement("ledger", "a ledger", "a second", 10**8, 300, figures)


def test_figures_are_measured_once(processes, ledger, ask, monkeypatch):
    monkeypatch.setattr("benchmarks.timing.ledger.BLOCKS", 2)
    monkeypatch.setattr("benchmarks.timing.ledger._SAVES", 1)
    quick = replace(ask, quick=True)
    assert planned(ledger, quick)["arms"][0]["done"] == 0
    content = bench(ledger, quick)
    assert json.loads((ask.out / "quick-ledger.json").read_text()) == content
    assert content["samples"] == 300
    size, plan = content["figures"]
    assert size["value"] == {"median": 20, "min": 20, "max": 20, "n": 1}
    assert size["reached"] == {"must": True, "aim": None}
    assert plan["value"]["n"] == 3
    assert bench(ledger, quick) == content
    assert len(processes.started) == 1
    assert planned(ledger, quick)["arms"][0]["done"] == 1
    assert planned(ledger, ask)["arms"][0]["done"] == 0


def test_figures_that_cannot_be_measured(processes, ledger, ask):
    processes.broken.add("measured")
    content = bench(ledger, ask)
    assert [failure["run"] for failure in content["failed"]] == ["measured"]
    assert content["figures"] == []
