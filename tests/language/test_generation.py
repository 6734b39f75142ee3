"""What a model writes after a prompt."""

from __future__ import annotations

import copy
import json

import pytest
from tokenizers.processors import TemplateProcessing

from frugalkd.errors import DataError
from frugalkd.language.generation import complete, read_prompts
from frugalkd.language.tiny import END

CHAT = [{"role": "user", "content": "To be?"}]


def test_an_end_token_that_a_tokenizer_adds_ends_no_prompt(teacher, tokenizer):
    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    prompts = ("O brave new", "Speak, I")
    wanted = [complete(teacher, tokenizer, prompt) for prompt in prompts]
    assert [complete(teacher, adding, prompt) for prompt in prompts] == wanted


def test_a_template_gets_the_tools_of_a_row(teacher, tokenizer, tmp_path):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for t in tools or [] %}<{{ t.name }}>{% endfor %}{{ messages[0].content }}"
    )
    row = {"messages": CHAT, "tools": [{"name": "search"}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    ((prompt, options),) = read_prompts(str(tmp_path / "p.jsonl"))
    assert prompt == CHAT
    assert complete(teacher, chat, prompt, **options) == complete(teacher, chat, "<search>To be?")
    (tmp_path / "p.jsonl").write_text(json.dumps(row | {"tools": "{"}))
    with pytest.raises(DataError, match=r"tools are not JSON"):
        read_prompts(str(tmp_path / "p.jsonl"))
