"""Language models in the project's own loop: a corpus in the place of a data set of samples."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from frugalkd import (
    KD,
    Checkpointing,
    Optimizer,
    RunOptions,
    Schedule,
    Training,
    distill,
    train_teacher,
)
from frugalkd.errors import (
    FrugalKDError,
    FrugalKDWarning,
    ModelError,
    NonFiniteLoss,
    SelectionMisuse,
    SettingError,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.language import (
    CausalModel,
    LiveTokens,
    StoredTokens,
    tiny_model,
    tiny_splits,
    tiny_tokenizer,
    token_loss,
    tokenize_corpus,
)
from frugalkd.language.criterion import TokenCriterion
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import POLICIES, Sampling, SelfRegulation
from frugalkd.selection.inputs import why_not_for
from frugalkd.training.trainer import Trainer
from toys import same_columns

pytest.importorskip("transformers", reason="needs the extra transformers")

SGD = Optimizer(name="sgd", lr=0.5, momentum=0.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """20 prompts with completions of other lengths, padded."""
    lines = [line for line in tiny_splits()[1].split("\n") if 20 < len(line) < 60][:20]
    rows = [{"prompt": line[:-cut], "completion": line[-cut:]} for cut, line in enumerate(lines, 1)]
    tokenizer = tiny_tokenizer(tiny_splits()[1][:4000], 300)
    folder = tmp_path_factory.mktemp("corpus") / "c"
    return tokenize_corpus(rows, tokenizer, folder, length=64, packing="padded")


def model(seed=2, layers=1) -> Any:
    return tiny_model(layers, 16, vocabulary=304, positions=64, seed=seed)


def mixture(routed: bool) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=304, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
        max_position_embeddings=64, output_router_logits=routed,
    )  # fmt: skip
    return MixtralForCausalLM(config)


@pytest.mark.parametrize("routed", [True, False])
def test_a_loss_of_a_router_that_is_left_out_is_a_warning(corpus, routed):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FrugalKDWarning)
        train_teacher(mixture(routed), corpus, training=Training(epochs=0.1, batch_size=2))
    said = [str(each.message) for each in caught if each.category is FrugalKDWarning]
    assert ["MixtralForCausalLM adds the loss of its router" in each for each in said] == (
        [True] * routed
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_alone_warns_of_a_router(corpus, monkeypatch, rank):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FrugalKDWarning)
        TokenCriterion(KD(), mixture(True), corpus)
    assert len(caught) == (rank == 0)


@pytest.fixture(scope="module")
def teacher():
    return model(1, 2).eval()


@pytest.fixture(scope="module")
def stored(teacher, corpus, tmp_path_factory):
    return StoredTokens.fill(teacher, corpus, tmp_path_factory.mktemp("store") / "s")


def weights(model):
    return parameters_to_vector(model.parameters()).detach()


def test_accumulated_batches_are_one_big_batch(corpus, stored):
    found = []
    for batch, accumulation in ((20, 1), (5, 4), (3, 7)):
        student = model().double()
        training = Training(
            epochs=1, batch_size=batch, gradient_accumulation_steps=accumulation, optimizer=SGD
        )
        run = distill(student, corpus, teacher=stored, training=training, device="cpu")
        assert run.history[0]["steps"] == 1
        assert run.meters.tokens_backpropagated == corpus.rows
        found.append(weights(student) - weights(model().double()))
    for other in found[1:]:
        assert (other - found[0]).norm() / found[0].norm() < 1e-6


@pytest.mark.heavy
def test_a_teacher_is_trained_and_distilled(corpus, tmp_path):
    training = Training(epochs=6, batch_size=5, optimizer=Optimizer(lr=0.02))
    given = {"training": training, "eval_dataset": corpus, "device": "cpu"}
    large = train_teacher(model(1, 2), corpus, **given)
    assert large.evaluation is not None
    assert "teacher_kl" not in large.evaluation
    assert large.evaluation["perplexity"] < 0.7 * 300
    small = distill(model(), corpus, teacher=large.model, **given)
    assert small.evaluation is not None
    assert small.evaluation["teacher_kl"] < 0.5
    assert small.evaluation["tokens"] == corpus.rows
    assert small.meters.token_queries == 6 * corpus.rows
    flops = small.meters.flops
    assert flops["teacher_forward"] > flops["student_forward"] > 0
    cost = small.meters.cost(len(corpus))["epochs"]
    assert cost is not None
    assert cost > 6, "the teacher ran live"
    assert small.output == "tokens"
    kept = StoredTokens.fill(large.model, corpus, tmp_path / "s")
    again = distill(model(), corpus, teacher=kept, **given)
    assert again.evaluation is not None
    assert math.isclose(again.evaluation["perplexity"], small.evaluation["perplexity"], rel_tol=0.1)


def test_half_of_the_positions_are_half_of_the_tokens(corpus, stored):
    drawn = corpus.drawn(0.5)
    targets = StoredTokens(stored.store.folder, drawn)
    training = Training(epochs=2, batch_size=20, optimizer=SGD, schedule=Schedule("constant"))
    student = model().double()
    run = distill(student, drawn, teacher=targets, training=training, device="cpu")
    assert run.meters.tokens_backpropagated == 2 * drawn.rows < 2 * corpus.rows
    assert run.meters.samples_backpropagated == 2 * len(corpus)
    by_hand, ids = model().double(), np.arange(len(corpus))
    parts, kd = CausalModel(by_hand, corpus.vocabulary), KD(temperature=1.0)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    for view in range(2):
        data, views = drawn.batch(ids, ids * 0 + view), ids * 0 + view
        token_loss(
            parts, parts.states(data), parts.labels(data), targets.fetch(ids, views, data), kd,
            tokens=drawn.rows,
        ).loss.backward()  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()
    change = weights(student) - weights(model().double())
    assert (weights(student) - weights(by_hand)).norm() < 1e-6 * change.norm()


def scores_by_hand(student, corpus, targets, objective) -> np.ndarray:
    """exp(-mean loss of a block's tokens), block by block."""
    parts, found = CausalModel(student, corpus.vocabulary), []
    with torch.no_grad():
        for id in range(len(corpus)):
            ids, view = np.array([id]), np.zeros(1, dtype=np.int64)
            data = corpus.batch(ids, view)
            logits = parts.logits(parts.states(data))
            rows = targets.fetch(ids, view, data).part(slice(None))
            losses = objective(logits, rows, parts.labels(data))
            found.append(math.exp(-losses.mean()))
    return np.array(found)


@pytest.mark.parametrize("live", [False, True])
def test_blocks_are_screened_by_the_loss_of_training(live, corpus, stored, teacher):
    """All pass the gate at once, and none is trained on again: what the ledger holds in the end was
    screened, with the targets, on the weights that were left."""
    targets, kd = LiveTokens(teacher, corpus) if live else stored, KD(temperature=1.0, alpha=0.9)
    gate = SelfRegulation(confidence=1e-9, max_skip=1)
    student = model()
    run = distill(
        student, corpus, teacher=targets, objective=kd,
        sampling=Sampling(regulation=gate),
        training=Training(epochs=3, batch_size=4), device="cpu",
    )  # fmt: skip
    assert run.meters.samples_backpropagated == len(corpus)
    assert run.meters.student_forwards > len(corpus)
    expected = scores_by_hand(student, corpus, targets, kd)
    np.testing.assert_allclose(run.ledger["confidence"], expected, rtol=1e-5)
    if live:
        assert run.meters.token_queries == run.meters.tokens_forwarded > corpus.rows


def test_a_budget_keeps_the_blocks_of_the_largest_loss(corpus, stored):
    """Recounted at the end of each epoch, from what the ledger then says of the blocks."""
    kept: list[np.ndarray] = []

    class Watch(SelfRegulation):
        def plan(self, ledger, pool, at):
            made = super().plan(ledger, pool, at)
            worst = np.argsort(ledger["confidence"], kind="stable")[: len(made.ids)]
            assert not at.epoch or set(made.ids) == set(worst)
            kept.append(made.ids)
            return made

    gate = Watch(budget=0.625, warmup=1, max_skip=100, confidence=1.0)
    training = Training(epochs=4, batch_size=5)
    run = distill(
        model(), corpus, teacher=stored, sampling=Sampling(policy=gate), training=training,
        device="cpu",
    )  # fmt: skip
    assert [len(ids) for ids in kept[1:]] == [10, 10, 10]
    used = np.concatenate(kept)
    assert run.meters.tokens_backpropagated == corpus.row_counts(used).sum()


def test_a_step_under_gate_now_is_over_its_tokens(corpus, stored):
    """While all blocks fail, it is that of a training on all of them."""
    training = Training(epochs=1, batch_size=20, optimizer=SGD, schedule=Schedule("constant"))
    given = {"teacher": stored, "training": training, "device": "cpu"}
    gated, plain = model().double(), model().double()
    now = Sampling(policy=SelfRegulation(when="now"))
    run = distill(gated, corpus, sampling=now, **given)
    distill(plain, corpus, **given)
    assert run.meters.tokens_backpropagated == corpus.rows
    change = weights(plain) - weights(model().double())
    assert (weights(gated) - weights(plain)).norm() < 1e-6 * change.norm()


def test_screening_goes_by_the_objective_of_its_time(corpus, stored, monkeypatch):
    """A schedule of the objective follows what is spent, in screening as in training."""
    seen: list[tuple[bool, float]] = []
    outcomes, learn = TokenCriterion.outcomes, TokenCriterion.learn

    def screened(self, forward, data, targets=None, progress=0.0):
        if targets is not None:
            seen.append((True, progress))
        return outcomes(self, forward, data, targets, progress)

    def trained(self, forward, data, labels, batch):
        seen.append((False, batch.progress))
        return learn(self, forward, data, labels, batch)

    monkeypatch.setattr(TokenCriterion, "outcomes", screened)
    monkeypatch.setattr(TokenCriterion, "learn", trained)
    gate = SelfRegulation(confidence=0.005, max_skip=1)
    distill(
        model(), corpus, teacher=stored, sampling=Sampling(regulation=gate, cost=0.5),
        training=Training(epochs=8, batch_size=4), device="cpu",
    )  # fmt: skip
    assert any(screening for screening, _ in seen)
    progress = [value for _, value in seen]
    assert progress == sorted(progress)


def test_a_gate_keeps_to_a_cost(corpus, stored):
    """Screenings are a third of a step, on blocks as on any other sample. No block is kept as a
    probe: right answers are not counted."""
    training = Training(epochs=6, batch_size=4)
    run = distill(
        model(), corpus, teacher=stored, sampling=Sampling(mode="regulated", cost=0.5),
        training=training, device="cpu",
    )  # fmt: skip
    meters = run.meters
    assert (run.ledger["participations"] > 0).all()
    trained, screened = meters.samples_backpropagated, meters.student_forwards
    spent = (trained + (screened - trained) / 3) / (6 * len(corpus))
    assert 0.4 < spent <= 0.5 + 1e-9


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.heavy
def test_every_policy_selects_blocks_or_says_why_not(name, corpus, stored):
    policy = POLICIES[name]()
    given: dict = {"training": Training(epochs=3, batch_size=4), "device": "cpu"}
    if (problem := why_not_for(policy, OUTPUTS["tokens"])) is None:
        run = distill(model(), corpus, teacher=stored, sampling=Sampling(policy=policy), **given)
        assert 0 < run.meters.tokens_backpropagated <= 3 * corpus.rows
    else:
        with pytest.raises(SelectionMisuse, match=r"^(?!.*\n)tokens are not one class a sample"):
            distill(model(), corpus, teacher=stored, sampling=Sampling(policy=policy), **given)
        assert problem.count("\n") == 0


@pytest.mark.parametrize("gate", [None, SelfRegulation(budget=0.5, max_skip=1)])
@pytest.mark.heavy
def test_a_run_resumes_in_the_middle_of_an_epoch(gate, corpus, stored, tmp_path):
    sampling = None if gate is None else Sampling(policy=gate)

    def trained(folder, stop=None, resume=False):
        run = RunOptions(
            folder=tmp_path / folder, checkpointing=Checkpointing(steps=1), should_stop=stop,
            resume=resume,
        )  # fmt: skip
        return distill(
            model(), corpus, teacher=stored, training=Training(epochs=2, batch_size=3),
            sampling=sampling, device="cpu", run=run,
        )  # fmt: skip

    whole, calls = trained("whole"), iter(range(100))
    with pytest.raises(Stopped):
        trained("again", stop=lambda: next(calls) == 3)
    again = trained("again", resume=True)
    assert torch.equal(weights(whole.model), weights(again.model))
    assert same_columns(whole.ledger, again.ledger)
    assert again.meters.tokens_backpropagated == whole.meters.tokens_backpropagated
    assert (whole.meters.tokens_backpropagated == 2 * corpus.rows) is (gate is None)


def test_a_teacher_whose_outputs_are_bad_is_named(corpus):
    large = model(1, 2).eval()
    bad = LiveTokens(large, corpus)
    with torch.no_grad():
        large.base_model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match="the teacher's output"):
        distill(model(), corpus, teacher=bad, training=Training(epochs=1), device="cpu")


