"""Runs of several ranks: one folder, one store filled by all, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frugalkd.errors import FrugalKDError, FrugalKDWarning
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.folder import RunFolder, read_metrics, read_results
from frugalkd.experiments.runs.targets import store
from frugalkd.ledger.ledger import Ledger
from frugalkd.teachers import FillOptions
from frugalkd.teachers.store import Store
from ranking import on_ranks

MODEL = {"name": "mlp", "options": {"hidden": [8]}}
SET = {
    "data": {"path": "toys:kinds", "options": {"samples": 300}},
    "teacher.model": MODEL,
    "student.model": MODEL,
    "teacher.training.epochs": 2,
    "teacher.training.batch_size": 16,
    "student.training.epochs": 3,
    "student.training.batch_size": 16,
    "student.targets.views": 2,
}


def recipe(**more):
    return load_recipe("digits", [f"{key}={json.dumps(v)}" for key, v in {**SET, **more}.items()])


def _failing(work):
    try:
        return work()
    except FrugalKDError as error:
        return f"{type(error).__name__}: {error}"


def _run(folder):
    """All that a rank comes to: a teacher, a store, a student, and what is refused."""
    made = recipe()
    records = []
    taught = teach(made, folder / "t", on_epoch_end=records.append)
    filled = store(made, folder / "store", teacher=folder / "t")
    alone = distill(made, folder / "s", teacher=folder / "t", on_epoch_end=records.append)
    again = distill(made, folder / "s", teacher=folder / "t")
    scored = recipe(
        **{
            "student.mode": None,
            "student.policy": {"name": "el2n", "budget": 0.5, "epochs": 1, "seeds": 1},
        }
    )
    first_visit = recipe(**{"student.targets.fill": "first-visit"})
    return {
        "teach": taught,
        "store": filled,
        "distill": alone,
        "again": again,
        "records": len(records),
        "scored": distill(scored, folder / "e", teacher=folder / "t"),
        "shard": _failing(
            lambda: store(
                made, folder / "x", teacher=folder / "t", options=FillOptions(shard=(0, 2))
            )
        ),
        "other": _failing(lambda: teach(recipe(seed=1), folder / "t")),
        "first-visit": _failing(lambda: distill(first_visit, folder / "f", teacher=folder / "t")),
        "threads": torch.get_num_threads(),
    }


@pytest.mark.slow
@pytest.mark.heavy
def test_ranks_share_a_folder_and_a_store(tmp_path):
    first, second = on_ranks(2, _run, tmp_path)
    assert all(second[name] == first[name] for name in ("teach", "distill", "scored"))
    assert (first["records"], second["records"]) == (5, 0)
    # The folder is the first rank's, and is that of a run like any other.
    results = read_results(tmp_path / "s")
    assert results == first["distill"]
    assert results["ranks"] == 2
    assert first["again"] == second["again"] == results
    assert read_metrics(tmp_path / "s") == results["history"]
    ledger = Ledger.load(tmp_path / "s")
    counted = int(ledger["participations"].sum() + ledger["forced"].sum())
    counted += sum(record["idle"] for record in results["history"])
    assert counted == results["meters"]["samples_backpropagated"]
    # The ranks together queried the teacher once for each row.
    assert results["meters"]["teacher_queries"] == 600
    assert first["store"]["queries"] == second["store"]["queries"] == 600
    parts = Store(tmp_path / "store")
    assert (parts.header.shards, parts.count()) == (2, 600)
    whole = store(recipe(), tmp_path / "whole", teacher=tmp_path / "t")
    assert whole["rows"] == 600
    ids, views = np.arange(300), np.ones(300, dtype=np.int64)
    np.testing.assert_allclose(
        parts.read(ids, views), Store(tmp_path / "whole").read(ids, views), rtol=2e-3
    )
    assert first["scored"]["scoring"]["made_here"]
    # What one of them is refused, all are.
    assert first["shard"].startswith("RankError: --shard 0/2 is for processes that were started")
    assert "holds another run" in first["other"]
    assert second["other"].startswith("OtherRankFailed: the first rank failed: ")
    for said in (first, second):
        assert said["first-visit"].startswith("RankError: targets.fill: first-visit is for one")


def _stopped(folder):
    """In the second of two epochs, of nine steps each."""
    calls = []

    def stop():
        calls.append(0)
        return len(calls) == 12

    return _failing(lambda: teach(recipe(), folder, should_stop=stop))


@pytest.mark.heavy
def test_a_run_of_two_ranks_is_resumed_by_one(tmp_path):
    assert on_ranks(2, _stopped, tmp_path)[0].startswith("Stopped: stopped at epoch 1, step ")
    with pytest.warns(FrugalKDWarning, match="resuming with 1 ranks from a state of 2: the ledger"):
        results = teach(recipe(), tmp_path, resume=True)
    assert results["ranks"] == 1
    assert [record["epoch"] for record in results["history"]] == [0, 1]
    ledger = Ledger.load(tmp_path)
    deferred = sum(record["deferred"] for record in results["history"])
    assert int(ledger["visits"].sum()) == 2 * 300 - deferred


def _claim(folder):
    ranks = _ranks()
    with RunFolder(folder, ranks.first) as run:
        ranks.from_first(lambda: run.begin("d", {}, "teach", False))
        run.note(queries_of={"teacher": 3})
        run.note(scored=True)
        torch.distributed.barrier()
        return run.notes().queries_of, run.notes().scored


def _ranks():
    from frugalkd.distributed.ranks import Ranks

    return Ranks.here()


@pytest.mark.heavy
def test_a_folder_is_claimed_once_for_all_ranks(tmp_path):
    assert on_ranks(2, _claim, tmp_path / "run") == [({"teacher": 3}, True)] * 2


def test_one_process_says_that_it_was_one(tmp_path):
    assert teach(recipe(), tmp_path)["ranks"] == 1
