"""Embeddings from texts alone: what is selected, measured, stored, resumed, and shared by ranks."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import Dataset

from frugalkd import (
    All,
    DataLoading,
    Ledger,
    LiveTeacher,
    Optimizer,
    RunOptions,
    Sampling,
    Selection,
    SelfRegulation,
    StoredTargets,
    Training,
    distill,
)
from frugalkd.data.text import TextData
from frugalkd.errors import (
    LedgerError,
    ModelError,
    NonFiniteLoss,
    ObjectiveError,
    SelectionMisuse,
    SettingError,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.models import build_text_model
from frugalkd.objectives import KD, PKT, EmbedDistill
from frugalkd.objectives.criterion import bind
from frugalkd.policies import (
    EL2N,
    InfoBatch,
    InstanceExclusion,
    Kakurenbo,
    ProgressiveDataDropout,
    RhoLoss,
    SelectiveBackprop,
    SwiftLearn,
    Unix,
)
from frugalkd.selection import _selection
from frugalkd.teachers.encodings import Int8, Values
from frugalkd.training.evaluation import measure_embeddings
from frugalkd.training.settings import Checkpointing
from ranking import on_ranks
from toys import same_columns, same_state

WORDS = ("card", "money", "account", "late", "cash", "fee", "limit", "lost", "pin", "app", "rate")


def texts(rows=64, seed=0):
    stream = np.random.default_rng(seed)
    return TextData.of([" ".join(stream.choice(WORDS, 5)) for _ in range(rows)])


class Table(nn.Module):
    """The mean of the rows of a small table, hashed from the data's 65,536 tokens."""

    def __init__(self, width=8, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.rows = nn.Embedding(97, width)

    def forward(self, input_ids, attention_mask):
        known = attention_mask[..., None].float()
        return (self.rows(input_ids % 97) * known).sum(1) / known.sum(1)


def run(
    student=None,
    data=None,
    *,
    policy=None,
    objective=None,
    teacher=None,
    epochs=4,
    ema=None,
    **more,
):
    student = Table(seed=1) if student is None else student
    return distill(
        student,
        texts() if data is None else data,
        teacher=Table() if teacher is None else teacher,
        objective=EmbedDistill() if objective is None else objective,
        sampling=Sampling(policy=SelfRegulation(confidence=0.5) if policy is None else policy),
        training=Training(epochs=epochs, batch_size=8, optimizer=Optimizer(lr=0.1), ema=ema),
        device="cpu",
        **more,
    )


def test_from_texts_alone_with_a_part_of_the_rows():
    made = run(epochs=10, eval_dataset=texts(40, seed=1))
    assert made.output == "embeddings"
    assert made.meters.samples_backpropagated < 0.9 * 640
    assert made.evaluation["samples"] == 40
    assert made.evaluation["mean_cosine_distance"] < 0.3
    assert made.evaluation["pairwise_spearman"] > 0.7
    assert made.probabilities.shape == (40, 8)
    passed = made.ledger["confidence"] >= 0.5
    assert passed.mean() > 0.9
    assert made.ledger.distance == pytest.approx(1 - made.ledger["confidence"])
    assert made.ledger.labels is None
    assert made.projection is None


def test_labels_are_not_read():
    data = texts()
    labelled = TextData(data.tokens, torch.arange(64) % 3, ("a", "b", "c"))
    one, other = run(data=data), run(data=labelled)
    assert same_state(one.model, other.model)
    assert other.ledger.labels is None


class Pairs(Dataset):
    """Inputs with labels that are none: floating-point rows."""

    def __len__(self):
        return 32

    def __getitem__(self, id):
        return torch.full((3,), float(id)), torch.rand(2)


def test_labels_of_any_form_are_left_alone():
    torch.manual_seed(0)
    made = distill(
        nn.Linear(3, 4), Pairs(), teacher=nn.Linear(3, 4), objective=EmbedDistill("mse"),
        training=Training(epochs=1, batch_size=8), device="cpu",
    )  # fmt: skip
    assert made.meters.samples_backpropagated == 32


def test_the_reference_is_the_teachers_mean_and_is_computed_once(monkeypatch):
    teacher, data = Table(), texts()
    live = LiveTeacher(teacher)
    made = run(policy=All(), data=data, teacher=live, epochs=2)
    assert made.meters.teacher_queries == 64 + 2 * 64  # the reference, and each epoch
    wanted = live.run(data.batch(np.arange(64), np.zeros(64))).mean(dim=0)
    assert made.ledger.reference["mean"] == pytest.approx(wanted.numpy(), abs=1e-6)
    monkeypatch.setattr(_selection, "REFERENCE", 10)
    made = run(policy=All(), data=data, teacher=LiveTeacher(teacher), epochs=2)
    assert made.meters.teacher_queries == 10 + 2 * 64


def test_a_ledger_keeps_the_reference(tmp_path):
    ledger = run().ledger
    ledger.save(tmp_path / "x.safetensors")
    again = Ledger.load(tmp_path / "x.safetensors")
    assert again.reference.keys() == {"mean", "d0"}
    assert np.array_equal(again.reference["mean"], ledger.reference["mean"])
    assert np.array_equal(again.distance, ledger.distance, equal_nan=True)
    again.reference["d0"] = np.ones(2, np.float32)
    again.save(tmp_path / "x.safetensors")
    with pytest.raises(LedgerError, match="refer to nothing"):
        Ledger.load(tmp_path / "x.safetensors")
    with pytest.raises(LedgerError, match="no distances"):
        _ = Ledger.new(3).distance


@pytest.mark.parametrize(
    "policy",
    [
        All(),
        InfoBatch(),
        Kakurenbo(confidence=0.2),
        InstanceExclusion(threshold=0.1),
        SwiftLearn(),
        SelectiveBackprop(),
        ProgressiveDataDropout(),
        SelfRegulation(when="now", confidence=0.3),
        SelfRegulation(budget=0.5),
        SelfRegulation(cost=0.5),
        SelfRegulation(label_source="teacher", confidence=0.3),
    ],
    ids=lambda policy: str(policy)[:40],
)
def test_policies_select_by_the_score(policy):
    made = run(policy=policy, epochs=4)
    assert 0 < made.meters.samples_backpropagated <= 4 * 64
    assert np.isfinite(made.ledger["confidence"]).sum() > 32


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (SelfRegulation(budget_rule="class-balanced", budget=0.5), "plans by class"),
        (SelfRegulation(ceiling=0.9), "has a ceiling"),
        (Unix(), "entropy of a softmax"),
        (EL2N(), "scored by trainings on classes"),
        (RhoLoss(), "scored by trainings on classes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_needs_classes_is_refused(policy, why):
    with pytest.raises(
        SelectionMisuse, match=f"embeddings are not one class a sample, and .* {why}"
    ):
        run(policy=policy)


class Coupled(PKT):
    output = "embeddings"


class Constant(Table):
    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask) * 0 + 1


class Broken(Table):
    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask) * torch.nan


