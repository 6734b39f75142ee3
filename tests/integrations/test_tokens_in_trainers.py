"""Language models in FrugalTrainer: blocks of a corpus are the samples, and each learned token of a
step counts once, whatever the batches, ranks, masks and weights are."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from frugalkd import KD, All, Optimizer, RandomSubset, Sampling, Schedule, Training, distill
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import (
    DataError,
    FrugalKDError,
    ModelError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.language import (
    Corpus,
    LiveTokens,
    StoredTokens,
    cut_layers,
    tiny_model,
    tiny_splits,
    tiny_tokenizer,
    tokenize_corpus,
)
from frugalkd.objectives import DIST, JensenShannon, Ramp, scheduled
from frugalkd.policies import SelfRegulation
from ranking import as_launched, on_ranks, preload
from toys import same_columns

transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
datasets: Any = pytest.importorskip("datasets", reason="needs the extra transformers")

from frugalkd.integrations.transformers import FrugalMixin, FrugalTrainer  # noqa: E402

preload("frugalkd.integrations.transformers", "frugalkd.language")

FORWARD = KD(temperature=1.0, alpha=0.7)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(tiny_splits()[1][:4000], 300)


@pytest.fixture(scope="module")
def corpus(tokenizer, tmp_path_factory):
    """20 prompts with completions of other lengths, padded: few of their tokens are learned."""
    lines = [line for line in tiny_splits()[1].split("\n") if 20 < len(line) < 60][:20]
    rows = [{"prompt": line[:-cut], "completion": line[-cut:]} for cut, line in enumerate(lines, 1)]
    folder = tmp_path_factory.mktemp("corpus") / "c"
    return tokenize_corpus(rows, tokenizer, folder, length=64, packing="padded")


def model(seed=2, layers=1, **more) -> Any:
    return tiny_model(layers, 16, vocabulary=304, positions=64, seed=seed, **more)


@pytest.fixture(scope="module")
def teacher():
    return model(1, 2).eval()


@pytest.fixture(scope="module")
def stored(teacher, corpus, tmp_path_factory):
    return StoredTokens.fill(teacher, corpus, tmp_path_factory.mktemp("store") / "s")


def trainer(
    folder, corpus, *, kind: Any = FrugalTrainer, student=None, batch=4, args=None, **given
) -> Any:
    settings = {
        "num_train_epochs": 1, "per_device_train_batch_size": batch, "optim": "sgd",
        "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    return kind(
        model() if student is None else student,
        transformers.TrainingArguments(str(folder), **settings | (args or {})),
        train_dataset=corpus,
        **given,
    )


def weights(model):
    return parameters_to_vector(model.parameters()).detach()


def plainly(student, teacher, corpus, weighed=None):
    """One SGD step on the whole corpus, by all logits at once and autograd alone."""
    ids = np.arange(len(corpus))
    data = corpus.batch(ids, ids * 0)
    inputs = {name: data[name] for name in ("input_ids", "position_ids")}
    learned = data["labels"][:, 1:] != -100
    logits = student(**inputs).logits[:, :-1][learned][:, :300]
    with torch.no_grad():
        theirs = teacher(**inputs).logits[:, :-1][learned][:, :300]
    losses = FORWARD(logits, theirs, data["labels"][:, 1:][learned])
    if weighed is not None:
        losses = losses * weighed.double()[learned.nonzero()[:, 0]]
    (losses.sum() / learned.sum()).backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
    return weights(student) - 0.5 * parameters_to_vector(found)


@pytest.mark.parametrize(("batch", "accumulation"), [(20, 1), (5, 4), (3, 7)])
def test_a_step_is_that_of_one_big_batch(batch, accumulation, corpus, teacher, tmp_path):
    """Also where the last batch of a step is short, and with blocks that weigh differently."""
    counts = corpus.row_counts(np.arange(20))
    assert counts.min() < counts.max() / 2
    double, weighed = model().double(), torch.linspace(0.5, 1.5, 20)
    start = weights(double).clone()
    made = trainer(
        tmp_path, corpus, student=double, batch=batch, objective=FORWARD,
        teacher=copy.deepcopy(teacher).double(),
        sampling=Sampling(weights=weighed.numpy(), policy=All()),
        args={"gradient_accumulation_steps": accumulation},
    )  # fmt: skip
    made.train()
    assert made.state.global_step == 1
    wanted = plainly(model().double(), copy.deepcopy(teacher).double(), corpus, weighed)
    error = (weights(double) - wanted).norm() / (wanted - start).norm()
    assert error < 1e-6


def adapted(*modules):
    """A student whose LoRA adapters alone are trained; not zero, so that all of them learn."""
    peft: Any = pytest.importorskip("peft", reason="needs peft")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = peft.LoraConfig(r=2, target_modules=list(modules), init_lora_weights=False)
        return peft.get_peft_model(model(), config)


of_peft = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:Model has `tie_word_embeddings:UserWarning",
)


@of_peft
@pytest.mark.parametrize("kind", ["trainer", "loop"])
def test_a_step_of_adapters_changes_them_alone(kind, corpus, teacher, tmp_path):
    student = adapted("q_proj", "down_proj").double()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    given = {"objective": FORWARD, "teacher": copy.deepcopy(teacher).double()}
    if kind == "trainer":
        trainer(tmp_path, corpus, student=student, batch=20, **given).train()
    else:
        plain_sgd = Optimizer(name="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
        constant = Schedule(shape="constant", warmup=0.0)
        training = Training(epochs=1, batch_size=20, optimizer=plain_sgd, schedule=constant)
        distill(student, corpus, training=training, device="cpu", **given)
    wanted = plainly(adapted("q_proj", "down_proj").double(), given["teacher"], corpus)
    torch.testing.assert_close(weights(student), wanted, rtol=1e-6, atol=1e-9)
    after = student.state_dict()
    assert all(("lora_" in name) != torch.equal(after[name], before[name]) for name in before)


@of_peft
def test_adapters_of_the_head_are_refused(corpus, teacher, tmp_path):
    with pytest.raises(ModelError, match=r"its head is a Linear of peft\S*: an adapter"):
        trainer(tmp_path, corpus, student=adapted("lm_head"), teacher=teacher).train()


GATE = SelfRegulation(budget=0.6, warmup=1)
"""All of 20 blocks in the first of five epochs, then ten, which are whole batches of two ranks."""


def on_a_rank(folder, store, where, accumulation, gated):
    as_launched()
    corpus = Corpus(folder)
    made = trainer(
        where, corpus, student=model().double(), objective=FORWARD,
        batch=(5 if gated else 10) // accumulation,
        teacher=StoredTokens(store, corpus), sampling=Sampling(policy=GATE) if gated else None,
        args={"gradient_accumulation_steps": accumulation, "num_train_epochs": 1 + 4 * gated},
    )  # fmt: skip
    made.train()
    assert Ranks.here().world == 2
    return weights(made.model), made.meters.tokens_backpropagated


@pytest.mark.slow
@pytest.mark.parametrize(("accumulation", "gated"), [(1, False), (2, False), (1, True)])
@pytest.mark.heavy
def test_two_ranks_are_one_process(accumulation, gated, corpus, stored, tmp_path):
    """With a gate too: which blocks are kept is decided for all ranks together."""
    where = map(str, (corpus.folder, stored.store.folder, tmp_path / "two"))
    ranks = on_ranks(2, on_a_rank, *where, accumulation, gated)
    one = trainer(
        tmp_path, corpus, student=model().double(), objective=FORWARD, teacher=stored,
        batch=10 if gated else 20,
        sampling=Sampling(policy=GATE) if gated else None,
        args={"num_train_epochs": 1 + 4 * gated},
    )  # fmt: skip
    start = weights(one.model).clone()
    one.train()
    assert one.meters.samples_backpropagated == (60 if gated else 20)
    for found, tokens in ranks:
        error = (found - weights(one.model)).norm() / (weights(one.model) - start).norm()
        assert error < 1e-6
        assert tokens == one.meters.tokens_backpropagated
        assert (tokens == corpus.rows) is not gated


@pytest.mark.heavy
def test_a_teacher_fills_the_store_once(corpus, teacher, stored, tmp_path):
    """The training is that from a store that was there; the second one runs no teacher."""
    found = []
    for given in ({"teacher": teacher, "store": tmp_path / "s"}, {"teacher": stored}) * 2:
        made = trainer(tmp_path / "out", corpus, **given)
        metrics = made.train().metrics
        found.append((weights(made.model), metrics["teacher_queries"], metrics["token_queries"]))
        assert metrics["tokens_backpropagated"] == corpus.rows == made.meters.tokens_forwarded
    assert [queries for _, *queries in found] == [[20, corpus.rows], [0, 0], [0, 0], [0, 0]]
    assert all(torch.equal(each, found[0][0]) for each, *_ in found)


def test_a_teacher_is_named_by_its_folder(corpus, teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    named = trainer(tmp_path, corpus, teacher=tmp_path / "teacher")
    named.train()
    given = trainer(tmp_path, corpus, teacher=teacher)
    given.train()
    assert torch.equal(weights(named.model), weights(given.model))
    tiny_tokenizer(tiny_splits()[1][:5000], 300).save_pretrained(tmp_path / "teacher")
    with pytest.raises(TargetsError, match="another vocabulary"):
        trainer(tmp_path, corpus, teacher=str(tmp_path / "teacher"))


def test_a_live_teacher_is_queried_in_each_epoch(corpus, teacher, tmp_path):
    made = trainer(tmp_path, corpus, teacher=teacher, args={"num_train_epochs": 2})
    assert made.train().metrics["token_queries"] == 2 * corpus.rows
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


def test_prompts_and_padding_are_no_tokens(corpus, teacher, tmp_path):
    """The loss of another prompt's tokens changes nothing that is counted."""
    ids = np.arange(20)
    batch = corpus.batch(ids, ids)
    made = trainer(tmp_path, corpus, teacher=teacher)
    made.train()
    learned = int((batch["labels"][:, 1:] != -100).sum())
    assert made.meters.tokens_backpropagated == learned < (batch["position_ids"] > 0).sum() / 2
    assert np.isfinite(made.ledger["loss"]).all()


