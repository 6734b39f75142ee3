"""A folder or a file becomes plain data, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import make_comparison

from frugalkd.errors import FrugalKDError, ReportError, RunFolderError
from frugalkd.experiments.report import collect, make_page
from frugalkd.experiments.runs.schema import Comparison, RunRecord
from frugalkd.experiments.runs.summary import write_summary
from frugalkd.ledger.ledger import Ledger

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


def write_run(folder, rows, digest):
    folder.mkdir(parents=True)
    epoch = {"samples": 100, "participations": 5}
    results = {
        "schema": 1, "kind": "distill", "digest": digest, "recipe": {}, "versions": {}, "seed": 0,
        "threads": 1, "split": "test", "train_samples": 100, "budget": 0.5, "meters": {},
        "history": [{"epoch": k, "rows": n, **epoch} for k, n in enumerate(rows)],
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))


def test_a_comparison_by_its_folder_and_as_a_file(written):
    folder = written(make_comparison())
    found = collect(folder)
    assert isinstance(found, Comparison)
    assert [arm.arm for arm in found.arms] == ["vanilla", "regulated", "random:regulated"]
    assert collect(folder / "comparison.json") == found


def test_a_run(tmp_path):
    write_run(tmp_path / "run", [100, 50], "d")
    found = collect(tmp_path / "run")
    assert isinstance(found, RunRecord)
    assert found.summary is None
    (tmp_path / "run/results.json").write_text('{"schema": 2, "history": []}')
    with pytest.raises(ReportError, match="name the folder of a comparison or of a run"):
        collect(tmp_path / "run/results.json")


def test_a_long_run_is_averaged(tmp_path):
    run = tmp_path / "run"
    write_run(run, [100 - k // 5 for k in range(500)], "d")
    ledger = Ledger.new(100)
    ledger.epochs = 500.0
    write_summary(run, "distill", ledger)
    found = collect(run)
    assert isinstance(found, RunRecord)
    assert found.summary is not None
    assert found.shares is not None
    assert found.shares.epochs[:2] == [3, 8]
    assert found.shares.trained == pytest.approx([1 - k / 100 for k in range(100)])
    html = make_page(found)
    assert "Of many epochs up to 5 at a time are averaged." in html
    assert "first epochs" in html


def test_what_is_not_there(tmp_path):
    with pytest.raises(ReportError, match="there is no"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"neither comparison\.json nor results\.json"):
        collect(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ReportError, match="not done"):
        collect(tmp_path)


def _set(value, *path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(9, "schema"), "newer frugalkd"),
        (_set(None, "arms"), "damaged: arms"),
        (_set("x", "arms", 1, "accuracy"), "arms.1.accuracy"),
        (_set({"mean": "\u202e<b>"}, "arms", 1, "budget"), "arms.1.budget.mean"),
        (_set([1, 2, 3], "arms", 0, "accuracy", "ci95"), "arms.0.accuracy.ci95"),
        (_set([0.5], "arms", 1, "history", "trained"), "arms.1.history: .*not equally long"),
        (_set(None, "recipe"), "damaged: recipe"),
        (_set(-1, "teachers", 0, "summary", "most", 0, "id"), "most.0.id"),
    ],
)
def test_a_damaged_file_is_one_line(written, change, said):
    content = make_comparison()
    change(content)
    with pytest.raises(FrugalKDError, match=said) as raised:
        collect(written(content))
    assert "\n" not in str(raised.value)


def test_a_file_cut_short(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(make_comparison())[:500])
    with pytest.raises(RunFolderError, match="damaged"):
        collect(tmp_path)
