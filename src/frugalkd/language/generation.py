"""What a language model writes after a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frugalkd.data.named import read_lines
from frugalkd.errors import DataError, ModelError
from frugalkd.language.documents import opened, rows_of_files, template_options
from frugalkd.models.identity import inference_mode
from frugalkd.runtime.devices import device_of
from frugalkd.runtime.failures import blame

Prompt = str | list[dict[str, Any]]
"""A text to continue, or the messages of a chat to answer."""

MOST_TOKENS = 64


def read_prompts(path: str) -> list[tuple[Prompt, dict[str, Any]]]:
    """The lines of a ``.txt`` file that are not empty; of a ``.jsonl`` file each row's ``prompt``,
    ``messages`` (up to the last one of the assistant) or ``text``. With each what the chat template
    gets beside it (:func:`template_options`). Raises DataError."""
    file = Path(path)
    if file.suffix == ".txt":
        return [(line, {}) for line in read_lines(file) if line.strip()]
    if file.suffix != ".jsonl":
        raise DataError("give a .txt file with a prompt a line, or a .jsonl file of rows")
    found: list[tuple[Prompt, dict[str, Any]]] = []
    for number, row in enumerate(rows_of_files([file])):
        row = row if isinstance(row, Mapping) else {}
        prompt: Any = row.get("prompt") or row.get("messages") or row.get("text")
        turns = isinstance(prompt, list) and all(isinstance(each, dict) for each in prompt)
        if turns and prompt[-1].get("role") == "assistant":
            prompt = prompt[:-1]
        if not prompt or not (turns or isinstance(prompt, str)):
            raise DataError(f"row {number} has no prompt, messages or text")
        found.append((prompt, template_options(row) if turns else {}))
    return found


def complete(model: Any, tokenizer: Any, prompt: Prompt, **options: Any) -> str:
    """What ``model``, of transformers, writes after ``prompt``: the likeliest token at each place,
    up to its end token or ``MOST_TOKENS``. ``options`` are of the chat template. Raises ModelError:
    it cannot, or the prompt does not fit its positions."""
    try:
        if isinstance(prompt, str):
            tokens = opened(tokenizer, prompt)
        else:
            tokens = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=True, **options
            )["input_ids"]
    except Exception as error:  # of the tokenizer, or of its template
        blame(error, ModelError, "a prompt cannot be tokenised")
    ids = torch.tensor([tokens], dtype=torch.long, device=device_of(model))
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and ids.shape[1] >= room:
        raise ModelError(f"a prompt has {ids.shape[1]} tokens, and the model {room} positions")
    most = MOST_TOKENS if room is None else min(MOST_TOKENS, room - ids.shape[1])
    try:
        with inference_mode(model):
            own = model.generation_config
            ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
            made = model.generate(
                ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=most, do_sample=False,
                num_beams=1, repetition_penalty=1.0, eos_token_id=ends, use_cache=True,
                pad_token_id=ends[0] if isinstance(ends, list) else ends,
            )  # fmt: skip
    except Exception as error:
        blame(error, ModelError, "the model cannot continue a prompt")
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
