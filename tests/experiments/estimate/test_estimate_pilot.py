"""Whole estimates on some of the digits. With much time a pilot runs the trainings themselves, with
none the smallest miniatures: what it keeps does not depend on the machine."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frugalkd.errors import LedgerError, RecipeError, RunFolderError, UnsupportedData
from frugalkd.experiments.estimate import estimate
from frugalkd.experiments.estimate.model import Curve, Range, exactly
from frugalkd.experiments.estimate.pilot import FORWARD, Trainee, part_of, row_costs
from frugalkd.experiments.estimate.run import MOST_FAIL, _verdict, _verdict_at_cost
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.targets import ensure_targets
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import SelfRegulation
from frugalkd.policies.modes import MODES
from frugalkd.training.api import distill as distill_plainly
from frugalkd.training.evaluation import predict
from toys import Ids, images

FEW = [
    "data.train_size=300",
    "student.training.epochs=4",
    "teacher.training.epochs=8",
    "teacher.training.batch_size=16",
]
WHOLE, SHORT = 1000.0, 0.01


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate") / "teacher"
    teach(load_recipe("digits", FEW), folder)
    return folder


@pytest.fixture(scope="module")
def known(teacher):
    return estimate(load_recipe("digits", FEW), teacher=teacher, seconds=WHOLE)


@pytest.fixture(scope="module")
def unknown():
    return estimate(load_recipe("digits", FEW), seconds=SHORT)


def by_mode(result):
    return {(row["mode"], row["targets"]): row for row in result["modes"]}


def warned(result, word):
    return any(word in line for line in result["warnings"])


@pytest.mark.heavy
def test_class_weights_are_said_to_be_left_out():
    weighed = load_recipe("digits", [*FEW, "student.class_weights=balanced"])
    assert warned(estimate(weighed, seconds=SHORT), "class_weights")


def test_an_estimate_is_json(known):
    assert json.loads(json.dumps(known, allow_nan=False))["samples"] == 300


def test_every_mode_has_a_row(known):
    rows = by_mode(known)
    modes = {(mode, "stored") for mode in MODES}
    assert set(rows) == modes | {("vanilla", "live"), ("ceiling 0.9", "stored")}
    for row in known["modes"]:
        for name in ("kept", "seconds", "of_vanilla"):
            assert 0 <= row[name].low <= row[name].point <= row[name].high
        assert not row["rough"]
    size, costs = 300 * 4, known["costs"]
    assert rows["vanilla", "stored"]["seconds"].point == pytest.approx(size * costs["step"])
    live = rows["vanilla", "live"]["seconds"].point
    assert live == pytest.approx(size * (costs["step"] + costs["query"]))


def test_a_pilot_with_much_time_runs_the_training(known, teacher, tmp_path):
    """Then what it keeps is what the real run keeps, to what another store's rounding does."""
    assert (known["pilot"]["rows"], known["pilot"]["small_rows"]) == (300, 0)
    results = distill(load_recipe("digits", FEW), tmp_path / "s", teacher=teacher)
    regulated = by_mode(known)["regulated", "stored"]
    assert regulated["kept"].point == pytest.approx(results["budget"], abs=0.01)
    forwards = results["meters"]["student_forwards"] / (300 * 4)
    assert regulated["forwards"].point == pytest.approx(forwards, abs=0.02)
    sizes = [
        sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")
        for folder in teacher.glob("targets-*")
    ]
    assert regulated["disk_bytes"] in sizes


def test_significance_is_read_from_the_ledger(known, teacher):
    used = float((Ledger.load(teacher).significance > 0).mean())
    assert by_mode(known)["significance", "stored"]["kept"] == exactly(used)
    results = json.loads((teacher / "results.json").read_text())
    made, meters = known["teacher"], results["meters"]
    assert made["recorded"]
    assert made["kept"] == exactly(results["budget"])
    assert made["self_regulated"] == exactly(meters["wall_seconds"])
    visits = results["train_samples"] * 8
    screened = (meters["student_forwards"] - meters["samples_backpropagated"]) / visits
    steps = results["budget"] + FORWARD * screened
    assert made["conventional"] == pytest.approx(meters["wall_seconds"] / steps)


def test_without_a_teacher_bounds_are_marked(unknown):
    rough = {mode for (mode, _), row in by_mode(unknown).items() if row["rough"]}
    assert rough == {"significance", "hybrid", "ceiling 0.9"}
    assert not unknown["teacher"]["recorded"]
    assert warned(unknown, "--teacher")
    assert unknown["pilot"]["small_rows"] > 0
    assert unknown["pilot"]["epochs"] == 4


