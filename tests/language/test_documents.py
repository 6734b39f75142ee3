"""Rows of text, prompts, conversations and tokens, as documents."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from frugalkd.errors import DataError
from frugalkd.language.documents import (
    LEFT_OUT,
    Part,
    Renderer,
    cut_text,
    read_rows,
    rendering_of,
    tokenizer_digest,
)
from frugalkd.language.tiny import END, tiny_tokenizer

PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}" + END + "{% endgeneration %}{% else %}{{ m.content }}" + END + "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [
    {"role": "user", "content": "To be?"},
    {"role": "assistant", "content": "Or not to be."},
    {"role": "user", "content": "Speak!"},
    {"role": "assistant", "content": "I will."},
]


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def rendered(tokenizer, *rows):
    return list(Renderer(tokenizer).documents(rows))


def learned(tokenizer, document):
    return tokenizer.decode(document.ids[document.loss])


def test_a_text_ends_with_the_end_token(tokenizer):
    (document,) = rendered(tokenizer, {"text": "O brave new world"})
    assert tokenizer.decode(document.ids) == f"O brave new world{END}"
    assert document.loss.all()
    assert not document.whole


def test_empty_texts_are_left_out(tokenizer):
    assert [len(d.ids) for d in rendered(tokenizer, {"text": ""}, {"text": "a"})] == [2]


def test_of_a_prompt_only_the_completion_is_learned(tokenizer):
    (document,) = rendered(tokenizer, {"prompt": "Who's there?", "completion": " Nay."})
    assert tokenizer.decode(document.ids) == f"Who's there? Nay.{END}"
    assert learned(tokenizer, document) == f" Nay.{END}"
    assert document.whole


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_of_a_chat_only_the_assistant_is_learned(tokenizer, template):
    chat = with_template(tokenizer, template)
    (document,) = rendered(chat, {"messages": CHAT})
    assert tokenizer.decode(document.ids).startswith(f"[user]To be?{END}[assistant]Or not")
    assert learned(chat, document) == f"Or not to be.{END}I will.{END}"
    halves = {"prompt": CHAT[:1], "completion": CHAT[1:]}
    assert np.array_equal(rendered(chat, halves)[0].ids, document.ids)


def test_tokens_are_kept_with_their_labels(tokenizer):
    (document,) = rendered(tokenizer, {"input_ids": [5, 6, 7], "labels": [-100, 6, -100]})
    assert document.ids.tolist() == [5, 6, 7]
    assert document.loss.tolist() == [False, True, False]
    (plain,) = rendered(tokenizer, {"input_ids": [5, 6, 7]})
    assert plain.loss.all()


@pytest.mark.parametrize(
    ("columns", "kept", "loss"),
    [
        ({"attention_mask": [0, 1, 1, 1]}, [6, 7, 8], [1, 1, 1]),
        ({"attention_mask": [1, 1, 1, 0], "labels": [-100, 6, 7, 8]}, [5, 6, 7], [0, 1, 1]),
        ({"completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}, None, [0, 1, 0, 1]),
        ({"completion_mask": [0, 0, 0, 1], "labels": [-100, 6, 7, 8]}, None, [0, 1, 1, 1]),
    ],
)
def test_padding_is_left_out_and_masks_decide(tokenizer, columns, kept, loss):
    (document,) = rendered(tokenizer, {"input_ids": [5, 6, 7, 8], **columns})
    assert document.ids.tolist() == (kept or [5, 6, 7, 8])
    assert document.loss.tolist() == [bool(each) for each in loss]


@pytest.mark.parametrize("mark", ["{% {} %}", "{%- {} -%}", "{%{}%}", "{%+  {}  %}"])
def test_marks_of_a_template_decide_however_they_are_spaced(tokenizer, mark):
    spaced = MARKED
    for word in ("endgeneration", "generation"):
        spaced = re.sub(rf"{{%-? *{word} *-?%}}", mark.replace("{}", word), spaced)
    chat = with_template(tokenizer, spaced)
    (document,) = rendered(chat, {"messages": CHAT[1:]})
    assert learned(chat, document) == learned(
        tokenizer, rendered(with_template(tokenizer, MARKED), {"messages": CHAT[1:]})[0]
    )


def test_an_end_token_that_a_tokenizer_adds_is_no_second_one(tokenizer):
    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    for row in ({"text": "a"}, {"text": f"a{END}"}, {"prompt": "a", "completion": "b"}):
        (own,), (plain,) = rendered(adding, row), rendered(tokenizer, row)
        assert own.ids.tolist() == plain.ids.tolist()
        assert own.loss.tolist() == plain.loss.tolist()


def test_a_first_token_that_is_the_end_token_is_kept(tokenizer):
    """Of an empty prompt, and before a text that ends with the end token's own text."""
    end = tokenizer.eos_token_id
    for template, last in ((f"{END} $A", 0), (f"{END} $A {END}", 1)):
        adding = copy.deepcopy(tokenizer)
        adding.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[(END, end)]
        )
        (a,) = tokenizer("a")["input_ids"]
        assert adding("a")["input_ids"] == [end, a, *[end] * last]
        prompted, text = rendered(
            adding, {"prompt": "", "completion": "a"}, {"text": f"a{END}"}
        )  # fmt: skip
        assert prompted.ids.tolist() == [end, a, end]
        assert prompted.loss.tolist() == [False, True, True]
        assert text.ids.tolist() == [end, a, end, end]