@pytest.mark.heavy
def test_a_gate_resumes_in_the_middle_of_an_epoch(corpus, stored, tmp_path):
    def made(folder):
        args = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3}
        gate = SelfRegulation(budget=0.5, max_skip=1)
        return trainer(
            tmp_path / folder, corpus, teacher=stored, sampling=Sampling(policy=gate), args=args
        )

    whole, again = made("whole"), made("again")
    metrics = whole.train().metrics
    assert metrics["budget"] == pytest.approx(0.5, abs=0.05)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(weights(whole.model), weights(again.model))
    assert same_columns(whole.ledger, again.ledger)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.heavy
def test_a_run_resumes_in_the_middle_of_an_epoch(live, corpus, teacher, stored, tmp_path):
    def made(folder):
        args = {
            "num_train_epochs": 2, "optim": "adamw_torch", "lr_scheduler_type": "linear",
            "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2,
        }  # fmt: skip
        return trainer(tmp_path / folder, corpus, teacher=teacher if live else stored, args=args)

    whole, again = made("whole"), made("again")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(weights(whole.model), weights(again.model))
    assert same_columns(whole.ledger, again.ledger)
    assert again.meters.tokens_backpropagated == 2 * corpus.rows
    assert again.meters.token_queries == (2 * corpus.rows if live else 0)