BAD = {
    "rows that are coupled": (lambda: run(objective=Coupled()), ObjectiveError, "couples the rows"),
    "other widths": (
        lambda: run(Table(5), objective=EmbedDistill(project=False)), ModelError, "of 5 numbers"
    ),
    "no teacher": (
        lambda: distill(Table(), texts(), teacher=None, objective=EmbedDistill()),
        TargetsError, "needs a teacher",
    ),
    "a teacher of one answer": (lambda: run(teacher=Constant()), TargetsError, "one and the same"),
    "a teacher of NaN": (lambda: run(teacher=Broken()), ModelError, "of the teacher for samples"),
    "a student of NaN": (lambda: run(Broken()), ModelError, "not finite"),
    "stored differences of logits": (
        lambda: run(teacher=StoredTargets.fill(Table(), texts())), TargetsError,
        "reads the teacher's outputs themselves",
    ),
    "another kind in the sampling": (
        lambda: distill(
            Table(), texts(), teacher=Table(), objective=KD(),
            sampling=Sampling(output="embeddings"),
        ),
        SettingError, "KD learns one-class",
    ),
    "an unknown kind": (lambda: Sampling(output="sounds"), SettingError, "one-class"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(make, kind, says):
    with pytest.raises(kind, match=says) as caught:
        make()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("encoding", [Values(), Int8()], ids=lambda each: each.name)
def test_stored_embeddings_select_the_same_rows(encoding):
    stored = StoredTargets.fill(Table(), texts(), encoding=encoding)
    made, live = run(teacher=stored), run()
    rows = [[epoch["rows"] for epoch in each.history] for each in (made, live)]
    assert rows[0] == pytest.approx(rows[1], abs=2)
    assert made.ledger["confidence"] == pytest.approx(live.ledger["confidence"], abs=0.02)
    assert made.evaluation is None


def test_without_a_teachers_model_held_out_data_are_not_measured():
    stored = StoredTargets.fill(Table(), texts(), encoding=Values())
    made = run(teacher=stored, eval_dataset=texts(9, seed=1))
    assert made.evaluation == {"samples": 9}
    assert made.probabilities.shape == (9, 8)


def test_a_projection_is_trained_and_measured_with():
    made = run(Table(5, seed=1), epochs=10, eval_dataset=texts(30, seed=1))
    assert made.projection.weight.shape == (8, 5)
    assert made.evaluation["mean_cosine_distance"] < 0.35
    assert made.probabilities.shape == (30, 5)
    assert made.meters.flops["objective_forward"] == 2 * 5 * 8 * made.meters.samples_backpropagated


def test_the_projection_is_averaged_with_the_model():
    """An average of nothing but the last step is the last step, of both."""
    last = run(Table(5, seed=1))
    plain = run(Table(5, seed=1), ema=0.0)
    slow = run(Table(5, seed=1), ema=0.9)
    assert same_state(last.projection, plain.projection)
    assert not same_state(last.projection, slow.projection)


def stopping(after):
    calls = count(1)
    return lambda: next(calls) >= after


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("when", ["last-visit", "now"])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path, width, when):
    """In the middle of an epoch, with the projection and what scores refer to."""
    policy = SelfRegulation(confidence=0.4, when=when, max_skip=1)
    whole = run(Table(width, seed=1), policy=policy)
    for steps in (5, 17):
        options = RunOptions(
            folder=tmp_path / str(steps), should_stop=stopping(steps), checkpointing=Checkpointing()
        )
        with pytest.raises(Stopped):
            run(Table(width, seed=1), policy=policy, run=options)
        again = RunOptions(folder=tmp_path / str(steps), resume=True)
        resumed = run(Table(width, seed=2), policy=policy, run=again)
        assert same_state(whole.model, resumed.model)
        assert same_columns(whole.ledger, resumed.ledger)
        if width != 8:
            assert same_state(whole.projection, resumed.projection)
        mean = resumed.ledger.reference["mean"]
        assert np.array_equal(whole.ledger.reference["mean"], mean)


def _on_two(width):
    made = run(Table(width, seed=1), data=texts(64), policy=SelfRegulation(confidence=0.4))
    weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    return weights, made.ledger, made.meters.summary()


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.heavy
def test_two_ranks_share_one_reference_and_one_student(width):
    (first, ledger, meters), (second, other, _) = on_ranks(2, _on_two, width)
    assert torch.equal(first, second)
    assert same_columns(ledger, other)
    assert np.array_equal(ledger.reference["mean"], other.reference["mean"])
    alone = run(Table(width, seed=1), policy=SelfRegulation(confidence=0.4)).ledger
    assert ledger.reference["mean"] == pytest.approx(alone.reference["mean"], abs=1e-6)
    assert meters["student_forwards"] >= meters["samples_backpropagated"] > 0


@pytest.mark.parametrize("width", [8, 5])
def test_an_own_loop_comes_to_what_distill_does(width):
    data, student = texts(), Table(width, seed=1)
    live, objective = LiveTeacher(Table()), EmbedDistill()
    policy = SelfRegulation(confidence=0.5)
    selection = Selection(
        data, epochs=4, batch_size=8, model=student, targets=live,
        sampling=Sampling(policy=policy, output="embeddings"),
        forward=lambda batch: student(**batch),
    )  # fmt: skip
    criterion = bind(
        objective, student, live, batch=lambda: data.batch([0, 1], [0, 0]),
        forward=lambda batch: student(**batch), samples=64,
    )  # fmt: skip
    selection.attach(project=criterion.project)
    parameters = [*student.parameters(), *criterion.parts.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1]},
        ],
        weight_decay=0.0,
        fused=True,
    )
    for epoch in selection:
        for batch in epoch:
            rate = 0.1 * (1 + np.cos(np.pi * batch.progress)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            outputs = criterion.project(student(**batch.data))
            losses = criterion(outputs, batch.labels, batch)
            batch.reduce(losses).backward()
            batch.observe(outputs, losses=losses)
            optimizer.step()
            optimizer.zero_grad()
    made = run(Table(width, seed=1), data=data)
    torch.testing.assert_close(student.state_dict(), made.model.state_dict(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(selection.ledger["participations"], made.ledger["participations"])


def loop(student, observe, **sampling):
    """One epoch of a loop that projects nothing."""
    selection = Selection(
        texts(), epochs=1, batch_size=8, model=student, targets=LiveTeacher(Table()),
        sampling=Sampling(policy=All(), output="embeddings", **sampling), loading=DataLoading(),
    )  # fmt: skip
    for epoch in selection:
        for batch in epoch:
            observe(batch, student(**batch.data))
    return selection


def test_a_loop_needs_no_loss_and_no_labels():
    selection = loop(Table(seed=1), lambda batch, outputs: batch.observe(outputs))
    assert np.isfinite(selection.ledger["loss"]).all()


def test_a_loop_with_labels_or_other_widths_is_refused():
    with pytest.raises(UnsupportedData, match="embeddings have no labels"):
        loop(Table(seed=1), lambda batch, out: batch.observe(out, torch.zeros(8).long()))
    with pytest.raises(ModelError, match="of 5 numbers and the teacher of 8: let the objective"):
        loop(Table(5), lambda batch, out: batch.observe(out))
    with pytest.raises(NonFiniteLoss, match="the output"):
        loop(Table(), lambda batch, out: batch.observe(out * torch.inf, losses=torch.zeros(8)))


def test_measures_are_scipys():
    stream = np.random.default_rng(0)
    one, other = stream.standard_normal((2, 30, 6)).astype(np.float32)
    other[3], one[4] = other[5], one[6]  # ties
    measured = measure_embeddings(one, other)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    pairs = [(unit(rows) @ unit(rows).T)[np.triu_indices(30, 1)].round(6) for rows in (one, other)]
    assert measured["pairwise_spearman"] == pytest.approx(spearmanr(*pairs).statistic, abs=1e-4)
    cosines = (unit(one) * unit(other)).sum(axis=1)
    assert measured["mean_cosine_distance"] == pytest.approx(1 - cosines.mean(), abs=1e-6)
    assert measure_embeddings(one, one)["pairwise_spearman"] == pytest.approx(1)
    assert measure_embeddings(one[:1], other[:1])["pairwise_spearman"] is None
    assert measure_embeddings(one, None) == {"samples": 30}


def test_a_static_table_of_a_recipe_trains():
    student = build_text_model("static-embedding", num_classes=1, vocabulary=1 << 16, width=4)
    made = run(student, epochs=2, policy=All())
    assert made.projection is not None
    assert made.meters.samples_backpropagated == 128


def test_a_cost_limits_a_mode_without_a_ceiling():
    made = distill(
        Table(seed=1), texts(), teacher=Table(), objective=EmbedDistill(), cost=0.5, device="cpu",
        training=Training(epochs=4, batch_size=8, optimizer=Optimizer(lr=0.1)),
    )  # fmt: skip
    assert "teacher_truth" not in made.ledger.columns
    assert made.meters.samples_backpropagated <= 0.5 * 4 * 64