@pytest.fixture(scope="module")
def spacing():
    """A tokenizer that begins each text with a space."""
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # pyright: ignore
    rules.decoder = decoders.Metaspace(prepend_scheme="first")  # pyright: ignore
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=[END], show_progress=False)  # pyright: ignore
    rules.train_from_iterator(["foo( foobar bar)"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=rules, eos_token=END)


@pytest.mark.parametrize(
    ("prompt", "completion", "said"),
    [
        ("foo(", "bar)", "bar)"),
        ("foo(", " bar)", " bar)"),
        ("foo", "bar", "foobar"),  # one token
        ("", "bar", "bar"),
    ],
)
def test_a_completion_gets_no_space_that_is_not_there(spacing, prompt, completion, said):
    (document,) = rendered(spacing, {"prompt": prompt, "completion": completion})
    assert spacing.decode(document.ids) == prompt + completion + END
    assert learned(spacing, document) in (
        said + END,
        said.lstrip() + END,
    )  # its decoder drops a first space
    assert document.ids.tolist() == [*spacing(prompt + completion)["input_ids"], 0]


def test_a_prompt_keeps_its_tokens_where_one_would_hold_both(tokenizer):
    """As at inference, when the completion is not there yet; the text is the same."""
    row = {"prompt": "Who's t", "completion": "here?"}
    first, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], "Who's there?"))
    assert whole[: len(first)] != first
    (document,) = rendered(tokenizer, row)
    assert document.ids[~document.loss].tolist() == first
    assert tokenizer.decode(document.ids) == f"Who's there?{END}"


TOOLS = "{% for t in tools or [] %}<{{ t.name }}>{% endfor %}{% if loud %}!{% endif %}"


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@pytest.mark.parametrize("tools", [[{"name": "search"}], '[{"name": "search"}]'])
def test_a_template_gets_tools_and_its_own_settings(tokenizer, template, tools):
    chat = with_template(tokenizer, TOOLS + template)
    row = {"messages": CHAT, "tools": tools, "chat_template_kwargs": {"loud": True}}
    (document,) = rendered(chat, row)
    assert tokenizer.decode(document.ids).startswith("<search>![user]To be?")
    assert learned(chat, document) == f"Or not to be.{END}I will.{END}"
    (plain,) = rendered(chat, {**row, "tools": None, "chat_template_kwargs": None})
    assert tokenizer.decode(plain.ids).startswith("[user]To be?")


@pytest.mark.parametrize(
    "columns",
    [
        {"seq_lengths": [4]}, {"position_ids": [0, 1, 2, 3]},
        {"position_ids": [1, 0, 1, 2], "attention_mask": [0, 1, 1, 1]},
        {"position_ids": [0, 1, 2, 3], "attention_mask": [0, 0, 1, 1]},
        {"position_ids": [2, 3, 4, 5]},
    ],
)  # fmt: skip
def test_positions_of_one_document_are_taken(tokenizer, columns):
    assert len(rendered(tokenizer, {"input_ids": [5, 6, 7, 8], **columns})) == 1


HIDDEN = "{% for m in messages %}[{{ loop.revindex }}{{ m.role }}]{{ m.content }}{% endfor %}"
UNMARKED = MARKED.replace("m.role == 'assistant'", "m.role == 'nurse'")


