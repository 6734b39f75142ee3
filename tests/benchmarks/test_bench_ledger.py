"""The measurement runs, removes its files, and reports missed bounds."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.timing import ledger as case


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(case, "BLOCKS", 2)
    monkeypatch.setattr(case, "_SAVES", 1)


@pytest.mark.heavy
def test_every_figure_with_a_bound_is_measured(tmp_path):
    figures = case.measure(500, tmp_path)
    assert set(case.MUST) < set(figures)
    assert figures["samples"] == 500
    assert figures["bytes"] == 20
    for name, values in figures["runs"].items():
        assert min(values) <= figures[name] <= max(values)
        assert min(values) > 0
    assert figures["threads"] == 1
    assert 0 < figures["cpu_share"] < 1.1
    assert not list(tmp_path.iterdir())
    json.dumps(figures, allow_nan=False)


def test_plans_contain_the_active_samples(tmp_path, monkeypatch):
    planned = []

    def plan(selection):
        planned.append(next(iter(selection)))
        return 1.0

    monkeypatch.setattr(case, "_plan", plan)
    case.measure(3000, tmp_path)
    assert {epoch.screened for epoch in planned} == {0}
    assert [epoch.planned for epoch in planned[3:]] == [3000] * 3
    assert all(300 < epoch.planned < 420 for epoch in planned[:3])


def test_missed_bounds_are_reported():
    kept = {name: bound for name, (_, bound) in case.MUST.items()}
    assert case.missed(kept) == []
    assert case.missed({**kept, "plan_12": 3.5}) == ["plan_12 is 3.5, and must be <= 3"]
    (missed,) = case.missed({**kept, "observe_logits": 1e6})
    assert "must be >= 2e+06" in missed


def test_an_empty_ledger_is_refused(tmp_path):
    with pytest.raises(ValueError, match="samples"):
        case.measure(0, tmp_path)


@pytest.mark.heavy
def test_the_command_writes_the_figures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "ledger.json"
    monkeypatch.setattr(sys, "argv", ["ledger", "--samples", "300", "--out", str(out)])
    case.main()
    assert json.loads(out.read_text())["samples"] == 300
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]
    assert "observe_verdicts" in capsys.readouterr().out