def test_r_is_teacher_over_student(unknown):
    # Linear layers: 64-256-256-10 and 64-24-10.
    teacher, student = 64 * 256 + 256 * 256 + 256 * 10, 64 * 24 + 24 * 10
    assert unknown["r"]["flops"] == pytest.approx(teacher / student)
    costs = unknown["costs"]
    assert unknown["r"]["time"] == pytest.approx(costs["query"] / costs["screen"])


@pytest.mark.heavy
def test_a_gate_that_no_sample_passes_does_not_pay():
    result = estimate(
        load_recipe("digits", [*FEW, "student.regulation.confidence=1"]), seconds=WHOLE
    )
    assert result["pays"] is False
    assert result["verdict"].startswith("selection will not pay here: regulated is expected ")
    assert by_mode(result)["regulated", "stored"]["kept"].point == 1


def test_a_miniature_that_no_sample_passes_gives_no_verdict():
    settings = [*FEW, "student.regulation.confidence=1", "student.training.epochs=20"]
    result = estimate(load_recipe("digits", settings), seconds=SHORT)
    assert result["pays"] is None
    assert "too short" in result["verdict"]
    assert warned(result, "hardly a sample")


@pytest.mark.parametrize(
    ("ratio", "pays", "says"),
    [
        (Range(0.5, 0.4, 0.94), True, "selection pays here: hybrid "),
        (Range(0.9499, 0.4, 0.95), True, "selection may pay here: hybrid "),
        (Range(0.95, 0.4, 1.0), False, "selection will not pay here: hybrid "),
    ],
)
def test_verdicts(ratio, pays, says):
    found = _verdict({"mode": "hybrid", "of_vanilla": ratio}, silent=False)
    assert found[0] is pays
    assert found[1].startswith(says)
    assert _verdict({"mode": "hybrid", "of_vanilla": ratio}, silent=True)[0] is None
    assert _verdict({"mode": "hybrid", "of_vanilla": exactly(1.0)}, silent=True)[0] is False


def test_live_targets_query_only_for_the_kept():
    settings = [*FEW, "student.targets.kind=live", "student.mode=vanilla"]
    result = estimate(load_recipe("digits", settings), seconds=SHORT)
    row, costs = by_mode(result)["regulated", "live"], result["costs"]
    assert row["disk_bytes"] == row["fill_seconds"] == 0
    kept, forwards = row["kept"].point, row["forwards"].point
    expected = kept * (costs["step"] + costs["query"]) + (forwards - kept) * costs["screen"]
    assert row["seconds"].point == pytest.approx(300 * 4 * expected)
    assert result["verdict_mode"] == "regulated"


@pytest.mark.parametrize("setting", ["features=[layers.4]", "kind=live"])
@pytest.mark.heavy
def test_an_objective_that_reads_features(teacher, setting):
    hints = "{name: fitnets, student: layers.2, teacher: layers.4}"
    settings = [f"student.objective={hints}", f"student.targets.{setting}"]
    recipe = load_recipe("digits", [*FEW, *settings])
    result = estimate(recipe, teacher=teacher, seconds=SHORT)
    if setting == "kind=live":
        assert by_mode(result)["regulated", "live"]["disk_bytes"] == 0
        return
    ensure_targets(recipe, teacher)
    (features,) = teacher.glob("targets-*/features")
    files = list(features.parent.rglob("*.bin"))
    assert len(files) > len(list(features.parent.glob("*.bin")))  # the features' are among them
    size = sum(file.stat().st_size for file in files)
    assert by_mode(result)["regulated", "stored"]["disk_bytes"] == size


def test_an_objective_without_a_teacher_has_no_targets():
    recipe = load_recipe("digits", [*FEW, 'student.objective={"name": "cross-entropy"}'])
    result = estimate(recipe, seconds=SHORT)
    assert {row["targets"] for row in result["modes"]} == {"none"}
    assert result["costs"]["query"] == result["r"]["time"] == 0
    assert result["break_even"]["store"] is None


def test_gate_now_screens_everything():
    recipe = load_recipe("digits", [*FEW, "student.regulation.when=now"])
    row = by_mode(estimate(recipe, seconds=SHORT))["regulated", "stored"]
    assert row["forwards"].point == pytest.approx(row["kept"].point + 1)


