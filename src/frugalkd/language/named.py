"""Corpora and language models by the names that recipes give them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from frugalkd.data.hugging_face import is_on_hub as on_hub
from frugalkd.data.samples import data_root
from frugalkd.data.text import from_transformers, is_on_hub, vocabulary_of
from frugalkd.errors import DataError, ModelError, TargetsError, nearest
from frugalkd.files import StrPath
from frugalkd.files.writing import writing
from frugalkd.language.corpus import Corpus, Packing, tokenize_corpus
from frugalkd.language.documents import FILES, Part, text_files
from frugalkd.language.models import (
    causal_from,
    cut_layers,
    load_tokenizer,
    place_of,
    tokenizer_at,
)
from frugalkd.language.tiny import tiny_model, tiny_splits, tiny_tokenizer
from frugalkd.models.export import WEIGHTS, save_model, saves_itself
from frugalkd.models.libraries import ENCODERS
from frugalkd.runtime.imports import make_object
from frugalkd.runtime.settings import check_integer, check_types

Parts = tuple[Corpus, Corpus]
"""To train on, and held out."""


def load_corpus(
    root: StrPath | None = None,
    *,
    path: str,
    tokenizer: str,
    test: str | float = 0.1,
    split: str = "train",
    length: int = 1024,
    packing: Packing = "packed",
    positions: float = 1.0,
) -> Parts:
    """Texts, prompts with completions, or conversations, tokenised once into this machine's cache.

    Args:
        root: the data root.
        path: a file or a folder, in the root or on its own, or a name on the hub, as ``source`` of
            :func:`tokenize_corpus`.
        tokenizer: of transformers: a folder, a name on the hub, or a ``.gguf`` file.
        test: the fraction of the documents (of a single text: its end) that is held out; or
            another file or folder; or a split of a data set of Hugging Face.
        split, length, packing: as of :func:`tokenize_corpus`.
        positions: the same, of the training data; all that is held out is measured.

    Raises:
        DataError, ModelError, SettingError: as of :func:`tokenize_corpus`, there is no such
            tokenizer, or ``test`` is a part of ``path``.
    """
    check_types(path=(path, str), tokenizer=(tokenizer, str), test=(test, str | float))
    check_types(split=(split, str))
    source = _rooted(path, root)
    own: tuple[str, str, Part | None] = source, split, None
    if not isinstance(test, str):
        own, other = ((source, split, Part(test, held)) for held in (False, True))
    elif os.path.exists(there := _rooted(test, root)) or Path(test).suffix in FILES:
        _refuse_shared(there, source)
        other = there, "train", None
    else:
        other = source, test, None  # which text files do not have
    made = load_tokenizer(tokenizer)
    first, second = (
        tokenize_corpus(
            source, made, length=length, packing=packing, positions=kept, split=name, part=part
        )
        for (source, name, part), kept in ((own, positions), (other, 1.0))
    )
    same_documents = first.about | {"positions": ""} == second.about | {"positions": ""}
    if same_documents or first.digest() == second.digest():
        raise DataError(f"{path} is both to train on and held out: name another test")
    first.tokenizer = second.tokenizer = made
    return first, second


def _refuse_shared(test: str, path: str) -> None:
    """Raises DataError where some files of the held-out text at ``test`` are read to train on from
    ``path``, too. Of a folder of tables any file of their kind may be."""
    held_out, trained = ({file.resolve() for file in text_files(each)} for each in (test, path))
    inside = not trained and Path(path).resolve() in Path(test).resolve().parents
    if inside and held_out:
        others = {file.suffix for file in Path(path).rglob("*") if file.resolve() not in held_out}
        inside = not others.isdisjoint(file.suffix for file in held_out)
    if inside or (held_out != trained and held_out & trained):
        raise DataError(
            f"{test} is held out, and some of its text is in {path}, which is trained on: move it "
            "elsewhere, or name the file to train on as path"
        )


def load_tiny(
    root: StrPath | None = None,
    *,
    tokenizer: str = "",
    length: int = 128,
    positions: float = 1.0,
) -> Parts:
    """The text of the package (:func:`tiny_splits`): no file is needed, and ``root`` is not used.

    Args:
        tokenizer: as of :func:`load_corpus`; default :func:`tiny_tokenizer`.
        length, positions: as of :func:`load_corpus`.

    Raises:
        DataError, ModelError, SettingError: as of :func:`load_corpus`.
    """
    check_types(tokenizer=(tokenizer, str))
    made = load_tokenizer(tokenizer) if tokenizer else tiny_tokenizer()
    first, second = (
        tokenize_corpus([text], made, length=length, positions=kept)
        for text, kept in zip(tiny_splits(), (positions, 1.0), strict=True)
    )
    first.tokenizer = second.tokenizer = made
    return first, second


CORPORA: dict[str, Callable[..., Parts]] = {"corpus": load_corpus, "tiny-lm": load_tiny}


def tokenizer_of(name: str | None, options: dict[str, Any]) -> Any:
    """The tokenizer of a corpus by its ``name``, a key of ``CORPORA``; None of any other data."""
    if name not in CORPORA:
        return None
    return load_tokenizer(path) if (path := options.get("tokenizer")) else tiny_tokenizer()


def fetched(name: str | None, options: dict[str, Any], root: StrPath | None = None) -> list[str]:
    """What data or a model of this ``name`` would fetch from a network."""
    if name is None:
        return []
    found, path, tokenizer = [], options.get("path") or None, options.get("tokenizer") or None
    if isinstance(path, str) and os.path.isfile(path):
        path = None
    if isinstance(path, str) and name in (*CORPORA, "hugging-face"):
        local = name in CORPORA and (
            Path(path).suffix in FILES or os.path.exists(_rooted(path, root))
        )
        found += [f"the data set {path}"] * (not local and on_hub(path, root))
    if isinstance(path, str) and name in (*CAUSAL_MODELS, *ENCODERS) and is_on_hub(path):
        found.append(f"the model {path}")
    if isinstance(tokenizer, str) and not os.path.isfile(tokenizer) and is_on_hub(tokenizer):
        found.append(f"the tokenizer {tokenizer}")
    return found


def load_model(
    vocabulary: int,
    *,
    path: str = "",
    layers: list[int] | None = None,
    embeddings: Literal["trained", "frozen"] = "trained",
    config: dict[str, Any] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Any:
    """A causal language model of transformers.

    Args:
        vocabulary: not used: the model has its own.
        path: a folder (that of ``frugalkd teach`` too), a name on the hub, or a ``.gguf`` file; of
            a student without a ``path`` its teacher's.
        layers: those that are kept, such as ``[0, 4, 8]``.
        embeddings: ``frozen``: not trained.
        config: what differs in the configuration at ``path``, of a model with new weights.
        dtype: of the weights.

    Raises:
        ModelError, SettingError: there is no such model, or it has no such layers.
    """
    check_types(
        path=(path, str), layers=(layers, list | None), config=(config, dict | None),
        embeddings=(embeddings, Literal["trained", "frozen"]),
        dtype=(dtype, Literal["float32", "bfloat16"]),
    )  # fmt: skip
    if not path:
        raise ModelError("a causal-lm needs the option path: a folder, a name or a .gguf file")
    folder, file = place_of(path)
    kept = getattr(torch, dtype)
    if config is None:
        model = causal_from(folder, dtype=kept, **file)
    else:
        own: dict[str, Any] = {**file}
        wanted: Any = from_transformers("AutoConfig", folder, **own)
        import transformers

        known = wanted.to_dict()
        for name, value in config.items():
            if name not in known:
                raise ModelError(f"{path} has no setting {name[:100]!r}: {nearest(name, known)}")
            setattr(wanted, name, value)
        wanted._name_or_path = ""  # its weights are of no place
        model = transformers.AutoModelForCausalLM.from_config(wanted, dtype=kept)
    if layers is not None:
        model = cut_layers(model, layers)
    model.get_input_embeddings().requires_grad_(embeddings == "trained")
    return model


def new_llama(vocabulary: int, *, layers: int, width: int, positions: int = 1024) -> Any:
    """A new model of Llama's kind (:func:`tiny_model`), whose weights torch's random stream
    decides."""
    for name, value in (("layers", layers), ("width", width), ("positions", positions)):
        check_integer(name, value, 1, 1 << 20)
    seed = int(torch.randint(1 << 31, ()))
    return tiny_model(layers, width, vocabulary=vocabulary, positions=positions, seed=seed)


CAUSAL_MODELS: dict[str, Callable[..., Any]] = {"causal-lm": load_model, "llama": new_llama}


def make_causal(
    name: str | None, path: str | None, options: dict[str, Any], corpus: Corpus
) -> torch.nn.Module:
    """A language model by ``name``, a key of ``CAUSAL_MODELS``, or by import ``path``. Raises
    ModelError, SettingError, TargetsError where its tokenizer has other tokens than the corpus."""
    if path is not None:
        model = make_object(path, options)
        if not saves_itself(model):
            raise ModelError(f"{path} made a {type(model).__name__}, no model of transformers")
        return model
    if name not in CAUSAL_MODELS:
        raise ModelError(
            f"model {name!r} is not a language model, and the data are a corpus: set model.name to "
            f"{' or '.join(CAUSAL_MODELS)}"
        )
    model = CAUSAL_MODELS[name](corpus.vocabulary, **options)
    if name == "causal-lm" and options.get("config") is None:
        _check_numbers(options["path"], corpus.tokenizer)
    return model


def _check_numbers(path: str, tokenizer: Any) -> None:
    """Raises TargetsError where the tokenizer at ``path`` and the ``tokenizer`` of the data, either
    of which may be missing, have other numbers for a token. The data's may have more tokens."""
    own = vocabulary_of(tokenizer_at(path)) if tokenizer is not None else {}
    read = vocabulary_of(tokenizer) if own else {}
    if own and (
        not own.keys() & read or any(read.get(token, id) != id for token, id in own.items())
    ):
        raise TargetsError(
            f"the tokenizer of {path} has other numbers for tokens than the one of the data: set "
            "data.options.tokenizer to it"
        )


def save_causal(folder: Path, model: Any, tokenizer: Any = None) -> None:
    """Write ``model`` as a folder of transformers, which ``from_pretrained`` reads; with its
    ``tokenizer`` where that is known. Raises WriteFailed."""
    own = model.generation_config
    if tokenizer is not None:
        if not isinstance(own.eos_token_id, list):  # of several, the tokenizer's is one
            own.eos_token_id = tokenizer.eos_token_id
        own.pad_token_id = tokenizer.pad_token_id
        with writing(folder):
            tokenizer.save_pretrained(folder)
    save_model(folder / WEIGHTS, model)


def _rooted(path: str, root: StrPath | None) -> str:
    """``path`` itself, or in the data root where that has it."""
    there = data_root(root) / path
    return os.fspath(there) if not os.path.exists(path) and there.exists() else path