def test_checkpointed_activations_do_not_change_a_training(corpus, stored, tmp_path):
    one, two = (trainer(tmp_path, corpus, teacher=stored) for _ in range(2))
    name = "activation_checkpointing_enable"  # from transformers 5.24 on
    getattr(two.model, name, two.model.gradient_checkpointing_enable)()
    one.train()
    two.train()
    torch.testing.assert_close(weights(one.model), weights(two.model), rtol=1e-6, atol=1e-6)


@pytest.mark.heavy
def test_bfloat16_trains(corpus, teacher, tmp_path):
    made = trainer(tmp_path, corpus, teacher=teacher, args={"bf16": True})
    assert isinstance(made.teacher, LiveTokens)
    assert made.teacher.precision == "bf16"
    seen = []
    made.model.model.layers[0].mlp.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    made.train()
    assert made.state.global_step == 5
    assert seen.count(torch.bfloat16) >= 5
    plain = trainer(tmp_path, corpus, teacher=teacher)
    plain.train()
    assert (weights(made.model) - weights(plain.model)).abs().max() < 0.05
    assert not torch.equal(weights(made.model), weights(plain.model))


def test_without_a_teacher_it_is_fine_tuning(corpus, tmp_path):
    """A plain Trainer's step, whose loss is transformers' own, of one batch."""
    own, plain = (  # a head of as many outputs as there are tokens
        trainer(tmp_path, corpus, kind=kind, batch=20, student=small, data_collator=corpus.collate)
        for kind in (FrugalTrainer, transformers.Trainer)
        for small in [tiny_model(1, 16, vocabulary=300, positions=64, seed=2)]
    )
    own.train()
    plain.train()
    torch.testing.assert_close(weights(own.model), weights(plain.model), rtol=1e-4, atol=1e-6)


