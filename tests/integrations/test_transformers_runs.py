"""Transformers' trainers: schedules and limits at a cost, checkpoints, and what of your own Trainer
is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from frugalkd import All, Sampling, SelfRegulation
from frugalkd.errors import FrugalKDWarning, SelectionMisuse
from frugalkd.language import tiny_model, tiny_tokenizer, tokenize_corpus
from frugalkd.policies.modes import HORIZON

transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
datasets: Any = pytest.importorskip("datasets", reason="needs the extra transformers")

from frugalkd.integrations.transformers import FrugalMixin, FrugalTrainer  # noqa: E402

ROWS, BATCH, EPOCHS = 20, 2, 4
FULL = EPOCHS * ROWS // BATCH
"""Steps of full training."""
NONE_IS_LEARNED = SelfRegulation(confidence=0.9)
"""A gate that no sample passes: a cost is then a shorter training on everything."""
RATE = 1e-3


def rows(n=ROWS):
    draws = np.random.default_rng(0)
    ids = [draws.integers(1, 50, draws.integers(4, 10)).tolist() for _ in range(n)]
    return datasets.Dataset.from_list([{"input_ids": i, "label": i[0] % 3} for i in ids])


def collate(samples):
    ids = [torch.tensor(sample["input_ids"]) for sample in samples]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": labels}


def bert(seed=0):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def made(
    folder, schedule=None, cost=None, kind=FrugalTrainer, sampling=None, model=None, **settings
):
    """A trainer at a cost; ``schedule`` makes one of one's own from the optimiser."""
    model = model or bert()
    given = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "learning_rate": RATE,
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
        "use_cpu": True,
    } | settings  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    own = {"optimizers": (optimizer, schedule(optimizer))} if schedule else {}
    return kind(
        model, transformers.TrainingArguments(str(folder), **given), train_dataset=rows(),
        eval_dataset=rows(4), data_collator=collate, cost=cost,
        sampling=sampling or Sampling(regulation=NONE_IS_LEARNED), **own,  # pyright: ignore
    )  # fmt: skip


def rates(trainer):
    """Of each step, as fractions of the peak."""
    logs = trainer.state.log_history
    return [log["learning_rate"] / RATE for log in logs if "loss" in log]


def linear(optimizer, warmup=0):
    return transformers.get_linear_schedule_with_warmup(optimizer, warmup, FULL)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FULL)


