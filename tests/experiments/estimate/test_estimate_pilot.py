"""Whole estimates on the digits, in a second or two."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from frugalkd.errors import FrugalKDError, LedgerError, RecipeError, RunFolderError
from frugalkd.experiments.estimate import Estimate, Range, estimate
from frugalkd.experiments.estimate.arithmetic import students_text
from frugalkd.experiments.estimate.result import Share, exactly
from frugalkd.experiments.estimate.run import _doubts, _silent_on, _verdict
from frugalkd.experiments.estimate.setting import _role_of, prepare
from frugalkd.experiments.estimate.student_side import StudentPilot, bounded
from frugalkd.experiments.estimate.teacher_side import TeacherFound
from frugalkd.experiments.estimate.timing import Timing
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.targets import ensure_targets
from frugalkd.policies.modes import MODES

FEW = ["student.training.epochs=4", "teacher.training.epochs=3"]
SECONDS = 1.0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate") / "teacher"
    teach(load_recipe("digits", FEW), folder)
    return folder


@pytest.fixture(scope="module")
def known(teacher) -> Estimate:
    return estimate(load_recipe("digits", FEW), teacher=teacher, seconds=10)


@pytest.fixture(scope="module")
def unknown() -> Estimate:
    return estimate(load_recipe("digits", FEW), seconds=SECONDS)


def by_mode(result):
    return {(row.mode, row.targets): row for row in result.modes}


def test_json_is_what_the_dataclasses_say_and_nothing_else(known):
    written = json.loads(json.dumps(known.to_dict(), allow_nan=False))
    schema = TypeAdapter(Estimate).json_schema()
    _covered(written, schema, schema)
    assert TypeAdapter(Estimate).validate_python(written) == known


def _covered(value, schema, root):
    """Every key of ``value`` is a property of ``schema``, all the way down."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict):
        assert set(value) == set(schema["properties"])
        for key, inner in value.items():
            _covered(inner, schema["properties"][key], root)
    elif isinstance(value, list) and "items" in schema:
        for inner in value:
            _covered(inner, schema["items"], root)


def test_every_mode_has_a_row(known):
    rows = by_mode(known)
    modes = {(mode, "stored") for mode in MODES}
    assert set(rows) == modes | {("vanilla", "live"), ("ceiling 0.9", "stored")}
    for row in known.modes:
        assert 0 <= row.kept.low <= row.kept.point <= row.kept.high <= 1
        assert row.seconds.low <= row.seconds.point <= row.seconds.high
        assert not row.rough
    vanilla = rows["vanilla", "stored"]
    size = known.samples * known.epochs
    assert vanilla.seconds.point == pytest.approx(size * known.costs.step)
    live = rows["vanilla", "live"]
    assert live.seconds.point == pytest.approx(size * (known.costs.step + known.costs.ask))


def test_a_pilot_that_can_afford_it_runs_the_training_itself(known, teacher, tmp_path):
    """Then what it keeps is what the real run keeps, to what another store's rounding does."""
    assert known.pilot.rows == known.samples
    assert known.pilot.small_rows == 0
    results = distill(load_recipe("digits", FEW), tmp_path / "s", teacher=teacher)
    regulated = by_mode(known)["regulated", "stored"]
    assert regulated.kept.point == pytest.approx(results["budget"], abs=0.01)
    forwards = results["meters"]["student_forwards"] / (known.samples * known.epochs)
    assert regulated.forwards.point == pytest.approx(forwards, abs=0.02)
    # The disk that it says is what the store takes.
    assert regulated.disk_bytes == sum(
        file.stat().st_size for file in _files_of(teacher, regulated.disk_bytes)
    )


def _files_of(teacher, size):
    """The store among the teacher's that holds as many bytes."""
    for folder in teacher.glob("targets-*"):
        files = [file for file in folder.iterdir() if file.suffix != ".json"]
        if sum(file.stat().st_size for file in files) == size:
            return files
    return []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"model": {"path": "os:system"}}, "names the import path 'os:system'"),
        ({"objective": {"name": "own", "path": "os:system"}}, "names the import path 'os:system'"),
        (
            {"model": {"name": "timm/resnet10t", "init_weights": "pretrained"}},
            "pretrained to begin with",
        ),
    ],
)
def test_sound_12_a_teachers_folder_is_followed_nowhere(setting, says, contacted):
    recipe = load_recipe("digits")
    said = {"kind": "teach", "recipe": recipe.model_dump(mode="json")}
    said["recipe"]["teacher"] |= setting
    with pytest.raises(FrugalKDError, match=says):
        _role_of(said, recipe)
    assert contacted == []