class Mine(FrugalMixin, transformers.Trainer):
    """A trainer of one's own."""


def test_a_trainer_of_ones_own_distils(corpus, stored, tmp_path):
    one, two = (
        trainer(tmp_path, corpus, kind=kind, teacher=stored) for kind in (Mine, FrugalTrainer)
    )
    one.train()
    two.train()
    assert torch.equal(weights(one.model), weights(two.model))


def test_a_part_of_the_blocks_may_be_used(corpus, stored, tmp_path):
    made = trainer(tmp_path, corpus, teacher=stored, sampling=Sampling(policy=RandomSubset(0.5)))
    assert made.train().metrics["budget"] == 0.5
    seen = np.flatnonzero(made.ledger["visits"] > 0)
    assert made.meters.tokens_backpropagated == corpus.row_counts(seen).sum()


def test_evaluation_is_the_trainers_own(corpus, stored, tmp_path):
    made = trainer(tmp_path, corpus, teacher=stored, eval_dataset=corpus)
    before = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < before


def test_a_cut_of_the_teacher_that_shares_its_embeddings(corpus, teacher, tmp_path):
    student = cut_layers(teacher, [0], embeddings="shared")
    before = weights(teacher).clone()
    trainer(tmp_path, corpus, student=student, teacher=teacher).train()
    assert torch.equal(weights(teacher), before)


@pytest.mark.heavy
def test_what_does_not_fit_is_refused(corpus, teacher, stored, tokenizer, tmp_path):
    rows = [{"text": "a text that is long enough"}]
    other = tokenize_corpus(rows, tokenizer, tmp_path / "other", length=64)
    more = tokenize_corpus(rows, tiny_tokenizer(tiny_splits()[1][:4000], 320), tmp_path / "more")
    long = tokenize_corpus([tiny_splits()[1][:600]], tokenizer, tmp_path / "long", length=128)
    own = model()
    cases: list[tuple[dict, type[FrugalKDError], str]] = [
        ({"sampling": Sampling(policy=SelfRegulation(ceiling=0.9))}, SelectionMisuse,
         "SelfRegulation has a ceiling"),
        ({"sampling": Sampling(output="embeddings")}, SettingError, "leave output out"),
        ({"objective": DIST()}, SettingError, "depends on features or on other tokens"),
        ({"objective": KD()}, TargetsError, "set its temperature to 1, or run the teacher live"),
        ({"objective": JensenShannon(temperature=1.0), "store": "s", "teacher": teacher},
         TargetsError, "fill one by top-k.tail, which is biased, or run"),
        ({"store": "s"}, SettingError, "store keeps what a live teacher gives, and none runs"),
        ({"teacher": torch.nn.Linear(2, 2)}, ModelError, "not a causal language model"),
        ({"teacher": None, "objective": FORWARD}, TargetsError, "KD needs a teacher"),
        ({"teacher": own, "student": own}, ModelError, "the same object"),
        ({"eval_dataset": [1]}, UnsupportedData, "eval_dataset is a list, and the data"),
        ({"eval_dataset": more}, UnsupportedData, "has another vocabulary than that in"),
        ({"eval_dataset": {"a": None, "b": long}}, ModelError, "the model has 64 positions"),
        ({"data_collator": list}, SelectionMisuse, "leave data_collator out"),
        ({"args": {"torch_compile": True}}, SelectionMisuse, "torch_compile and FSDP"),
        ({"corpus": other}, TargetsError, "belong to another corpus"),
        ({"corpus": more, "teacher": None}, ModelError, "304 outputs, and the tokenizer 320"),
        ({"corpus": [1, 2]}, ModelError, "the data set is not a Corpus: make one"),
    ]  # fmt: skip
    for given, error, says in cases:
        given = {"teacher": stored, "corpus": corpus, **given}
        with pytest.raises(error, match=rf"^(?!.*\n).*{says}"):
            trainer(tmp_path / "o", given.pop("corpus"), **given).train()