@pytest.mark.parametrize(
    ("row", "template", "says"),
    [
        ({"messages": CHAT[:1]}, PLAIN, "the conversation has no turn of the assis"),
        ({"messages": CHAT}, None, "no chat template"),
        ({"messages": CHAT}, UNMARKED, "the chat template marks no token of the assistant"),
        ({"messages": CHAT}, HIDDEN, "writes the turns before turn 1 in another way"),
        ({"messages": CHAT[:2]}, "{{ raise_exception('no!') }}", "tokenised .*no!"),
        ({"messages": CHAT[1:]}, PLAIN, "the conversation begins with the assistant"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, None, "nothing of it is learned"),
        ({"input_ids": [1, 2], "completion_mask": [0, 0]}, None, "nothing of it is learned"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, None, r"attention_mask int64 \(1,\)"),
        ({"input_ids": [1, 2], "labels": [-100, 1]}, None, "give them unshifted"),
        ({"input_ids": [1, 2], "labels": [1]}, None, "one for each token"),
        ({"input_ids": [1, 2, 3], "seq_lengths": [2, 1]}, None, "by seq_lengths it holds several"),
        ({"input_ids": [1, 2, 3], "position_ids": [0, 1, 0]}, None, "by position_ids it holds sev"),
        ({"input_ids": [1, 2, 3], "position_ids": [0, 1]}, None, r"position_ids int64 \(2,\)"),
        ({"messages": CHAT, "tools": "{"}, PLAIN, "its tools are not JSON"),
        ({"messages": CHAT, "chat_template_kwargs": "a"}, PLAIN, "chat_template_kwargs are a str"),
        ({"input_ids": [0.5, 2.0]}, None, "whole numbers are needed"),
        ({"label": 3}, None, "it has label: a text, prompt and completion, messages, or input_ids"),
        ({}, None, "it has no columns"),
        (3, None, "it is a int: give a text"),
        (None, None, "it is a NoneType: give a text"),
    ],
)
def test_bad_rows_are_refused(tokenizer, row, template, says):
    with pytest.raises(DataError, match=rf"^document 1(?!.*\n).*{says}"):
        rendered(with_template(tokenizer, template), {"text": "a"}, row)


def test_a_row_has_its_own_number(tokenizer):
    rows = [{"text": ""}, *({"text": str(number)} for number in range(30))]
    found = list(Renderer(tokenizer).documents(Part(0.3, held_out=True).of(rows)))
    assert 3 < len(found) < 20
    for document in found:
        assert tokenizer.decode(document.ids) == f"{document.number - 1}{END}"
    with pytest.raises(DataError, match=r"^document 30: it has label"):
        list(Renderer(tokenizer).documents([LEFT_OUT] * 30 + [{"label": 3}]))


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    for row in ({"text": "a"}, {"prompt": "a", "completion": "b"}):
        with pytest.raises(DataError, match="document 0: the tokenizer has no end token"):
            rendered(endless, row)


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    rows = [{"text": "first"}, {"text": "second\nline"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    table = Dataset.from_list(rows)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "disk")
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, row in zip("ab", rows, strict=True):
        (folder / f"{name}.txt").write_text(row["text"])
    names = ("a.jsonl", "a.parquet", "disk", "texts")
    digests = set()
    for source in [rows, [row["text"] for row in rows], table, *(tmp_path / n for n in names)]:
        found, digest = read_rows(source)
        assert list(found) == rows
        digests.add(digest)
    assert len(digests) > 3
    assert read_rows(tmp_path / "a.jsonl")[1] != read_rows(rows[:1])[1]


@pytest.mark.parametrize(
    ("row", "versioned"),
    [
        ({"text": 'the key "messages"'}, False), ({"input_ids": [1, 2]}, False),
        ({"prompt": "a", "completion": "b"}, True), ({"messages": CHAT}, True),
    ],
)  # fmt: skip
def test_prompts_and_conversations_have_a_version(tmp_path, row, versioned):
    """Of the rules by which they become tokens, and other documents have none."""
    table = Dataset.from_list([row])
    table.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [{"text": "a"}, row])))
    for source in ([{"text": "a"}, row], table, tmp_path / "a.parquet", tmp_path / "a.jsonl"):
        assert ("rendering" in rendering_of(source, read_rows(source)[0])) == versioned


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "a.jsonl, line 2 is not JSON"),
        ("a.txt", b"\xff\xfe\xfa", "a.txt cannot be read"),
        ("a.txt", None, "a.txt is neither in the current folder nor in"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(read_rows(tmp_path / name)[0])


@pytest.mark.parametrize("other", ["a.parquet", "a.jsonl"])
def test_a_folder_of_two_kinds_of_files_is_refused(tmp_path, other):
    for name in ("README.txt", other):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=rf"\{Path(other).suffix} and \.txt files: name one"):
        read_rows(tmp_path)


