"""What transformers' data sets, batches and models give to a selection."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from frugalkd import LiveTeacher
from frugalkd.errors import ModelError, SelectionMisuse, TargetsError, UnsupportedData
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model
from toys import tokenizer_of

transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")
datasets: Any = pytest.importorskip("datasets", reason="needs the extra transformers")

from frugalkd.integrations._hugging_face import forward_of, lengths_in, teacher_from  # noqa: E402
from frugalkd.integrations.transformers import FrugalTrainer  # noqa: E402


def bert(seed=0):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def test_a_named_teacher_of_another_vocabulary_is_refused(tmp_path):
    student, same = tokenizer_of(["card", "lost"]), tokenizer_of(["card", "lost", "more"])
    bert(1).save_pretrained(tmp_path)
    teacher_from(tmp_path, bert(), student)  # its tokenizer is not known
    same.save_pretrained(tmp_path)
    teacher_from(tmp_path, bert(), student)
    tokenizer_of(["lost", "card"]).save_pretrained(tmp_path)
    with pytest.raises(TargetsError, match=r"2 of 4 tokens; 'card' is token 3 there and token 2"):
        teacher_from(tmp_path, bert(), student)


def test_a_named_teacher_without_a_trained_head_is_refused(tmp_path):
    transformers.BertModel(bert().config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is not a classifier: it has no weights of classifier"):
        teacher_from(tmp_path, bert())


def pictures(mean=(0.5,) * 3, std=(0.5,) * 3, **more):
    return transformers.ViTImageProcessor(image_mean=mean, image_std=std, **more)


@pytest.mark.parametrize(
    ("own", "same"),
    [
        (pictures(), True),
        (pictures([0.50001, 0.5, 0.5]), True),
        (pictures(0.5, 0.5), True),
        (SimpleNamespace(tokenizer=tokenizer_of(["card"]), image_processor=pictures()), True),
        (pictures(do_rescale=False), True),  # not known
        (pictures([0.4, 0.5, 0.5]), False),
        (pictures(std=[0.2] * 3), False),
        (pictures(do_normalize=False), False),
        (SimpleNamespace(tokenizer=tokenizer_of(["card"]), image_processor=pictures(0.1)), False),
    ],
)
def test_a_named_teacher_of_other_pictures_is_refused(own, same, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path)
    teacher_from(tmp_path, model, own)  # the teacher's is not known
    pictures().save_pretrained(tmp_path)
    if same:
        teacher_from(tmp_path, model, own)
        return
    with pytest.raises(
        TargetsError, match=r"by the mean and std \[0\.5, 0\.5, 0\.5\] and .* by \["
    ):
        teacher_from(tmp_path, model, own)


def test_a_run_of_pictures_reads_the_trainers(tmp_path):
    model = build_model("mlp", num_classes=3, in_channels=1, image_size=(8, 8), hidden=[4])
    save_weights(tmp_path / "w.safetensors", model)
    card = {"schema": 1, "weights": "w.safetensors", "num_classes": 3, "shape": [1, 8, 8]}
    card |= {"model": {"name": "mlp", "options": {"hidden": [4]}}, "mean": [0.5], "std": [0.5]}
    (tmp_path / "model.json").write_text(json.dumps(card))
    loaded, x = teacher_from(tmp_path, bert()), torch.rand(5, 1, 8, 8)
    logits = forward_of(loaded, "labels")({"pixel_values": x, "labels": torch.arange(5)})
    assert torch.equal(logits, model.eval()(x))
    processing = SimpleNamespace(image_mean=[0.5], image_std=[0.25])
    with pytest.raises(
        TargetsError, match=r"processing_class normalises by \[0\.5\] and \[0\.25\]"
    ):
        teacher_from(tmp_path, bert(), processing)


def test_lengths_are_of_tokens_or_else_of_texts():
    lines, tokens = ["one", "seven", ""], [[1], [2, 3], []]
    both = datasets.Dataset.from_dict({"text": lines, "input_ids": tokens, "label": [0, 1, 0]})
    texts = both.remove_columns("input_ids")
    pair = texts.add_column("other", ["a", "", "bc"])
    for data, expected in (
        (both, [1, 2, 0]),
        (both.with_format("torch"), [1, 2, 0]),
        ([both[place] for place in range(3)], [1, 2, 0]),
        (texts, [3, 5, 0]),
        (pair, [4, 5, 2]),
        (texts.with_transform(lambda rows: {"input_ids": [[7] * 4, [7]][: len(rows["text"])]}), 4),
        (both.rename_column("label", "length"), [0, 1, 0]),
    ):
        found = lengths_in(data, "length")
        assert found.tolist() == (expected if isinstance(expected, list) else [expected] * 3)
    for data in (both.select_columns("label"), [(1, 2)]):
        with pytest.raises(UnsupportedData, match="group_by_length needs lengths, and rows are"):
            lengths_in(data, "length")


PAIRS = [
    {"input_ids": [3 + i % 5, 2, 3], "token_type_ids": [0, 1, 1], "label": i % 3} for i in range(6)
]


def collated(samples):
    names = {name: "labels" if name == "label" else name for name in samples[0]}
    return {new: torch.tensor([each[old] for each in samples]) for old, new in names.items()}


def big(seed=0):
    """A BERT whose token types matter."""
    model = bert(seed).eval()
    for parameter in model.parameters():
        parameter.data.mul_(15)
    return model


class Wrapped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, **more):
        return self.inner(input_ids, **more)


def with_adapters(model):
    peft: Any = pytest.importorskip("peft", reason="needs the extra peft")
    return peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    )


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("wrap", [Wrapped, with_adapters])
def test_a_forward_that_takes_any_keyword_gets_all(wrap):
    model, batch = wrap(big()).eval(), collated(PAIRS)
    right = model(**{name: batch[name] for name in batch if name != "labels"}).logits
    assert torch.equal(forward_of(model, "labels")(batch), right)
    alone = model(input_ids=batch["input_ids"]).logits
    assert not torch.allclose(right, alone, atol=0.1), "token types matter"


def distil():
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=8,
        num_labels=3,
    )  # fmt: skip
    return transformers.DistilBertForSequenceClassification(config)


class Any_(Wrapped):
    """A student whose forward takes any keyword, and none of these is known to its trainer."""

    def forward(self, input_ids, labels=None, **more):
        assert set(more) <= {"num_items_in_batch"}  # the trainer's, in its evaluation
        return self.inner(input_ids, labels=labels)


@pytest.mark.parametrize("student", [distil, lambda: Any_(distil())])
@pytest.mark.parametrize("rows", [PAIRS, datasets.Dataset.from_list(PAIRS)])
def test_a_teacher_gets_inputs_that_the_student_has_not(rows, student, tmp_path):
    given, taught = big(), []
    given.register_forward_pre_hook(
        lambda _, args, inputs: taught.append(inputs["token_type_ids"].sum()), with_kwargs=True
    )
    model, learned = student(), set()
    model.register_forward_pre_hook(
        lambda _, args, inputs: learned.update(inputs), with_kwargs=True
    )
    arguments: Any = {"num_train_epochs": 2, "save_strategy": "no", "report_to": []}
    arguments |= {"disable_tqdm": True, "use_cpu": True, "eval_strategy": "epoch"}
    trainer = FrugalTrainer(
        model, transformers.TrainingArguments(str(tmp_path), **arguments), train_dataset=rows,
        eval_dataset=rows, data_collator=collated, teacher=given,
    )  # fmt: skip
    trainer.train()
    assert sum(taught) > 2 * len(PAIRS)
    assert learned - {"labels", "num_items_in_batch"} == {"input_ids"}
    model, columns = student(), "does not take token_type_ids, which the teacher reads"
    trainer = FrugalTrainer(
        model, trainer.args, train_dataset=rows, eval_dataset=rows, data_collator=collated,
        teacher=LiveTeacher(given),
    )  # fmt: skip
    with pytest.raises(SelectionMisuse, match=f"{columns}.* set remove_unused_columns=False"):
        trainer.train()