def test_significance_is_read_from_the_ledger(known, teacher):
    from frugalkd.ledger.ledger import Ledger

    took_part = float((Ledger.load(teacher).significance > 0).mean())
    assert by_mode(known)["significance", "stored"].kept == exactly(took_part)
    results = json.loads((teacher / "results.json").read_text())
    assert known.teacher.kept == exactly(results["budget"])
    assert known.teacher.folder_seconds == results["meters"]["wall_seconds"]
    # The same clock for both ways of training it: rows times what a row costs here.
    meters, costs = results["meters"], known.costs
    kept, forwards = meters["samples_backpropagated"], meters["student_forwards"]
    by_hand = kept * costs.teacher_step + (forwards - kept) * costs.teacher_screen
    assert known.teacher.self_regulated.point == pytest.approx(by_hand)
    assert known.teacher.counted
    assert known.teacher.ledger
    assert known.teacher.self_regulated.low == known.teacher.self_regulated.high


def test_without_a_teacher_bounds_are_marked(unknown):
    rows = by_mode(unknown)
    rough = {mode for (mode, _), row in rows.items() if row.rough}
    assert rough == {"significance", "hybrid", "ceiling 0.9"}
    assert unknown.teacher.known == "untrained"
    assert not unknown.teacher.counted
    assert any("--teacher" in line for line in unknown.warnings)


def test_r_is_teacher_over_student(unknown):
    recipe = load_recipe("digits")
    assert recipe.teacher.model.name == recipe.student.model.name == "mlp"
    # Linear layers, two operations a weight: 64-256-256-10 and 64-24-10.
    teacher, student = 64 * 256 + 256 * 256 + 256 * 10, 64 * 24 + 24 * 10
    assert unknown.flops.teacher_forward == 2 * teacher
    assert unknown.flops.student_forward == 2 * student
    assert unknown.r_flops == pytest.approx(teacher / student)
    assert unknown.r_time == pytest.approx(unknown.costs.ask / unknown.costs.screen)


def test_a_gate_that_passes_nobody_does_not_pay():
    recipe = load_recipe("digits", [*FEW, "student.regulation.confidence=1"])
    result = estimate(recipe, seconds=SECONDS)
    assert result.verdict_mode == "regulated"
    assert not result.pays
    assert result.verdict.startswith("selection will not pay here: ")
    assert by_mode(result)["regulated", "stored"].kept.point == 1


def test_a_miniature_in_which_nobody_passed_says_so(unknown):
    recipe = load_recipe("digits", FEW)
    setting, student = prepare(recipe, None), StudentPilot(prepare(recipe, None))
    seen = replace(unknown.pilot, kept=0.99, small_rows=50)
    assert any("hardly a sample" in line for line in _doubts(setting, student, seen))
    for other in (replace(seen, kept=0.9), replace(seen, small_rows=0)):
        assert not any("hardly" in line for line in _doubts(setting, student, other))


def test_a_pilot_that_saw_nobody_pass_gives_no_verdict(unknown):
    row = replace(by_mode(unknown)["regulated", "stored"], of_vanilla=Range(0.99, 0.4, 1.0))
    seen = replace(unknown.pilot, kept=0.99, small_rows=50)
    assert _silent_on(row, seen)
    assert "too short" in _verdict(row, told=False)
    assert not _silent_on(row, replace(seen, small_rows=0))
    assert not _silent_on(replace(row, of_vanilla=exactly(1.0)), seen)


def test_noise_and_costs_that_explain_little_are_said(unknown):
    recipe = load_recipe("digits", FEW)
    setting, student = prepare(recipe, None), StudentPilot(prepare(recipe, None))
    calm = replace(unknown.pilot, spread=0.1, check=1.0)
    words = ("noisy", "explain")
    for pilot, said in (
        (calm, []),
        (replace(calm, spread=0.16), ["noisy"]),
        (replace(calm, check=1.5), ["explain"]),
        (replace(calm, check=0.6), ["explain"]),
    ):
        lines = " ".join(_doubts(setting, student, pilot))
        assert [word for word in words if word in lines] == said