@pytest.mark.parametrize("mode", ["regulated", "vanilla"])
@pytest.mark.parametrize("schedule", [linear, cosine, None])
def test_a_schedule_of_the_given_steps_decays_at_a_cost(schedule, mode, tmp_path):
    """One of the trainer's own, too; a step is one of full training, or nearly two of it."""
    sampling = Sampling(mode="vanilla") if mode == "vanilla" else None
    trainer = made(tmp_path, schedule, 0.5, sampling=sampling)
    trainer.train()
    found = rates(trainer)
    assert len(found) in (FULL // 2, FULL // 2 + 1)
    at = np.linspace(0, 1 - 1 / len(found), len(found))
    expected = (1 + np.cos(math.pi * at)) / 2 if schedule is cosine else 1 - at
    assert found == pytest.approx(expected.tolist(), abs=0.08)
    assert found[-1] < 0.08


@pytest.mark.parametrize("cost", [None, 0.5])
def test_a_warm_up_takes_the_same_part_at_a_cost(cost, tmp_path):
    trainer = made(tmp_path, cost=cost, warmup_steps=FULL * 3 // 10)
    trainer.train()
    found = rates(trainer)
    assert len(found) <= FULL * (cost or 1) + 1
    assert np.argmax(found) == len(found) * 3 // 10


def test_a_created_schedule_has_the_given_steps(tmp_path):
    class Mine(FrugalTrainer):
        def create_scheduler(self, num_training_steps, optimizer=None):
            assert num_training_steps == FULL
            return super().create_scheduler(num_training_steps, optimizer)

    trainer = made(
        tmp_path, kind=Mine, cost=0.5, lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": FULL // 2},
    )  # fmt: skip
    trainer.train()
    found = np.array(rates(trainer))
    assert (found[: FULL // 4] == 1).all()
    assert found[-1] < 0.1


def test_a_cost_below_a_quarter_and_above_one_follow_too(tmp_path):
    for cost, last in ((0.2, 0.25), (1.5, 0.05)):
        trainer = made(tmp_path, linear, cost)
        trainer.train()
        assert FULL * cost <= len(rates(trainer)) <= FULL * cost + 2
        assert rates(trainer)[-1] <= last
        assert np.diff(rates(trainer)).max() < 0


def test_fractions_of_steps_are_of_the_given_ones(tmp_path):
    evaluated, most = {}, {}
    for cost, mode in ((None, "regulated"), (0.5, "regulated"), (0.5, "vanilla")):
        gate = None if mode == "vanilla" else NONE_IS_LEARNED
        trainer = made(
            tmp_path, cost=cost, sampling=Sampling(mode=mode, regulation=gate), logging_steps=0.1,  # pyright: ignore
            eval_strategy="steps", eval_steps=0.1,
        )  # fmt: skip
        trainer.train()
        history = trainer.state.log_history
        logged = {log["step"] for log in history if "loss" in log}
        evaluated[cost, mode] = [log["step"] for log in history if "eval_loss" in log]
        assert logged == {
            step for step in evaluated[cost, mode] if step % min(evaluated[cost, mode]) == 0
        }
        most[cost, mode] = trainer.state.max_steps
    assert evaluated[None, "regulated"] == [*range(4, 41, 4)]
    assert evaluated[0.5, "regulated"][:5] == [*range(4, 21, 4)]
    assert evaluated[0.5, "vanilla"] == [*range(2, 21, 2)]
    assert list(most.values()) == [FULL, FULL // 2 * HORIZON, FULL // 2]


@pytest.mark.parametrize("limit", ["num_train_epochs", "max_steps"])
def test_saved_arguments_have_the_given_limits(limit, tmp_path):
    given = {limit: EPOCHS if limit == "num_train_epochs" else FULL}
    trainer = made(tmp_path, cost=0.5, save_strategy="steps", save_steps=9, **given)  # pyright: ignore
    trainer.train()
    for folder in ("checkpoint-9", "checkpoint-18"):
        saved = torch.load(tmp_path / folder / "training_args.bin", weights_only=False)
        assert getattr(saved, limit) == given[limit]
        assert not saved.ignore_data_skip


def test_a_schedule_that_cannot_be_set_back_warns(tmp_path):
    trainer = made(tmp_path, cosine, 1.5)
    with pytest.warns(FrugalKDWarning, match="CosineAnnealingLR has no function of the step"):
        trainer.train()


def test_a_schedule_by_calls_warns_where_steps_are_skipped(tmp_path):
    class Counting:
        """A schedule that is not one of torch's."""

        def __init__(self, optimizer):
            self.calls = 0

        def step(self):
            self.calls += 1

        def get_last_lr(self):
            return [RATE]

    trainer = made(tmp_path, Counting, sampling=Sampling(policy=All()))
    trainer.train()  # without a warning, which would be an error
    assert trainer.lr_scheduler.calls == FULL  # pyright: ignore
    with pytest.warns(FrugalKDWarning, match="Counting is stepped once a step"):
        made(tmp_path, Counting).train()
    with pytest.warns(FrugalKDWarning, match="Counting is stepped once a step"):
        made(tmp_path, Counting, 0.5, sampling=Sampling(mode="vanilla")).train()


# Checkpoints.


class SaveRequest(transformers.TrainerCallback):
    """Requests a checkpoint, after frugalkd's callbacks."""

    def __init__(self, event):
        setattr(self, event, self.request)

    def request(self, args, state, control, **kwargs):
        control.should_save = state.global_step % 10 == 5


@pytest.mark.parametrize("how", ["best", "on_step_end", "on_evaluate", "on_log"])
def test_every_checkpoint_resumes(how, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "eval_loss"}
    whole = made(tmp_path, sampling=Sampling(policy=All()), num_train_epochs=2, **settings)
    if how == "best":
        whole.args.save_strategy = transformers.trainer_utils.SaveStrategy.BEST
    else:
        whole.add_callback(SaveRequest(how))
    whole.train()
    kept = sorted(tmp_path.glob("checkpoint-*"))
    assert kept
    assert all((path / "frugalkd.safetensors").is_file() for path in kept)
    again = made(tmp_path / "a", sampling=Sampling(policy=All()), num_train_epochs=2)
    again.train(str(kept[0]))
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)  # pyright: ignore
    assert all(torch.equal(*pair) for pair in pairs)


class Trial:
    number = 0

    def __init__(self, params):
        self.params = params


@pytest.mark.parametrize(
    ("params", "steps"), [({"num_train_epochs": 1}, 10), ({"max_steps": 15}, 15)]
)
def test_a_trial_of_a_search_has_its_own_limits(params, steps, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    kind: Any = transformers.trainer_utils.HPSearchBackend
    for epochs in (3, 6):
        folder = tmp_path / str(epochs)
        trainer = made(
            folder, sampling=Sampling(policy=All()), save_strategy="epoch", warmup_steps=2,
            num_train_epochs=epochs,
        )  # fmt: skip
        trainer.model_init, trainer.hp_search_backend = (lambda: bert()), kind.OPTUNA
        trainer.hp_space, trainer.hp_name = (lambda trial: trial.params), lambda trial: "run-0"
        trainer.train(trial=Trial(params))
        assert trainer.state.global_step == steps
        assert rates(trainer)[-1] == pytest.approx(1 / (steps - 2))
        assert trainer.budget == 1
        assert (folder / "run-0" / "checkpoint-10" / "frugalkd.safetensors").is_file()


@pytest.mark.parametrize("every", [3, 4])
def test_the_last_step_is_evaluated_and_saved_once(every, tmp_path):
    saved = []

    class Saves(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            saved.append(state.global_step)

    trainer = made(
        tmp_path, cost=0.5, sampling=Sampling(mode="regulated", regulation=NONE_IS_LEARNED),
        eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every,
    )  # fmt: skip
    trainer.add_callback(Saves())
    trainer.train()
    last = trainer.state.global_step
    history = trainer.state.log_history
    evaluated = [log["step"] for log in history if "eval_loss" in log]
    assert evaluated == saved == sorted({*range(every, last + 1, every), last})


# A Trainer of your own.


class Loading(transformers.Trainer):
    def get_train_dataloader(self):
        return super().get_train_dataloader()


class Fetching(transformers.Trainer):
    def get_batch_samples(self, *given):
        return super().get_batch_samples(*given)


@pytest.mark.parametrize("base", [Loading, Fetching])
def test_a_loader_of_ones_own_is_refused(base, tmp_path):
    class Mine(FrugalMixin, base):
        pass

    with pytest.raises(SelectionMisuse, match=rf"{base.__name__}\.get_.* would not be called"):
        made(tmp_path, kind=Mine)


class Kept(torch.nn.Module):
    """The same loss of all samples, that names its inputs alone."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"loss": None, "logits": self.weight.expand(len(input_ids), 3) * 1}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("model", ["one class", "several labels", "no loss kwargs"])
def test_a_loss_of_ones_own_gets_the_number_of_items(model, accumulation, tmp_path):
    numbers = []

    def several(samples):
        batch = collate(samples)
        labels = torch.nn.functional.one_hot(batch["labels"], 3).float()
        return batch | {"labels": labels}

    class Noting(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            numbers.append(num_items_in_batch)
            outputs = model(inputs["input_ids"])
            rows = inputs["labels"].numel()
            loss = rows / (num_items_in_batch or rows) + 0 * outputs["logits"].sum()
            return (loss, outputs) if return_outputs else loss

    found = []
    for kind in (Noting, type("Mine", (FrugalMixin, Noting), {})):
        made_by = {} if kind is Noting else {"sampling": Sampling(policy=All())}
        own = Kept() if model == "no loss kwargs" else bert()
        if model == "several labels":
            own.config.problem_type = "multi_label_classification"  # pyright: ignore
        numbers.clear()
        trainer = kind(
            own,
            transformers.TrainingArguments(
                str(tmp_path), num_train_epochs=1, per_device_train_batch_size=BATCH, report_to=[],
                gradient_accumulation_steps=accumulation, logging_steps=1, save_strategy="no",
                disable_tqdm=True, use_cpu=True,
            ),
            train_dataset=rows(), data_collator=several if model == "several labels" else collate,
            **made_by,  # pyright: ignore
        )  # fmt: skip
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found.append((losses, [None if n is None else float(n) for n in numbers]))
    assert found[0] == found[1]
    assert (found[0][1][0] is None) == (model == "no loss kwargs")


class Weighted(torch.nn.Module):
    """Its own loss, by class weights."""

    def __init__(self, *weights):
        super().__init__()
        self.inner, self.weights = bert(), torch.tensor(weights)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.inner(input_ids, attention_mask).logits
        if labels is None:
            return {"logits": logits}
        loss = torch.nn.functional.cross_entropy(logits, labels, self.weights)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize(("weight", "warned"), [(90.0, 1), (1.0, 0)])
def test_a_loss_that_cross_entropy_replaces_is_named(weight, warned, tmp_path, recwarn):
    model = Weighted(weight, 1.0, 1.0)
    for kind in (FrugalTrainer, type("Mine", (FrugalMixin, transformers.Trainer), {})):
        made(tmp_path, num_train_epochs=1, kind=kind, model=model).train()
    said = [str(each.message) for each in recwarn if each.category is FrugalKDWarning]
    assert len(said) == warned
    assert not said or "the model's own loss is" in said[0]


@pytest.mark.parametrize("by_name", [True, False])
def test_a_collator_is_refused_with_a_corpus_however_given(by_name, tmp_path):
    corpus = tokenize_corpus(["some text"] * 9, tiny_tokenizer("some text", 270), tmp_path / "c")
    args = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    model = tiny_model(vocabulary=270, layers=1, width=16)
    FrugalTrainer(model, args, None, corpus)
    named = {"data_collator": collate, "train_dataset": corpus} if by_name else {}
    with pytest.raises(SelectionMisuse, match="leave data_collator out"):
        FrugalTrainer(model, args, *(() if by_name else (collate, corpus)), **named)
