"""A large and a small language model of questions, trained with TRL's SFTTrainer.

python examples/trl_plain.py FOLDER, where FOLDER holds trec6/train.parquet (text, label).
"""

import math
import sys

import tokenizers
from datasets import load_dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

files = {part: f"{sys.argv[1]}/trec6/{part}.parquet" for part in ("train", "test")}
data = load_dataset("parquet", data_files=files).select_columns(["text"])
data["train"] = data["train"].select(range(2000))
words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
words.normalizer = tokenizers.normalizers.Lowercase()
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=2000, special_tokens=["[END]", "[UNK]"])
words.train_from_iterator(data["train"]["text"], trainer)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, eos_token="[END]", pad_token="[END]", unk_token="[UNK]"
)


def language_model(width, layers):
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def train(name, model):
    args = SFTConfig(
        f"runs/{name}",
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    trainer = SFTTrainer(
        model,
        args,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,
    )
    trainer.train()
    perplexity = math.exp(trainer.evaluate()["eval_loss"])
    print(f"{name}: perplexity {perplexity:.1f}")
    return trainer


train("large", language_model(128, 3))
train("small", language_model(64, 1))