def test_what_does_not_fit_is_refused(corpus, stored, tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer(tiny_splits()[1][:4000], 300)
    long = tokenize_corpus([tiny_splits()[1][:600]], tokenizer, tmp_path / "long", length=128)
    monkeypatch.setattr(Trainer, "fit", None)  # before the training
    cases: list[tuple[dict, type[FrugalKDError], str]] = [
        ({"training": Training(compile=True)}, SettingError, "training.compile is not supported"),
        ({"training": Training(fsdp=True)}, SettingError, "training.fsdp is not supported"),
        ({"collate_fn": list}, SettingError, "leave collate_fn out"),
        ({"eval_dataset": [1]}, UnsupportedData, "eval_dataset is a list"),
        ({"eval_dataset": long}, ModelError, "the model has 64 positions, and a block"),
        ({"objective": KD()}, TargetsError, "set its temperature to 1"),
        (
            {"sampling": Sampling(regulation=SelfRegulation(ceiling=0.9))},
            SelectionMisuse,
            "tokens are not one class a sample, and SelfRegulation has a ceiling",
        ),
        (
            {"sampling": Sampling(policy=SelfRegulation(probe=0.1))},
            SelectionMisuse,
            "tokens are not one class a sample, and SelfRegulation has a probe",
        ),
        ({"teacher": [stored, stored]}, TargetsError, "list has no targets of tokens"),
    ]
    for given, error, says in cases:
        with pytest.raises(error, match=rf"^(?!.*\n).*{says}"):
            distill(model(), corpus, **{"teacher": stored, "device": "cpu", **given})