@pytest.mark.heavy
def test_a_conventional_teacher_and_a_policy_of_another_kind(tmp_path):
    settings = ["teacher.policy.name=all", "student.mode=null", "student.policy.name=random"]
    recipe = load_recipe("digits", [*FEW, *settings])
    teach(recipe, tmp_path / "t")
    result = estimate(recipe, teacher=tmp_path / "t", seconds=SHORT)
    assert warned(result, "trained conventionally")
    assert warned(result, "own policy (random) is not estimated")
    # Its self-regulation is forecast from an untrained model, not from the one that is there.
    assert result["teacher"]["kept"].point > 0.5
    assert by_mode(result)["significance", "stored"]["rough"]


def test_errors(tmp_path, teacher):
    recipe = load_recipe("digits", FEW)
    for seconds in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="seconds must be positive"):
            estimate(recipe, seconds=seconds)
    with pytest.raises(RunFolderError, match="no folder"):
        estimate(recipe, teacher=tmp_path / "none", seconds=SHORT)
    other = load_recipe("digits", [*FEW, "data.train_size=200"])
    with pytest.raises(LedgerError, match="300 samples, the data have 200"):
        estimate(other, teacher=teacher, seconds=SHORT)
    for setting in ("student.targets.kind=ema", "student.teachers={of: {a: {}, b: {store: x}}}"):
        with pytest.raises(RecipeError, match="needs one teacher"):
            estimate(load_recipe("digits", [setting]), seconds=SHORT)
    for limit in ("student.regulation.cost", "teacher.policy.cost"):
        with pytest.raises(RecipeError, match="a limit of its own: set its cost to null"):
            estimate(load_recipe("digits", [f"{limit}=0.5"]), seconds=SHORT)


def test_a_fit_leaves_a_quarter_of_the_samples_out(monkeypatch):
    runs = []

    def train(*arguments, **settings):
        runs.append(distill_plainly(*arguments, **settings))
        return runs[-1]

    monkeypatch.setattr("frugalkd.experiments.estimate.pilot.distill", train)
    recipe = load_recipe("digits", [*FEW, "student.objective={name: cross-entropy}"])
    data = images(200, augmented=False)
    trainee = Trainee(recipe, recipe.student, data, SelfRegulation())
    fit = trainee.fit(part_of(data, 120), 3, SelfRegulation())
    ledger = runs[0].ledger
    trained = ledger["participations"] + ledger["forced"]
    assert set(trained) == {0, 3}
    assert fit.rows == (trained == 3).sum()
    assert 0.6 < fit.rows / 120 < 0.9
    ledger = runs[1].ledger  # of the model as it is at the end
    assert len(runs) == 2
    assert runs[1].meters.samples_backpropagated == 0
    probabilities = predict(runs[0].model, data.subset(part_of(data, 120).ids))[0]
    assert ledger["confidence"] == pytest.approx(probabilities.max(axis=1), abs=1e-6)
    right, passed = ledger.correct, ledger.correct & (ledger["confidence"] >= 0.9)
    assert right.any()
    assert fit.gap == pytest.approx(right[trained > 0].mean() - right[trained == 0].mean())
    assert fit.unseen == pytest.approx(right[trained == 0].mean())
    assert fit.failing == pytest.approx(1 - passed[trained > 0].mean())


@pytest.mark.heavy
def test_an_estimate_at_a_cost(teacher):
    recipe = load_recipe("digits", [*FEW, "student.cost=0.5"])
    result = estimate(recipe, teacher=teacher, seconds=WHOLE)
    found = result["at_cost"]
    assert found["epochs"] == 2
    assert 0 < found["failing"] <= 1
    assert 0.03 < found["limit"] < 0.2  # a standard error of few samples
    assert result["pays"] == (found["gap"] <= found["limit"] and found["failing"] <= MOST_FAIL)
    assert "at this cost" in result["verdict"]
    plain = estimate(load_recipe("digits", FEW), teacher=teacher, seconds=SHORT)
    assert plain["at_cost"] is None


@pytest.mark.parametrize(
    ("failing", "gap", "silent", "pays", "said"),
    [
        (0.3, 0.01, False, True, "after 6 epochs of everything 30% of the samples fail the gate"),
        (0.3, 0.05, False, False, "5.0 points less often than on its own, over the limit of 3.9"),
        (0.3, 0.035, False, True, "nearly as often (3.5 points less)"),
        (0.9, 0.01, False, False, "over the limit of 60%; choose a larger cost, or mode vanilla"),
        (0.99, 0.0, True, None, "give it --seconds 60"),
    ],
)
def test_the_verdict_at_a_cost(failing, gap, silent, pays, said):
    found = {"epochs": 6.0, "failing": failing, "gap": gap, "limit": 0.039}
    verdict, sentence = _verdict_at_cost(found, silent, "give it --seconds 60")
    assert verdict is pays
    assert said in sentence