def test_rows_of_long_arrays_have_digests_of_their_own():
    rows = np.arange(5000)
    other = rows.copy()
    other[2000:3000] = 7
    digests = {read_rows([{"input_ids": each}])[1] for each in (rows, other, rows.tolist())}
    assert len(digests) == 2


def test_another_split_is_refused(tmp_path):
    Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no split 'tets'"):
        read_rows(tmp_path / "a.parquet", "tets")


def test_digests_name_what_differs(tokenizer):
    own = tokenizer_digest(tokenizer)
    chat = tokenizer_digest(with_template(tokenizer, PLAIN))
    assert [name for name in own if own[name] != chat[name]] == ["chat template"]
    other = tokenizer_digest(tiny_tokenizer("other words, other words", 300))
    assert {name for name in own if own[name] != other[name]} == {"vocabulary", "tokenizer"}
    used = copy.deepcopy(tokenizer)
    used(["a b c"], truncation=True, max_length=8, padding=True)
    assert tokenizer_digest(used) == own
    endless = copy.deepcopy(tokenizer)
    endless.pad_token = "a"
    found = tokenizer_digest(endless)
    assert {name for name in own if own[name] != found[name]} == {"tokenizer"}


def test_digests_are_those_of_corpora_made_before(tokenizer):
    known = sorted(tokenizer.get_vocab().items())
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    said = json.dumps([known, json.dumps(rules), special])
    assert tokenizer_digest(tokenizer)["tokenizer"] == hashlib.sha256(said.encode()).hexdigest()


def test_settings_in_python_are_part_of_a_digest(tokenizer, tmp_path):
    split = copy.deepcopy(tokenizer)
    split.split_special_tokens = True
    assert split(f"a{END}")["input_ids"] != tokenizer(f"a{END}")["input_ids"]
    assert tokenizer_digest(split)["tokenizer"] != tokenizer_digest(tokenizer)["tokenizer"]
    digests = []
    for lower in (True, True, False):  # a tokenizer without a backend
        plain = ByT5Tokenizer(extra_ids=0)
        plain.lower = lower
        digests.append(tokenizer_digest(plain)["tokenizer"])
        plain.name_or_path, plain.model_max_length, plain.verbose = "here", 8, True
        assert tokenizer_digest(plain)["tokenizer"] == digests[-1]
    assert digests[0] == digests[1] != digests[2]
    ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path)
    read = ByT5Tokenizer.from_pretrained(tmp_path)
    assert tokenizer_digest(read) == tokenizer_digest(ByT5Tokenizer(extra_ids=0))


@given(st.integers(2, 300), st.floats(0.01, 0.99))
@pytest.mark.heavy
def test_a_document_is_trained_on_or_held_out(rows, fraction):
    documents = [{"text": str(number)} for number in range(rows)]
    own, other = (list(Part(fraction, held).of(documents)) for held in (False, True))
    assert [one or two for one, two in zip(own, other, strict=True)] == documents
    assert not any(one and two for one, two in zip(own, other, strict=True))
    more = [*documents, {"text": "one more"}]
    assert list(Part(fraction, False).of(more))[:rows] == own  # the others stay where they are


@given(st.text("ab\n", max_size=60), st.floats(0.01, 0.99))
def test_a_single_text_is_cut_once(text, fraction):
    first, second = cut_text(text, fraction)
    assert first + second == text
    about = round(len(text) * (1 - fraction))
    assert len(first) == about or first.endswith("\n\n")
    assert len(second) <= 2 * (len(text) - about)
    parts = [list(Part(fraction, held).of([{"text": text}])) for held in (False, True)]
    assert parts == [[{"text": first}], [{"text": second}]]


def test_about_a_fraction_is_held_out():
    documents = [{"text": str(number)} for number in range(2000)]
    assert 350 < sum(map(bool, Part(0.2, True).of(documents))) < 450
