"""The runner of benchmarks/noise: its jobs, its measures, its tables."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.noise import __main__ as runner
from benchmarks.noise import methods
from benchmarks.noise.data import TASKS, load
from benchmarks.noise.table import average_precision, measures, paired, summarise, table
from frugalkd.errors import SettingError
from frugalkd.files.lock import Lock

SMALL = ["--data", "digits", "--rows", "240", "--noise", "symmetric-0.2", "--seeds", "1"]
FAST = "teach,teach-auto,aum,student-full,student-early,student-gate"
CORRECTED = "untouched,removed,relabelled,removed-at-random"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.nice", lambda step: 19)
        patch.setattr(methods, "NAMED", 48)
        runner.main(["run", "--out", str(out), *SMALL, "--methods", f"{FAST},{CORRECTED}"])
    return out


def result(out, method):
    return json.loads((out / f"digits-240-symmetric-0.2-{method}-s0" / "result.json").read_text())


@pytest.mark.heavy
def test_every_method_leaves_its_result(done, capsys):
    for method in FAST.split(","):
        found = result(done, method)
        assert (found["method"], found["seed"], found["rows"]) == (method, 0, 240)
        assert found["seconds"]["cpu"] > 0
    runner.main(["table", "--out", str(done), *SMALL, "--to", str(done / "t.json")])
    text = capsys.readouterr().out
    for name in (
        "teach: audit",
        "teach: margin",
        "teach-auto: probability",
        "aum: aum",
        "student-gate",
    ):
        assert f"| {name} | 1 |" in text
    said = json.loads((done / "t.json").read_text())["symmetric-0.2"]
    assert said["rows"] == 240
    assert said["rankings"]["teach: margin"]["seeds"][0]["average_precision"] > 0.7, "chance: 0.2"
    assert said["rankings"]["aum: aum"]["seeds"][0]["average_precision"] > 0.7
    assert said["rankings"]["teach: audit"]["seeds"][0]["average_precision"] > 0.7
    assert "ours_minus_this" not in said["rankings"]["teach: audit"]
    low, high = said["rankings"]["aum: aum"]["ours_minus_this"]["ci95"]
    assert low <= said["rankings"]["aum: aum"]["ours_minus_this"]["mean"] <= high
    assert result(done, "student-gate")["cost"] < 0.5 * result(done, "student-full")["cost"]
    assert 0 <= result(done, "teach-auto")["disbelieved"]["wrong"] <= 240


def test_trainings_on_corrected_labels_are_compared(done, capsys):
    f1 = {name: result(done, name)["f1"] for name in CORRECTED.split(",")}
    assert min(f1.values()) > 0.6
    assert len(set(f1.values())) == 4
    runner.main(["table", "--out", str(done), *SMALL, "--methods", CORRECTED])
    lines = capsys.readouterr().out.splitlines()
    assert f"| untouched | 1 | {100 * f1['untouched']:.2f} |  |" in lines
    gain = 100 * (f1["removed"] - f1["untouched"])
    assert f"| removed | 1 | {100 * f1['removed']:.2f} | {gain:+.2f} |" in lines


def test_what_is_done_is_not_done_again(done, monkeypatch):
    monkeypatch.setattr("os.nice", lambda step: 19)

    def fail(*_):
        raise AssertionError("it was done")

    monkeypatch.setattr(runner, "run", fail)
    runner.main(["run", "--out", str(done), *SMALL, "--methods", FAST])


def test_a_job_that_another_process_runs_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("os.nice", lambda step: 19)
    ran = []
    monkeypatch.setattr(runner, "run", lambda job, folder: ran.append(job.method))
    options = Namespace(
        data="digits", rows=60, noise="none", methods="teach,aum", seeds=1, first_seed=0
    )
    jobs = runner.jobs_of(options)
    (tmp_path / jobs[0].name).mkdir()
    with Lock(tmp_path / jobs[0].name):
        assert runner.work(jobs, tmp_path) == 1
    assert ran == ["aum"]


def test_a_job_waits_for_the_one_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("os.nice", lambda step: 19)
    ran = []

    def finish(job, folder):
        ran.append(job.method)
        (folder / "result.json").write_text("{}")

    monkeypatch.setattr(runner, "run", finish)
    arguments = ["--data", "digits", "--noise", "none", "--seeds", "1"]
    runner.main(["run", "--out", str(tmp_path), *arguments, "--methods", "student-cleanlab"])
    assert ran == []
    both = "student-cleanlab,cleanlab"
    runner.main(["run", "--out", str(tmp_path), *arguments, "--methods", both])
    assert ran == ["cleanlab", "student-cleanlab"]


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_those_of_their_definitions(seed):
    stream = np.random.default_rng(seed)
    wrong, scores = stream.random(700) < 0.3, stream.random(700)
    order = sorted(range(700), key=lambda id: scores[id])
    found: Any = measures(wrong, scores)
    hits = 0
    precisions = []
    for place, id in enumerate(order, 1):
        hits += wrong[id]
        if wrong[id]:
            precisions.append(hits / place)
        if hits >= 0.8 * wrong.sum():
            assert found["reviews_for_80"] <= place
    assert found["average_precision"] == pytest.approx(np.mean(precisions))
    assert found["precision_at_100"] == wrong[order[:100]].mean()
    assert wrong[order[: found["reviews_for_80"]]].sum() >= 0.8 * wrong.sum()
    assert wrong[order[: found["reviews_for_80"] - 1]].sum() < 0.8 * wrong.sum()


def test_the_paired_bootstrap_sees_which_is_better():
    stream = np.random.default_rng(0)
    wrong = stream.random(500) < 0.3
    good, bad = stream.random(500) - wrong, stream.random(500) - 0.3 * wrong
    draws = paired(wrong, good, bad, draws=50)
    assert draws.shape == (50,)
    assert (draws > 0).all()
    assert (paired(wrong, good, good, draws=5) == 0).all()


def test_the_paired_bootstrap_draws_samples_with_replacement():
    stream = np.random.default_rng(1)
    wrong, rough = stream.random(300) < 0.3, stream.normal(size=300)
    one, other = rough - wrong, np.round(rough - 0.5 * wrong, 1)  # many of the others are equal
    again = np.random.default_rng(7)
    wanted = []
    for _ in range(5):
        ids = again.integers(300, size=300)
        found = (average_precision(wrong[ids], each[ids]) for each in (one, other))
        wanted.append(next(found) - next(found))
    assert paired(wrong, one, other, draws=5, seed=7) == pytest.approx(np.array(wanted))


def test_aum_is_the_mean_margin_over_half_the_epochs(monkeypatch):
    """Against a network whose logits are known: the margins of labels, and of threshold samples."""
    noisy: Any = load("digits", 110, "symmetric-0.2", 0)

    class Known(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(11))

        def forward(self, x):
            return x.flatten(1)[:, :11] + 0 * self.shift

    monkeypatch.setattr(methods, "make_model", lambda *_: Known())
    scores, notes = methods.aum(TASKS["digits"], noisy, 0, None)  # pyright: ignore
    logits = noisy.train.batch(np.arange(110), np.zeros(110, int))[0].flatten(1)[:, :11].numpy()
    labels, rows = noisy.train.labels.numpy(), np.arange(110)
    others = logits.copy()
    others[rows, labels] = -np.inf
    assert scores["aum"] == pytest.approx(logits[rows, labels] - others.max(axis=1), abs=1e-5)
    assert len(notes["thresholds"]) == 2


def test_noise_by_its_name():
    clean = load("digits", 100, "none", 0)
    assert not clean.wrong.any()
    noisy = load("digits", 100, "next-class-0.5", 3)
    wrong = noisy.wrong
    assert 0.3 < wrong.mean() < 0.7
    assert (noisy.train.labels.numpy()[wrong] == (noisy.truth[wrong] + 1) % 10).all()
    assert (noisy.truth == clean.truth).all()


def test_human_labels_belong_to_the_rows_of_cifar10(require_data):
    require_data("cifar_n/cifar10n.parquet")
    with pytest.raises(SettingError, match="labels of cifar10"):
        load("digits", 100, "human-worse", 0)


@pytest.mark.heavy
def test_human_labels_are_wrong_as_often_as_published(require_data):
    require_data("cifar_n/cifar10n.parquet")
    require_data("cifar10/train.parquet")
    assert load("cifar10", 20_000, "human-worse", 0).wrong.mean() == pytest.approx(0.40, abs=0.01)
    shares = load("cifar10", 20_000, "human-aggregate", 0).wrong.mean()
    assert shares == pytest.approx(0.09, abs=0.01)


@pytest.mark.slow
@pytest.mark.heavy
def test_cleanlab_reads_probabilities_out_of_sample(tmp_path):
    pytest.importorskip("cleanlab", reason="benchmarks alone compare with it")
    noisy = load("digits", 240, "symmetric-0.2", 0)
    scores, notes = methods.cleanlab(TASKS["digits"], noisy, 0, tmp_path)
    assert scores.keys() == {
        "self_confidence", "normalized_margin", "confidence_weighted_entropy",
    }  # fmt: skip
    kept = np.load(tmp_path / "probabilities.npy")
    labels = noisy.train.labels.numpy()
    own = kept[np.arange(240), labels]
    assert scores["self_confidence"] == pytest.approx(own, abs=1e-5)
    assert average_precision(noisy.wrong, scores["self_confidence"]) > 0.7
    assert notes["cost"] == pytest.approx(8 * 4, rel=0.02), "five trainings on four fifths"


def test_a_table_of_nothing_is_empty(tmp_path):
    assert summarise(tmp_path, ["absent"]) == {}
    assert table({}) == ""
