"""FrugalTrainer against a plain transformers Trainer, and against a plain loop over a Selection."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from frugalkd import (
    KD,
    All,
    CrossEntropy,
    DataLoading,
    Ledger,
    Sampling,
    Selection,
    SelfRegulation,
    StoredTargets,
)
from frugalkd.data.source import bucketed
from frugalkd.errors import (
    FrugalKDError,
    ImportRefused,
    LedgerError,
    ModelError,
    NonFiniteLoss,
    RunFolderError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_text_model, reorder_classes
from frugalkd.policies import Plan
from frugalkd.policies.modes import HORIZON, PROBE
from frugalkd.policies.policy import Ungated
from frugalkd.selection.checks import check_pair
from toys import NothingPasses, Spoil, grouped, same_columns, tokenizer_of

transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
datasets: Any = pytest.importorskip("datasets", reason="needs the extra transformers")

from frugalkd.integrations._frugal import torchs_start_method  # noqa: E402
from frugalkd.integrations._hugging_face import teacher_from  # noqa: E402
from frugalkd.integrations.transformers import (  # noqa: E402
    FrugalMixin,
    FrugalTrainer,
)

ROWS, BATCH, EPOCHS, SEED, CLASSES = 22, 4, 2, 3, 6
NONE_PASSES = NothingPasses()
SOME = SelfRegulation(confidence=0.17)
"""A gate that some pass: at first a top probability is about a sixth."""


@pytest.fixture(scope="module")
def texts(require_data):
    """Questions of TREC-6 as word numbers of different lengths."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(require_data("trec6/train.parquet")).slice(0, ROWS).to_pydict()
    words = [text.lower().split() for text in table["text"]]
    number = {word: n for n, word in enumerate(sorted({w for ws in words for w in ws}), start=1)}
    ids = [[number[word] for word in ws] for ws in words]
    return datasets.Dataset.from_dict(
        {"text": table["text"], "input_ids": ids, "label": table["label"]}
    )


def collate_fn(samples):
    """Padded to the longest; what a tokenizer's DataCollatorWithPadding does."""
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    if "label" in samples[0]:
        batch["labels"] = torch.tensor([sample["label"] for sample in samples])
    return batch


def bert(seed=0, classes=CLASSES, width=32, **settings):
    torch.manual_seed(seed)
    if "id2label" in settings:
        classes = len(settings["id2label"])
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=width, max_position_embeddings=40, num_labels=classes, **settings,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def arguments(folder, **settings):
    given = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "learning_rate": 1e-3,
        "per_device_eval_batch_size": 8, "logging_steps": 1, "save_strategy": "no", "seed": SEED,
        "report_to": [], "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **(given | settings))


class Plain(transformers.Trainer):
    """In the selection's order; the loader draws its seeds from a stream of its own."""

    def get_train_dataloader(self):
        orders = Orders(len(self.train_dataset))
        data = self.train_dataset.remove_columns("text")
        generator = torch.Generator()
        return DataLoader(
            data, batch_sampler=orders, collate_fn=self.data_collator, generator=generator
        )


class Orders:
    """Each loop is the order of the next epoch of a selection of everything, in batches."""

    def __init__(self, samples):
        data: Any = [(torch.zeros(1), 0)] * samples
        selection = Selection(data, epochs=EPOCHS, batch_size=BATCH, seed=SEED)
        self.epochs = []
        for epoch in selection:
            self.epochs.append([])
            for batch in epoch:
                self.epochs[-1].append(batch.ids.tolist())
                batch.observe(torch.zeros(len(batch.ids), 2))

    def __len__(self):
        return len(self.epochs[0])

    def __iter__(self):
        return iter(self.epochs.pop(0) if len(self.epochs) > 1 else self.epochs[0])


def made(kind, folder, data, model=None, **settings):
    """A trainer; settings that are none of frugalkd's are of its arguments."""
    own = ("teacher", "store", "mode", "ledger", "regulation", "policy", "weights", "objective")
    more = ("cost", "compute_loss_func")
    own = {name: settings.pop(name) for name in (*own, *more) if name in settings}
    model = bert() if model is None else model
    return kind(
        model,
        arguments(folder, **settings),
        train_dataset=data,
        data_collator=collate_fn,
        **grouped(**own),
    )


def steps(trainer, *names):
    return [
        tuple(log[name] for name in names) for log in trainer.state.log_history if "loss" in log
    ]


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def mean_over_the_step(outputs, labels, num_items_in_batch):
    """A plain trainer needs this, since Bert's own loss leaves the step's rows out."""
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


class Own(FrugalMixin, transformers.Trainer):
    """A trainer of one's own, before whose loss nothing is put."""


