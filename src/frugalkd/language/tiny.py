"""A text, a tokenizer and two sizes of models that need no download: the parts of ``tiny-lm``."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from accelerate.utils import patch_environment

from frugalkd.errors import DataError, ModelError
from frugalkd.language.documents import cut_text
from frugalkd.runtime.imports import require_extra

END = "<|end|>"
VOCABULARY = 4096
TEACHER, STUDENT = {"layers": 4, "width": 256}, {"layers": 2, "width": 128}
"""Of :func:`tiny_model`."""

_FILE = "shakespeare.txt.gz"
_SHA256 = "8256a020fbc19d31e553583a6c8c0fbaccb3e3f8104c876f2f6921068a52dc7c"
_HEAD = 64


@cache
def tiny_text() -> str:
    """399,862 characters of Shakespeare's plays, in the public domain: the beginning of the text
    that is known as tiny Shakespeare. Raises DataError: the file was changed."""
    content = gzip.decompress((files("frugalkd.language") / _FILE).read_bytes())
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise DataError(f"{_FILE} of this installation is damaged: install frugalkd again")
    return content.decode()


def tiny_splits() -> tuple[str, str]:
    """:func:`tiny_text` to train on, and its last tenth to evaluate on."""
    return cut_text(tiny_text(), 0.1)


@cache
def tiny_tokenizer(text: str | None = None, vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE, trained on ``text`` (:func:`tiny_text` without its held-out part) in about
    a second, the same each time, as a tokenizer of transformers. Raises ModelError: that is not
    installed."""
    require_extra("transformers", "language models need transformers", ModelError, "transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    rules.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(  # pyright: ignore
        vocab_size=vocabulary, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    with patch_environment(TOKENIZERS_PARALLELISM="false"):
        rules.train_from_iterator([tiny_splits()[0] if text is None else text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=rules, eos_token=END, pad_token=END)


def tiny_model(
    layers: int, width: int, *, vocabulary: int = VOCABULARY, positions: int = 1024, seed: int = 0
) -> Any:
    """A new causal language model of Llama's kind, with heads of 64 and the embeddings as its head.
    torch's random stream does not change. Raises ModelError: transformers is not installed."""
    require_extra("transformers", "language models need transformers", ModelError, "transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // _HEAD)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=round(width * 8 / 3 / 32) * 32,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=0, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config)