def test_live_targets_take_no_disk_and_ask_only_for_the_kept():
    recipe = load_recipe("digits", [*FEW, "student.targets.kind=live", "student.mode=vanilla"])
    result = estimate(recipe, seconds=SECONDS)
    row = by_mode(result)["regulated", "live"]
    assert row.disk_bytes == row.fill_seconds == 0
    kept, forwards = row.kept.point, row.forwards.point
    costs = result.costs
    expected = kept * (costs.step + costs.ask) + (forwards - kept) * costs.screen
    assert row.seconds.point == pytest.approx(result.samples * result.epochs * expected)
    assert result.verdict_mode == "regulated"


@pytest.mark.parametrize("setting", ["features=[layers.4]", "kind=live"])
def test_a_pilot_has_the_features_that_its_objective_reads(teacher, setting):
    hints = "{name: fitnets, student: layers.2, teacher: layers.4}"
    settings = [f"student.objective={hints}", f"student.targets.{setting}"]
    recipe = load_recipe("digits", [*FEW, *settings])
    result = estimate(recipe, teacher=teacher, seconds=SECONDS)
    assert result.teacher.known
    if setting == "kind=live":
        assert by_mode(result)["regulated", "live"].disk_bytes == 0
        return
    ensure_targets(recipe, teacher)
    (features,) = teacher.glob("targets-*/features")
    store = features.parent
    files = list(store.rglob("*.bin"))
    assert by_mode(result)["regulated", "stored"].disk_bytes == sum(
        file.stat().st_size for file in files
    )
    assert len(files) > len(list(store.glob("*.bin")))  # the features' are among them


def test_an_objective_without_a_teacher_has_no_targets():
    recipe = load_recipe("digits", [*FEW, 'student.objective={"name": "cross-entropy"}'])
    result = estimate(recipe, seconds=SECONDS)
    assert {row.targets for row in result.modes} == {"none"}
    assert result.costs.ask == result.r_time == 0
    assert result.break_even.store is None


def test_gate_now_looks_at_everything():
    recipe = load_recipe("digits", [*FEW, "student.regulation.when=now"])
    row = by_mode(estimate(recipe, seconds=SECONDS))["regulated", "stored"]
    assert row.forwards.point == pytest.approx(row.kept.point + 1)


def test_a_conventional_teachers_ledger_says_nothing(tmp_path):
    recipe = load_recipe("digits", [*FEW, "teacher.policy.name=all"])
    teach(recipe, tmp_path / "t")
    result = estimate(recipe, teacher=tmp_path / "t", seconds=SECONDS)
    assert not result.teacher.ledger
    assert any("conventionally" in line for line in result.warnings)
    # Its self-regulation is forecast from an untrained model, not from the one that is there.
    assert result.teacher.kept.point > 0.5


def test_errors(tmp_path, teacher):
    recipe = load_recipe("digits", FEW)
    for seconds in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="seconds must be positive"):
            estimate(recipe, seconds=seconds)
    with pytest.raises(RunFolderError, match="no folder"):
        estimate(recipe, teacher=tmp_path / "none", seconds=SECONDS)
    other = load_recipe("digits", [*FEW, "data.train_size=100"])
    with pytest.raises(LedgerError, match="1437 samples, the data have 100"):
        estimate(other, teacher=teacher, seconds=SECONDS)


def test_bounds_by_hand():
    regulated = Share(Range(0.4, 0.3, 0.5), screen_rate=0.2)
    of_teacher = Share(Range(0.25, 0.2, 0.3))
    time = Timing((1.0,))
    found = bounded(regulated, TeacherFound(time, time, of_teacher, ever=1.0))
    assert found["significance"].kept == Range(0.5, 0.2, 1.0)
    hybrid = found["hybrid"].kept
    assert hybrid.point == pytest.approx(np.sqrt(0.4 * 0.5))
    assert (hybrid.low, hybrid.high) == (pytest.approx(0.06), 1.0)
    assert found["ceiling"].kept.low == 0.15
    assert all(share.rough for share in found.values())


def test_words():
    assert [students_text(n) for n in (None, 0, 1, 1200)] == [
        "never", "0 students", "1 student", "1,200 students"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "setting", ["student.targets.kind=ema", "student.teachers={of: {a: {}, b: {store: x}}}"]
)
def test_teachers_that_it_cannot_reckon_with_are_refused(setting):
    with pytest.raises(RecipeError, match="reckons with one teacher"):
        prepare(load_recipe("digits", [setting]), None)