def test_a_damaged_folder(tmp_path, teacher):
    for file in teacher.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    results = json.loads((teacher / "results.json").read_text())
    del results["meters"]["wall_seconds"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(RunFolderError, match="does not say what its training cost"):
        estimate(load_recipe("digits", FEW), teacher=tmp_path, seconds=SHORT)


@pytest.mark.parametrize(
    ("seconds", "scale"),
    [(1e9, (60_000, 20)), (40.0, (2000, 20)), (20.0, (1053, 19)), (1.0, (256, 5))],
)
def test_the_size_of_miniatures(seconds, scale, monkeypatch):
    """A row takes 1 ms: half of it in its training, half besides."""
    history = [{"wall_seconds": 5.0}, {"wall_seconds": 5.0 + 10 * 0.25e-3}]
    monkeypatch.setattr(
        Trainee, "miniature", lambda *arguments: (None, SimpleNamespace(history=history))
    )
    training = SimpleNamespace(epochs=20.5, batch_size=64)
    role: object = SimpleNamespace(training=training)
    trainee = Trainee(load_recipe("digits"), role, range(60_000), SelfRegulation())  # pyright: ignore
    rows, epochs = trainee.scale(part_of(torch.arange(10), 10), seconds, 2.0, 0.5e-3)
    assert rows == pytest.approx(scale[0], abs=1)
    assert epochs == scale[1]


@pytest.mark.parametrize("when", ["last-visit", "now"])
def test_a_miniature_is_the_training_without_forced_epochs(when, monkeypatch):
    given = {}

    def train(model, data, **settings):
        given.update(settings, rows=len(data))
        records = [
            {"rows": 4, "screened": 0, "planned": 8},
            {"rows": 2, "screened": 1, "planned": 8},
        ]
        return SimpleNamespace(history=records)

    monkeypatch.setattr("frugalkd.experiments.estimate.pilot.distill", train)
    settings = ["schedule.warmup=0.1", "recalibrate_bn=5", "epochs=10"]
    recipe = load_recipe("digits", [f"student.training.{each}" for each in settings])
    gate = SelfRegulation(when=when, warmup=2, final_full_epochs=1)
    trainee = Trainee(recipe, recipe.student, images(16), gate)
    curve, _ = trainee.miniature(part_of(trainee.data, 8), 2, gate)
    training, policy = given["training"], given["sampling"].policy
    assert (training.epochs, training.schedule.warmup, training.recalibrate_bn) == (2, 0.1, 0)
    assert policy == replace(gate, warmup=0, final_full_epochs=0)
    assert curve.kept == [0.5, 0.25]
    assert curve.screened == ([1, 1] if when == "now" else [0, 0.125])


def test_costs_of_a_row_from_a_run():
    """Epochs of 4, 2 and 2 steps of 1 s and 0, 1 and 1 screenings of 0.5 s, loading included."""
    records = [{"wall_seconds": seconds} for seconds in (50.0, 52.5, 55.0)]
    phases = {"screen": 0.8, "load": 0.6, "wait": 0.4}
    run = SimpleNamespace(history=records, meters=SimpleNamespace(phases=phases))
    curve = Curve(4, [1.0, 0.5, 0.5], [0.0, 0.25, 0.25])
    assert row_costs(run, curve) == pytest.approx((1.0, 0.5))  # pyright: ignore
    never = Curve(4, [1.0, 0.5, 0.5], [0.0, 0.0, 0.0])
    assert row_costs(run, never) == pytest.approx((1.25, 1.25 / 3))  # pyright: ignore


class Views(Ids):
    def view(self, id, view):
        return self[id]


def test_parts_lie_within_each_other():
    data = images(37, augmented=False)
    large, small = part_of(data, 20), part_of(data, 5)
    assert set(small.ids) < set(large.ids)
    for row, id in enumerate(small.ids):
        assert torch.equal(small.data[row][0], data[int(id)][0])
    assert part_of(data, 99).data is data
    part = part_of(Ids(torch.arange(10)), 4)
    assert [int(part.data[row][1]) for row in range(4)] == part.ids.tolist()
    with pytest.raises(UnsupportedData, match=r"subset\(ids\)"):
        part_of(Views(torch.arange(10)), 4)
    assert np.array_equal(part_of(data, 20).ids, large.ids)