@pytest.mark.heavy
def test_a_live_teacher_serves_every_objective_of_single_tokens(corpus, teacher, tmp_path):
    for objective in (JensenShannon(temperature=2.0), scheduled(KD(), temperature=Ramp(4.0, 1.0))):
        trainer(tmp_path, corpus, teacher=teacher, objective=objective).train()


@pytest.mark.heavy
def test_a_table_of_tokens_becomes_a_corpus(
    corpus, stored, teacher, tokenizer, tmp_path, monkeypatch
):
    """As TRL's SFTTrainer makes them: input_ids, and labels that are -100 for a prompt."""
    blocks = [corpus[id] for id in range(len(corpus))]
    columns = {name: [block[name].tolist() for block in blocks] for name in ("input_ids", "labels")}
    table = datasets.Dataset.from_dict(columns)
    given = {"processing_class": tokenizer, "teacher": teacher, "eval_dataset": {"own": table}}
    made = trainer(tmp_path, table, **given)
    assert made.train_dataset.rows == made.eval_dataset["own"].rows == corpus.rows
    made.train()
    wanted = trainer(tmp_path / "other", corpus, teacher=teacher)
    wanted.train()
    assert torch.equal(weights(made.model), weights(wanted.model))
    trainer(tmp_path, table, **given)  # of what is there
    with pytest.raises(DataError, match="holds tokens of another source"):
        trainer(tmp_path, table.select(range(5)), **given)
    with pytest.raises(UnsupportedData, match="pass processing_class"):
        trainer(tmp_path / "o", table, teacher=teacher)
    with pytest.raises(UnsupportedData, match="leave packing out"):
        trainer(tmp_path / "o", table.add_column("seq_lengths", [[1]] * 20), **given)
    monkeypatch.setattr(transformers.TrainingArguments, "packing", True, raising=False)
    with pytest.raises(UnsupportedData, match="leave packing out"):  # without that column
        trainer(tmp_path / "o", table, **given)


def test_a_table_is_evaluated_as_it_is_trained_on(corpus, stored, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    blocks = [corpus[id] for id in range(len(corpus))]
    table = datasets.Dataset.from_dict(
        {name: [block[name].tolist() for block in blocks] for name in ("input_ids", "labels")}
    )
    made = trainer(
        tmp_path, corpus, teacher=stored, processing_class=tokenizer, eval_dataset=corpus
    )
    own = made.evaluate()["eval_loss"]
    assert made.evaluate(table)["eval_loss"] == own
    assert made.evaluate({"a": table})["eval_a_loss"] == own
    assert made.predict(table, metric_key_prefix="eval").metrics["eval_loss"] == own
    for wrong in ([1], datasets.Dataset.from_dict({"text": ["a"]})):
        with pytest.raises(UnsupportedData, match="make a Corpus of it"):
            made.evaluate(wrong)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
@pytest.mark.heavy
def test_trls_trainer_evaluates_what_it_prepares(tokenizer, teacher, tmp_path, monkeypatch):
    trl: Any = pytest.importorskip("trl", reason="needs trl")
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    rows = [{"prompt": "to be or", "completion": f" not to be {number}"} for number in range(12)]
    table = datasets.Dataset.from_list(rows)

    class Own(FrugalMixin, trl.SFTTrainer):
        pass

    def args(**more):
        return trl.SFTConfig(
            str(tmp_path / "o"), num_train_epochs=1, per_device_train_batch_size=4, max_length=64,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, bf16=False, **more,
        )  # fmt: skip

    def made(**more):
        return Own(
            model(), args(**more), train_dataset=table, eval_dataset=table, teacher=teacher,
            processing_class=tokenizer,
        )  # fmt: skip

    trainer = made()
    ends = sum(len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows)
    assert trainer.train_dataset.rows == trainer.eval_dataset.rows == ends  # no prompt
    trainer.train()
    own = trainer.evaluate()["eval_loss"]
    for given in (table, trainer.eval_dataset):
        assert trainer.evaluate(given)["eval_loss"] == pytest.approx(own, rel=1e-5)
    with pytest.raises(UnsupportedData, match="leave packing out"):
        made(eval_packing=True, packing_strategy="wrapped")