@pytest.mark.parametrize(("accumulation", "bf16"), [(1, False), (4, False), (1, True)])
@pytest.mark.parametrize("kind", [FrugalTrainer, Own])
@pytest.mark.heavy
def test_a_gate_that_no_sample_passes_is_the_plain_trainer(
    kind, accumulation, bf16, texts, tmp_path
):
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": accumulation, "warmup_steps": 2, "bf16": bf16,
    }  # fmt: skip
    right = {"compute_loss_func": mean_over_the_step} if kind is FrugalTrainer else {}
    plain = made(Plain, tmp_path / "plain", texts, **settings, **right)
    plain.train()
    frugal = made(kind, tmp_path / "frugal", texts, policy=NONE_PASSES, **settings)
    metrics = frugal.train().metrics
    assert same_weights(plain.model, frugal.model)
    names = ("learning_rate", "epoch", "grad_norm")
    assert steps(plain, *names) == steps(frugal, *names)
    assert len(steps(plain, "loss")) == EPOCHS * -(-ROWS // BATCH // accumulation)
    losses = np.array(steps(plain, "loss")), np.array(steps(frugal, "loss"))
    if kind is Own:
        assert (losses[0] == losses[1]).all()
    np.testing.assert_allclose(*losses, rtol=3e-7)  # a sum of rows is rounded in another order
    assert metrics["budget"] == 1
    assert metrics["samples_backpropagated"] == ROWS * EPOCHS
    assert (frugal.ledger["participations"] == EPOCHS).all()
    saved = Ledger.load(tmp_path / "frugal")
    assert same_columns(saved, frugal.ledger)
    assert saved.epochs == EPOCHS


@pytest.mark.heavy
def test_a_regulated_run_has_the_ledger_of_a_plain_loop(texts, tmp_path):
    settings: dict[str, Any] = {
        "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "num_train_epochs": 4,
    }  # fmt: skip
    trainer = made(
        FrugalTrainer, tmp_path, texts, policy=SOME, teacher=bert(1), objective=KD(2.0, 0.5),
        **settings,
    )  # fmt: skip
    trainer.train()

    student, teacher, kd = bert(), bert(1), KD(2.0, 0.5)
    transformers.set_seed(SEED)
    selection = Selection(
        texts,
        epochs=4,
        batch_size=BATCH,
        seed=SEED,
        model=student,
        sampling=Sampling(policy=SOME),
        loading=DataLoading(screen_batch=8, collate_fn=collate_fn),
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    participations = np.zeros(ROWS, dtype=int)
    for epoch in selection:
        for batch in epoch:
            inputs, labels = dict(batch.data), batch.data["labels"]
            del inputs["labels"]
            logits = student.train()(**inputs).logits
            with torch.no_grad():
                soft = teacher.eval()(**inputs).logits
            losses = kd(logits, soft, labels)
            (losses.sum() / len(losses)).backward()
            optimizer.step()
            optimizer.zero_grad()
            batch.observe(logits, labels, losses)
            top, said = torch.softmax(logits.detach(), dim=1).max(dim=1)
            participations[batch.ids] += ((said != labels) | (top < SOME.confidence)).numpy()
    assert same_columns(trainer.ledger, selection.ledger)
    assert trainer.ledger["participations"].tolist() == participations.tolist()
    assert 0 < participations.sum() < 4 * ROWS, "a gate that some pass, or this shows nothing"
    assert trainer.ledger.epochs == 4
    assert same_weights(trainer.model, student)
    assert trainer.meters.teacher_queries == trainer.meters.samples_backpropagated
    assert trainer.meters.student_forwards == selection.meters.student_forwards


@pytest.mark.parametrize(
    ("policy", "accumulation"),
    [(SOME, 2), (SelfRegulation(confidence=0.17, when="now"), 1)],
    ids=["last-visit", "now"],
)
@pytest.mark.heavy
def test_a_run_resumes_in_the_middle_of_an_epoch(policy, accumulation, texts, tmp_path):
    def trainer(folder):
        return made(
            FrugalTrainer, folder, texts, policy=policy, teacher=bert(1), save_strategy="steps",
            save_steps=1, num_train_epochs=3, gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    undisturbed = trainer(tmp_path)
    undisturbed.train()
    last = undisturbed.state.global_step
    assert 3 < last <= 3 * -(-ROWS // BATCH // accumulation)
    assert (tmp_path / f"checkpoint-{last}" / "frugalkd.safetensors").is_file()
    for step in (2, last - 1):
        resumed = trainer(tmp_path / "again")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same_weights(undisturbed.model, resumed.model)
        assert same_columns(undisturbed.ledger, resumed.ledger)
        assert resumed.state.global_step == last
        assert resumed.meters.samples_backpropagated == undisturbed.meters.samples_backpropagated
        assert steps(resumed, "learning_rate") == steps(undisturbed, "learning_rate")


class Breaking(FrugalTrainer):
    """Its ``bad``-th batch has a bad gradient under a finite loss."""

    bad = -1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.bad -= 1
        return Spoil.apply(loss) if self.bad == -1 else loss


@pytest.mark.parametrize(("accumulation", "bad", "norm"), [(1, 5, 1.0), (2, 11, 0.0)])
@pytest.mark.heavy
def test_a_bad_gradient_stops_the_run_before_a_checkpoint(accumulation, bad, norm, texts, tmp_path):
    """In an epoch's last batch, and the last one of all; what is kept is resumed from."""

    def trainer(kind, folder):
        return made(
            kind, folder, texts, policy=All(), save_strategy="steps", save_steps=1,
            max_grad_norm=norm, gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    breaking = trainer(Breaking, tmp_path)
    breaking.bad = bad
    epoch, batch = divmod(bad, 6)
    step = batch // accumulation
    with pytest.raises(NonFiniteLoss, match=f"^a gradient .* epoch {epoch}, step {step}") as raised:
        breaking.train()
    assert len(set(raised.value.ids)) == 2 + BATCH * (accumulation - 1)
    done = epoch * 6 // accumulation + step
    kept = [tmp_path / f"checkpoint-{number + 1}" for number in range(done)]
    assert sorted(map(str, tmp_path.glob("checkpoint-*"))) == sorted(map(str, kept))
    whole, resumed = (trainer(FrugalTrainer, tmp_path / name) for name in ("whole", "again"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(kept[-1]))
    assert same_weights(whole.model, resumed.model)


def test_weights_that_overflow_stop_the_run(texts, tmp_path):
    class Wild(FrugalTrainer):
        def get_batch_samples(self, *args):
            found = super().get_batch_samples(*args)
            if self.state.global_step == 11:
                optimizer: Any = self.optimizer
                for group in optimizer.param_groups:
                    group["lr"] = 1e42
            return found

    trainer = made(Wild, tmp_path, texts, policy=All(), save_strategy="epoch")
    with pytest.raises(NonFiniteLoss, match=r"^the weight bert.* at epoch 1, step 5, samples"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


@pytest.mark.parametrize(
    ("rows", "accumulation", "wanted"),
    [
        (21, 1, [(4, 4)] * 4 + [(5, 5)]),
        (21, 3, [(4, 12)] * 3 + [(4, 9), (5, 9)]),
        (13, 3, [(4, 13), (4, 13), (5, 13)]),
        (1, 1, [(1, 1)]),
    ],
)
def test_a_last_row_joins_the_batch_before(rows, accumulation, wanted, texts, tmp_path):
    """Rows of each batch, and of its step."""
    seen = []

    class Counting(FrugalTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            _, batch = self.planned.current
            seen.append((len(inputs["labels"]), batch.step_rows))
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = made(
        Counting, tmp_path, texts.select(range(rows)), policy=All(),
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer.train()
    assert seen == wanted * EPOCHS
    assert trainer.state.global_step == EPOCHS * -(-len(wanted) // accumulation)
    assert trainer.meters.samples_backpropagated == EPOCHS * rows


def test_a_checkpoint_of_another_training_is_refused(texts, tmp_path):
    saving: dict[str, Any] = {"save_strategy": "epoch", "num_train_epochs": 1}
    made(FrugalTrainer, tmp_path, texts, policy=NONE_PASSES, **saving).train()
    with pytest.raises(RunFolderError, match="other policy"):
        made(FrugalTrainer, tmp_path, texts, policy=All()).train(resume_from_checkpoint=True)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    (checkpoint / "frugalkd.safetensors").unlink()
    with pytest.raises(RunFolderError, match="plain Trainer"):
        made(FrugalTrainer, tmp_path, texts, policy=NONE_PASSES).train(str(checkpoint))


@pytest.mark.parametrize(
    ("first", "other", "names"),
    [
        ({"cost": 0.5}, {"cost": 0.25}, "other cost"),
        ({"weights": [*range(1, ROWS + 1)]}, {"weights": np.ones(ROWS)}, "other weights"),
    ],
)
@pytest.mark.heavy
def test_another_cost_or_other_weights_do_not_resume(first, other, names, texts, tmp_path):
    """Every cost has the same policy, and any weights the same pool."""
    made(FrugalTrainer, tmp_path, texts, save_strategy="epoch", **first).train()
    with pytest.raises(RunFolderError, match=names):
        made(FrugalTrainer, tmp_path, texts, **other).train(resume_from_checkpoint=True)


class EveryOther(Ungated):
    """No sample in odd epochs, a third of them in others."""

    def plan(self, ledger, pool, at):
        return Plan(pool[:0] if at.epoch % 2 else pool[: len(pool) // 3])


def test_the_schedule_ends_with_the_plan(texts, tmp_path):
    trainer = made(
        FrugalTrainer, tmp_path, texts, policy=EveryOther(), num_train_epochs=4, warmup_steps=2,
        eval_strategy="no",
    )  # fmt: skip
    trainer.train()
    of_peak = [rate / 1e-3 for (rate,) in steps(trainer, "learning_rate")]
    total, each = 24, 6  # steps of full training, of an epoch of it
    assert of_peak == pytest.approx(
        # Two steps of seven rows in epochs 0 and 2; of two steps of warm-up one is left.
        [0, *((total - at) / (total - 2) for at in (each / 2, 2 * each, 2 * each + each / 2))]
    )
    assert [epoch for (epoch,) in steps(trainer, "epoch")] == [0.5, 1, 2.5, 3]
    assert trainer.ledger.epochs == 4


@pytest.mark.heavy
def test_a_teacher_by_path_runs_live_or_once(texts, tmp_path):
    bert(1, width=48).save_pretrained(tmp_path / "teacher")
    named: dict[str, Any] = {"teacher": tmp_path / "teacher", "mode": "vanilla"}
    live = made(FrugalTrainer, tmp_path / "live", texts, **named)
    assert live.train().metrics["teacher_queries"] == ROWS * EPOCHS
    kept = made(FrugalTrainer, tmp_path / "kept", texts, **named, store=tmp_path / "store")
    assert kept.train().metrics["teacher_queries"] == ROWS
    np.testing.assert_allclose(steps(live, "loss"), steps(kept, "loss"), rtol=1e-3)  # float16
    stored = StoredTargets(tmp_path / "store")
    again = made(FrugalTrainer, tmp_path / "again", texts, teacher=stored)
    assert again.train().metrics["teacher_queries"] == 0
    assert same_weights(again.model, kept.model)


@pytest.mark.parametrize("names", ["A B C", "LABEL_0 LABEL_1 LABEL_2", "c a b"])
def test_class_names_that_mean_the_same_pass(names):
    pair = named(names, "a b c")
    if names == "c a b":
        reorder_classes(pair["teacher"], "abc")
    check_pair(pair["model"], pair["teacher"])


class InDict(torch.nn.Module):
    """A model of one's own, as the Trainer accepts it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask=None, labels=None):
        outputs = self.inner(input_ids, attention_mask, labels=labels)
        return {name: outputs[name] for name in ("loss", "logits") if name in outputs}


EARLY = SelfRegulation(0.17, ceiling=0.9, budget_schedule="early", budget=0.5)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.heavy
def test_a_ceiling_works_with_a_live_teacher(store, texts, tmp_path):
    """The teacher runs on all samples before the first epoch, and a resumed run does not repeat
    that; with a store each sample is queried once."""
    passed = []

    def trainer(name):
        teacher = bert(1)
        teacher.register_forward_hook(lambda _, args, output: passed.append(len(output.logits)))
        more = {"store": tmp_path / f"store {name}"} if store else {}
        return made(
            FrugalTrainer, tmp_path / name, texts, regulation=EARLY, teacher=teacher,
            save_strategy="epoch", num_train_epochs=4, **more,
        )  # fmt: skip

    whole = trainer("whole")
    metrics = whole.train().metrics
    at_first, queries = 2, metrics["teacher_queries"]  # rows of the check of the first batch
    assert queries == sum(passed) - at_first
    assert queries == ROWS + (0 if store else metrics["samples_backpropagated"])
    assert metrics["samples_backpropagated"] == 2 * ROWS
    wanted = [
        softmax[label] for softmax, label in zip(softmaxes(texts), texts["label"], strict=True)
    ]
    np.testing.assert_allclose(whole.ledger["teacher_truth"], wanted, rtol=2e-3)  # float16
    steps_of = whole.state.max_steps // 4  # of an epoch; this one uses everything
    checkpoint = tmp_path / "whole" / f"checkpoint-{steps_of}"
    resumed = trainer("whole" if store else "again")
    assert resumed.train(str(checkpoint)).metrics["teacher_queries"] == queries
    assert same_weights(whole.model, resumed.model)


def softmaxes(texts):
    batch = collate_fn(list(texts))
    del batch["labels"]
    with torch.no_grad():
        return torch.softmax(bert(1).eval()(**batch).logits, dim=1).numpy()


@pytest.mark.parametrize("how", ["label_names", "the collator"])
@pytest.mark.heavy
def test_labels_are_read_where_the_trainer_reads_them(how, texts, tmp_path):
    renamed = texts.rename_column("label", "goal")

    class Named(InDict):
        def forward(self, input_ids, attention_mask=None, goal=None):
            return super().forward(input_ids, attention_mask)

    def collator(samples):
        batch = collate_fn(samples)
        goals = torch.tensor([sample["goal"] for sample in samples])
        return batch | {"goal" if how == "label_names" else "labels": goals}

    plain = made(FrugalTrainer, tmp_path, texts, regulation=EARLY, teacher=bert(1))
    plain.train()
    model = Named(bert()) if how == "label_names" else InDict(bert())
    settings = {"label_names": ["goal"]} if how == "label_names" else {}
    for teacher in (None, bert(1)):
        own = FrugalTrainer(
            model,
            arguments(tmp_path, remove_unused_columns=False, **settings),
            train_dataset=renamed,
            data_collator=collator,
            teacher=teacher,
            sampling=Sampling(policy=All()) if teacher is None else Sampling(regulation=EARLY),
        )
        own.train()
        assert (own.ledger["visits"] > 0).any()
        model = type(model)(bert())
    assert same_columns(own.ledger, plain.ledger)


def test_a_teacher_may_be_a_run_folder(texts, tmp_path):
    """As frugalkd teach leaves it."""
    model = build_text_model("text-cnn", num_classes=CLASSES, vocabulary=200, buckets=8)
    save_weights(tmp_path / "w.safetensors", model)
    card = {"schema": 1, "weights": "w.safetensors", "num_classes": CLASSES, "vocabulary": 200}
    card |= {"model": {"name": "text-cnn", "options": {"buckets": 8}}, "tokenizer": "words"}
    (tmp_path / "model.json").write_text(json.dumps(card | {"max_length": 40}))
    trainer = made(FrugalTrainer, tmp_path / "out", texts, teacher=tmp_path, policy=All())
    trainer.train()
    assert same_weights(trainer.teacher, model)
    assert trainer.meters.teacher_queries == ROWS * EPOCHS
    with pytest.raises(TargetsError, match=r"'words' \(200 tokens\), and the student's has 4"):
        teacher_from(tmp_path, bert(), tokenizer_of(["card", "lost"]))


def test_a_run_folder_imports_what_is_allowed(texts, tmp_path):
    """A teacher by import path."""
    path, options = "transformers:BertForSequenceClassification.from_pretrained", {}
    bert(1).save_pretrained(tmp_path / "big")
    options["pretrained_model_name_or_path"] = str(tmp_path / "big")
    save_weights(tmp_path / "w.safetensors", bert(1))
    card = {"schema": 1, "weights": "w.safetensors", "model": {"path": path, "options": options}}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ImportRefused, match="which can run any code"):
        FrugalTrainer(bert(), arguments(tmp_path / "x"), train_dataset=texts, teacher=str(tmp_path))
    trainer = FrugalTrainer(
        bert(), arguments(tmp_path / "x"), train_dataset=texts, teacher=str(tmp_path),
        imports=[path],
    )  # fmt: skip
    assert same_weights(trainer.teacher, bert(1))


def test_metrics_have_the_cost(texts, tmp_path):
    gate = SelfRegulation(confidence=0.3, probe=0.1)
    trainer = made(
        FrugalTrainer, tmp_path, texts, teacher=bert(1), mode="regulated", regulation=gate,
        cost=0.5, num_train_epochs=6,
    )  # fmt: skip
    metrics = trainer.train().metrics
    screened = metrics["student_forwards"] - metrics["samples_backpropagated"]
    rows = metrics["samples_backpropagated"] + screened / 3
    assert metrics["cost"] == pytest.approx(rows / (6 * ROWS))
    assert 0.4 < metrics["cost"] <= 0.5 + 1 / ROWS
    assert metrics["budget"] <= metrics["cost"]


@pytest.mark.parametrize("kind", [FrugalTrainer, Own])
def test_models_may_return_a_dict_with_logits(kind, texts, tmp_path):
    teacher = {"teacher": bert(1)} if kind is FrugalTrainer else {}
    plain = made(kind, tmp_path, texts, policy=SOME, **teacher)
    plain.train()
    teacher, model = {"teacher": InDict(bert(1))} if teacher else {}, InDict(bert())
    made(kind, tmp_path, texts, policy=SOME, model=model, **teacher).train()
    assert same_weights(plain.model, model.inner)


def test_hybrid_trains_only_what_was_significant(texts, tmp_path):
    teacher = made(FrugalTrainer, tmp_path / "teacher", texts, policy=SOME, num_train_epochs=4)
    teacher.train()
    ledger = Ledger.load(tmp_path / "teacher")
    ledger["participations"][:5] = 0
    student = made(
        FrugalTrainer, tmp_path / "student", texts, teacher=teacher.model, mode="hybrid",
        ledger=ledger, regulation=SOME, model=bert(2), gradient_accumulation_steps=3,
    )  # fmt: skip
    student.train()
    assert (student.ledger["visits"] > 0).tolist() == (ledger["participations"] > 0).tolist()


@pytest.mark.heavy
def test_the_trainers_own_losses_of_rows_can_be_weighted(texts, tmp_path):
    weights = np.linspace(0, 2, ROWS, dtype=np.float32)

    class Weighed(FrugalMixin, OneARow):
        pass

    own = made(Weighed, tmp_path / "own", texts, weights=weights, gradient_accumulation_steps=2)
    own.train()
    ours = made(
        FrugalTrainer, tmp_path / "ours", texts, weights=weights, gradient_accumulation_steps=2
    )
    ours.train()
    assert same_weights(own.model, ours.model)
    with pytest.raises(SelectionMisuse, match="one loss a row"):
        made(Own, tmp_path / "reduced", texts, weights=weights).train()


class OneARow(transformers.Trainer):
    """A loss of one's own, one a row."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, labels, reduction="none")
        return (loss, outputs) if return_outputs else loss


@pytest.mark.heavy
def test_pictures_in_bf16_with_the_trainers_evaluation(tmp_path):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(pixels[:48], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    data = [
        {"pixel_values": x, "label": int(y)} for x, y in zip(pictures, labels[:48], strict=True)
    ]
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=10,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    teacher = copy.deepcopy(model)
    trainer = FrugalTrainer(
        model,
        arguments(tmp_path, bf16=True, eval_strategy="epoch", num_train_epochs=3),
        sampling=Sampling(mode="regulated", regulation=SelfRegulation(confidence=0.12)),
        train_dataset=data,
        eval_dataset=data[:20],
        teacher=teacher,
    )
    metrics = trainer.train().metrics
    assert 0 < metrics["budget"] < 1
    assert len([log for log in trainer.state.log_history if "eval_loss" in log]) == 3
    assert np.isfinite(trainer.ledger["confidence"]).all()
    assert trainer.meters.eval_seconds > 0
    plain = transformers.Trainer(model, arguments(tmp_path, bf16=True), eval_dataset=data[:20])
    assert plain.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_max_steps_are_those_of_full_training(texts, tmp_path):
    trainer = made(FrugalTrainer, tmp_path, texts, policy=All(), max_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.ledger.epochs == pytest.approx(8 / 6)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_gate_ends_the_training_once_its_cost_is_spent(strategy, texts, tmp_path, caplog):
    gate = SelfRegulation(0.4, cost=0.5)
    how = arguments(
        tmp_path, num_train_epochs=8, save_strategy=strategy, eval_strategy=strategy, eval_steps=999
    )
    trainer = FrugalTrainer(
        bert(), how, train_dataset=texts, eval_dataset=texts, data_collator=collate_fn,
        sampling=Sampling(policy=gate),
    )  # fmt: skip
    trainer.train()
    assert (tmp_path / f"checkpoint-{trainer.state.global_step}").is_dir()
    evaluated = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    assert evaluated[-1] == trainer.state.global_step
    assert len(evaluated) == (1 if strategy == "steps" else trainer.ledger.epochs)
    meters = trainer.meters
    screened = meters.student_forwards - meters.samples_backpropagated
    cost = meters.samples_backpropagated + screened / 3
    assert cost == pytest.approx(4 * len(texts), abs=1)
    assert trainer.ledger.epochs < 8
    assert steps(trainer, "learning_rate")[-1][0] < trainer.args.learning_rate / 20
    assert "single sample" not in caplog.text  # the trainer's warning of an epoch without batches


@pytest.mark.parametrize("limit", ["num_train_epochs", "max_steps"])
def test_a_cost_may_take_more_epochs_than_were_given(limit, texts, tmp_path):
    full = -(-len(texts) // BATCH)
    how = arguments(tmp_path, **{limit: 4 if limit == "num_train_epochs" else 4 * full})
    before = how.num_train_epochs, how.max_steps
    gate = SelfRegulation(0.4)
    trainer = FrugalTrainer(
        bert(), how, train_dataset=texts, data_collator=collate_fn, cost=0.5,
        sampling=Sampling(regulation=gate),
    )  # fmt: skip
    trainer.train()
    assert (how.num_train_epochs, how.max_steps) == before
    meters = trainer.meters
    screened = meters.student_forwards - meters.samples_backpropagated
    cost = meters.samples_backpropagated + screened / 3
    assert cost == pytest.approx(2 * len(texts), abs=1)
    assert 2 <= trainer.ledger.epochs <= 8
    assert steps(trainer, "learning_rate")[-1][0] < how.learning_rate / 10
    assert trainer.policy == replace(gate, cost=1 / HORIZON, probe=PROBE)


@pytest.mark.heavy
def test_the_cost_of_everything_is_fewer_epochs(texts, tmp_path):
    models = []
    for given in ({"cost": 0.5, "num_train_epochs": 4}, {"num_train_epochs": 2}):
        trainer = made(FrugalTrainer, tmp_path, texts, mode="vanilla", **given)
        trainer.train()
        models.append(trainer.model)
    assert same_weights(*models)


@pytest.mark.heavy
def test_a_cost_resumes_within_an_epoch(texts, tmp_path):
    def trained(folder, resume=None):
        trainer = made(
            FrugalTrainer, folder, texts, teacher=bert(1), cost=0.5, num_train_epochs=4,
            save_strategy="steps", save_steps=3,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained(tmp_path / "a")
    assert "teacher_truth" in whole.ledger.columns  # the ceiling of a cost
    resumed = trained(tmp_path / "b", str(tmp_path / "a" / "checkpoint-3"))
    assert same_weights(whole.model, resumed.model)
    assert same_columns(whole.ledger, resumed.ledger)


@pytest.mark.skipif(torchs_start_method() != "fork", reason="torch does not fork workers here")
@pytest.mark.heavy
def test_workers_start_as_the_trainers_do_and_stay(texts, tmp_path):
    """A collator within a function cannot be sent to spawned workers."""
    seen = []

    class Watching(FrugalTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append(int(inputs.pop("process")))
            return super().compute_loss(model, inputs, *args, **kwargs)

    def trained(workers):
        trainer = made(
            Watching, tmp_path, texts, policy=All(), dataloader_num_workers=workers,
            teacher=bert(1),
        )  # fmt: skip
        trainer.data_collator = lambda samples: (
            collate_fn(samples) | {"process": torch.tensor(os.getpid())}
        )
        trainer.train()
        return trainer

    alone = trained(0)
    assert {*seen} == {os.getpid()}
    seen.clear()
    assert same_weights(alone.model, trained(2).model)
    assert len(seen) == EPOCHS * 6
    assert len({*seen}) == 2, "the same in all epochs"
    assert os.getpid() not in seen


class Torn(list):
    """A list of samples of which one cannot be read."""

    def __getitem__(self, id):
        if id == 5:
            raise OSError("torn\n\x1b[31mred")
        return super().__getitem__(id)


def hooked(*given):
    raise ValueError("hook\nof mine")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("sample", "sample 5 cannot be read (OSError: torn ?[31mred)"),
        ("label", "sample 5 has label 9, and the model 6 classes"),
        ("column", "sample 5 has label 9, and the model 6 classes"),
        ("collator", "collate fails on samples"),
        ("rows", "rows, not"),
        ("forward", "the model fails on samples"),
        ("policy", "Broken.plan fails in epoch 0 (KeyError: 'plan')"),
    ],
)
def test_bad_inputs_are_one_line_that_names_them(fault, says, texts, tmp_path):
    samples = [dict(sample) for sample in texts]
    if fault in ("label", "column"):
        samples[5]["label"] = 9
    policy = type("Broken", (Ungated,), {"plan": lambda *given: {}["plan"]})()
    settings = {"policy": policy} if fault == "policy" else {"policy": All()}
    data: Any = Torn(samples) if fault == "sample" else samples
    if fault == "column":  # a ceiling knows all labels before the first epoch
        data, settings = datasets.Dataset.from_list(samples), {"regulation": EARLY}
        settings["teacher"] = bert(1)
    trainer = made(FrugalTrainer, tmp_path, data, **settings)
    if fault == "collator":
        trainer.data_collator = lambda samples: collate_fn([{}, *samples])
    if fault == "rows":
        trainer.data_collator = lambda samples: collate_fn(samples[1:])
    if fault == "forward":
        trainer.model.classifier.register_forward_hook(hooked)  # pyright: ignore
    with pytest.raises(FrugalKDError) as caught:
        trainer.train()
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


class Endless(IterableDataset):
    def __iter__(self):
        yield {"input_ids": [1], "label": 0}


class NoLogits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"loss": self.weight.sum()}


def named(teacher, student):
    """A teacher and a student whose classes have these names."""

    def model(seed, names):
        names = dict(enumerate(names.split()))
        return bert(seed, id2label=names, label2id={n: i for i, n in names.items()})

    return {"teacher": model(1, teacher), "model": model(0, student)}


class Encoder(torch.nn.Module):
    """An encoder of one's own: hidden states, pooled or not, or something that it makes of them."""

    def __init__(self, pool=lambda outputs: outputs.pooler_output, **config):
        super().__init__()
        self.inner, self.pool = transformers.BertModel(bert().config), pool
        if config:
            self.config = SimpleNamespace(**config)

    def forward(self, input_ids, attention_mask=None):
        return self.pool(self.inner(input_ids, attention_mask))


def of_length_1(outputs):
    return F.normalize(outputs.pooler_output[:, :20])


def task(kind):
    return getattr(transformers, kind)(bert().config)


NOW = SelfRegulation(when="now")


@pytest.mark.parametrize(
    ("kind", "settings", "error", "says"),
    [
        (FrugalTrainer, {"data": Endless()}, UnsupportedData, "map-style"),
        (Own, {"policy": NOW}, SelectionMisuse, "your own Trainer may have changed"),
        (Own, {"cost": 0.5, "policy": NOW}, SettingError, "cost is decided before the epoch"),
        (
            FrugalTrainer,
            {"policy": NOW, "gradient_accumulation_steps": 2},
            SelectionMisuse,
            "gradient_accumulation_steps must be 1",
        ),
        (FrugalTrainer, {"model": NoLogits()}, ModelError, "gives a dict"),
        *(
            (FrugalTrainer, {"model": model}, ModelError, says)
            for model, says in (
                (transformers.BertModel(bert().config), "embeddings and no logits of classes: add"),
                (Encoder(lambda outputs: outputs.last_hidden_state), "one row of logits a sample"),
                (Encoder(), "32 numbers a sample, as many as its hidden states have, and no log"),
                (Encoder(of_length_1), "20 numbers a sample, of length 1, as embeddings are"),
                (Encoder(lambda o: o.pooler_output[:, :9], num_labels=6), "num_labels is 6"),
                (task("BertForMaskedLM"), "masked language modelling, which is not supported yet"),
                (task("BertForTokenClassification"), "token classification, which is not"),
                (task("BertForQuestionAnswering"), "question answering, which is not supported"),
                (
                    task("BertLMHeadModel"),
                    "causal language modelling, and the data set is not a Corpus",
                ),
                (InDict(task("BertForMaskedLM")), "a language model learns a Corpus"),
            )
        ),
        (FrugalTrainer, {"label": lambda label: [label, 0]}, UnsupportedData, "multi-label"),
        (FrugalTrainer, {"label": float}, UnsupportedData, "regression"),
        (FrugalTrainer, {"model": bert(classes=1)}, UnsupportedData, "floating-point values are"),
        (
            Own,
            {"model": bert(problem_type="multi_label_classification")},
            UnsupportedData,
            "0 or 1 for each label are needed",
        ),
        (FrugalTrainer, {"drop": "label"}, UnsupportedData, "rename the column"),
        (FrugalTrainer, {"teacher": bert(1, classes=5)}, TargetsError, "5 classes"),
        (
            FrugalTrainer,
            named("a c b", "a b c"),
            TargetsError,
            "the student's classes in another or",
        ),
        (FrugalTrainer, named("a b c", "a b x"), TargetsError, "other classes than the student"),
        (FrugalTrainer, named("a b c d", "a b c"), TargetsError, "4 there, 3 in the student"),
        (FrugalTrainer, {"teacher": "no/such-folder-anywhere/x"}, ModelError, "no teacher at"),
        (FrugalTrainer, {"objective": KD()}, TargetsError, "needs a teacher"),
        (FrugalTrainer, {"mode": "hybrid"}, LedgerError, "significance ledger"),
        (FrugalTrainer, {"mode": "best"}, SettingError, "mode must be"),
        *(
            (
                kind,
                {"compute_loss_func": mean_over_the_step, **more},
                ModelError,
                "compute_loss_func",
            )
            for kind, more in ((FrugalTrainer, {}), (Own, {"teacher": bert(1)}))
        ),
        (
            FrugalTrainer,
            {"objective": KD(), "teacher": bert(1), "label_smoothing_factor": 0.3},
            SettingError,
            r"put CrossEntropy\(0.3\) into it",
        ),
        (
            FrugalTrainer,
            {"train_sampling_strategy": "sequential"},
            SelectionMisuse,
            "order of samples",
        ),
    ],
)
def test_misuse_is_refused_in_one_line(kind, settings, error, says, texts, tmp_path):
    settings = dict(settings)
    data = settings.pop("data", texts)
    if drop := settings.pop("drop", None):
        data = data.remove_columns(drop)
    if change := settings.pop("label", None):
        data = [{**row, "label": change(row["label"])} for row in data]
    with pytest.raises(FrugalKDError, match=says) as raised:
        made(kind, tmp_path, data, **settings).train()
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


def test_smoothed_labels_are_the_arguments(texts, tmp_path):
    trainer = made(FrugalTrainer, tmp_path, texts, label_smoothing_factor=0.1)
    assert trainer.objective == CrossEntropy(0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothing_is_in_the_loss_with_a_teacher(smoothing, texts, tmp_path):
    trainer = made(
        FrugalTrainer, tmp_path, texts, teacher=bert(1).eval(), policy=All(), max_steps=1,
        label_smoothing_factor=smoothing, per_device_train_batch_size=ROWS,
    )  # fmt: skip
    trainer.model.config.hidden_dropout_prob = 0
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    student = copy.deepcopy(trainer.model)
    trainer.train()
    batch = collate_fn(list(texts))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits, soft = student(**batch).logits, trainer.teacher(**batch).logits
    kl = F.kl_div(
        torch.log_softmax(logits / 4, 1), torch.softmax(soft / 4, 1), reduction="batchmean"
    )
    hard = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert steps(trainer, "loss")[0][0] == pytest.approx(
        float(0.9 * 16 * kl + 0.1 * hard), rel=1e-4
    )


# Batches of rows of like length.


@pytest.mark.parametrize("column", [None, "length"])
def test_group_by_length_makes_batches_of_like_length(column, texts, tmp_path):
    rows = datasets.concatenate_datasets([texts] * 8)
    lengths = np.array([len(ids) for ids in rows["input_ids"]])
    if column is not None:
        lengths = lengths[::-1]
        rows = rows.add_column(column, lengths.tolist())
    orders = {}
    for strategy in ("random", "group_by_length"):
        arguments = {"train_sampling_strategy": strategy, "num_train_epochs": 1}
        trainer = made(Recorded, tmp_path / strategy, rows, **arguments)
        trainer.train()
        orders[strategy] = trainer.seen
    window = len(rows) // (4 * BATCH)
    expected = bucketed(np.concatenate(orders["random"]), lengths, BATCH, window, SEED, 0)
    assert np.concatenate(orders["group_by_length"]).tolist() == expected.tolist()
    spread = {name: np.mean([np.ptp(lengths[i]) for i in seen]) for name, seen in orders.items()}
    assert spread["group_by_length"] < spread["random"] / 2


class Recorded(FrugalTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        batch: Any = self.planned.batch
        self.seen = [*getattr(self, "seen", []), batch.ids]
        return super().training_step(model, inputs, num_items_in_batch)


def test_held_out_rows_keep_their_order_under_group_by_length(texts, tmp_path):
    only = texts.remove_columns("input_ids")

    def collate(rows):
        return collate_fn([{**row, "input_ids": [len(row["text"])]} for row in rows])

    trainer = FrugalTrainer(
        bert(),
        arguments(
            tmp_path, num_train_epochs=1, train_sampling_strategy="group_by_length",
            remove_unused_columns=False, eval_strategy="epoch",
        ),
        train_dataset=only, eval_dataset=only, data_collator=collate,
    )  # fmt: skip
    trainer.train()
    labels: Any = trainer.predict(only).label_ids
    assert labels.tolist() == texts["label"]
