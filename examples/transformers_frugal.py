"""A large and a small question classifier, the small one distilled, on the samples that matter.

python examples/transformers_frugal.py FOLDER, where FOLDER holds trec6/train.parquet (text, label).
"""

import sys

import tokenizers
from datasets import load_dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)

from frugalkd.integrations.transformers import FrugalTrainer

files = {part: f"{sys.argv[1]}/trec6/{part}.parquet" for part in ("train", "test")}
data = load_dataset("parquet", data_files=files)
data["train"] = data["train"].select(range(2000))
words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
words.normalizer = tokenizers.normalizers.Lowercase()
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=4000, special_tokens=["[PAD]", "[UNK]"])
words.train_from_iterator(data["train"]["text"], trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
data = data.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]})
data = data.select_columns(["input_ids", "label"])


def classifier(width, layers):
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        num_labels=6,
    )
    return BertForSequenceClassification(config)


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def train(name, model, **frugal):
    args = TrainingArguments(
        f"runs/{name}",
        num_train_epochs=8,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=1e-3,
        warmup_steps=50,
        save_strategy="no",
        report_to=[],
    )
    trainer = FrugalTrainer(
        model,
        args,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,
        compute_metrics=accuracy,
        **frugal,
    )
    budget = trainer.train().metrics["budget"]
    print(f"{name}: test accuracy {trainer.evaluate()['eval_accuracy']:.1%}")
    print(f"{name}: trained on {budget:.0%} of the samples, saving {1 - budget:.0%}")
    return trainer


teacher = train("large", classifier(128, 2)).model
train("small", classifier(64, 1), teacher=teacher)
