"""How well a language model predicts a corpus, and how near it is to its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from frugalkd.errors import Stopped
from frugalkd.language.corpus import Corpus
from frugalkd.language.criterion import token_targets
from frugalkd.language.loss import check_token_objective
from frugalkd.language.models import CausalModel, rows_at_once
from frugalkd.models.identity import inference_mode
from frugalkd.objectives import KD, CrossEntropy
from frugalkd.runtime.devices import autocast, device_of
from frugalkd.runtime.settings import check_integer
from frugalkd.teachers import Targets
from frugalkd.teachers.sparse import Sparse

_FORWARD = KD(temperature=1.0, alpha=1.0)


def measure_tokens(
    model: nn.Module,
    corpus: Corpus,
    teacher: nn.Module | Targets | None = None,
    *,
    batch_size: int = 8,
    chunk: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Measures of ``model`` over the learned tokens of a (held-out) corpus, on its device, in eval
    mode; of ``chunk`` tokens, by default :func:`rows_at_once`, the logits are in memory at a time.

    Args:
        teacher: a causal language model, LiveTokens, or StoredTokens of this corpus, to compare
            with.
        should_stop: called after each batch.

    Returns:
        ``samples``, which are blocks, and ``tokens``; ``cross_entropy`` in nats a token,
        ``perplexity``, its exponential, and ``entropy_saved``, 1 - cross-entropy over that of equal
        probabilities (as McFadden's R2); ``accuracy``, of the likeliest token; and with a teacher
        ``teacher_kl``,
        KL(teacher || model) in nats a token, and ``teacher_agreement``, how often the likeliest
        token is the same, None where a store does not say the teacher's.

    Raises:
        ModelError, TargetsError: as :class:`CausalModel` and :func:`token_targets`.
        Stopped: ``should_stop`` returned True.
    """
    check_integer("batch_size", batch_size, 1)
    parts, device = CausalModel(model, corpus.vocabulary), device_of(model)
    chunk = rows_at_once(corpus.vocabulary, device) if chunk is None else chunk
    check_integer("chunk", chunk, 1)
    parts.check(corpus)
    targets = token_targets(teacher, corpus, precision=precision)
    check_token_objective(CrossEntropy() if targets is None else _FORWARD, targets)
    sums = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(corpus), batch_size):
        ids = np.arange(start, min(start + batch_size, len(corpus)))
        data: Any = send_to_device(corpus.batch(ids, ids * 0), device)
        with inference_mode(model):
            with autocast(model, precision):
                states = parts.states(data)
            labels = parts.labels(data)
            rows = None if targets is None else targets.fetch(ids, ids * 0, data)
            for first in range(0, len(labels), chunk):
                part = slice(first, first + chunk)
                known = None if rows is None else rows.part(part)
                sums += _sums(parts.logits(states[part]), labels[part], known).cpu()
        if should_stop is not None and should_stop():
            raise Stopped("stopped in an evaluation")
    entropy, right, kl, agreed = (sums / corpus.rows).tolist()
    measured: dict[str, Any] = {
        "samples": len(corpus),
        "tokens": corpus.rows,
        "cross_entropy": entropy,
        "perplexity": math.exp(min(entropy, 700.0)),
        "entropy_saved": 1 - entropy / math.log(corpus.vocabulary),
        "accuracy": right,
    }
    if targets is not None:
        agreement = agreed if targets.knows_top else None
        measured |= {"teacher_kl": kl, "teacher_agreement": agreement}
    return measured


def _sums(logits: Tensor, labels: Tensor, teacher: Tensor | Sparse | None) -> Tensor:
    """Over some rows, float64 (4,): cross-entropy, right tokens, divergence, agreeing tokens."""
    top = logits.argmax(dim=1)
    found = [CrossEntropy()(logits, None, labels), top == labels]
    if teacher is not None:
        if isinstance(teacher, Sparse):
            theirs = teacher.classes.gather(1, teacher.weights.argmax(dim=1, keepdim=True))[:, 0]
        else:
            theirs = teacher.argmax(dim=1)
        given: Any = teacher
        found += [_FORWARD(logits, given, labels), top == theirs]
    sums = [each.sum(dtype=torch.float64) for each in found]
    return torch.stack(sums + [sums[0] * 0] * (4 - len(sums)))
