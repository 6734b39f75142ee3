"""The objective of a training on the blocks of a corpus, and which objectives and teachers can be
used in one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from frugalkd.errors import FrugalKDWarning, ModelError, TargetsError, UnsupportedData, few
from frugalkd.language.corpus import Corpus, TokenBatch
from frugalkd.language.loss import token_loss
from frugalkd.language.models import CausalModel
from frugalkd.language.targets import LiveTokens, StoredTokens, TokenRows
from frugalkd.objectives import CrossEntropy, Objective
from frugalkd.objectives.criterion import Criterion, Learned
from frugalkd.outputs.tokens import IGNORED
from frugalkd.runtime.failures import blame
from frugalkd.runtime.process import rank_and_world
from frugalkd.selection import Batch
from frugalkd.selection.checks import check_pair
from frugalkd.teachers import Targets

Forward = Callable[[Any], Any]


class TokenCriterion(Criterion):
    """An objective for batches of blocks: one loss a token, normalised by the learned tokens of the
    optimiser step on all ranks. What is observed of a block is the mean loss of its tokens.

    Args:
        objective: one loss a row (:func:`check_token_objective`).
        model: the student, on the device that it is trained on.
        corpus: whose blocks it is trained on.
        tokenizer: the student's own, where it is known.

    A mixture of experts that adds a loss of its router is a FrugalKDWarning, on the first rank: it
    is left out.

    Raises:
        ModelError: as :class:`CausalModel`, and its ``check``.
    """

    def __init__(
        self, objective: Objective, model: nn.Module, corpus: Corpus, tokenizer: Any = None
    ) -> None:
        super().__init__(objective)
        self.model, self._corpus = CausalModel(model, corpus.vocabulary), corpus
        self.model.check(corpus, tokenizer)
        config: Any = getattr(model, "config", None)
        share = getattr(config, "router_aux_loss_coef", 0)
        added = share and getattr(config, "output_router_logits", False)
        if added and rank_and_world()[0] == 0:
            warnings.warn(
                f"{type(model).__name__} adds the loss of its router (router_aux_loss_coef "
                f"{share:g}) to its own, and {type(objective).__name__} takes the place of both, "
                "so that its experts are not balanced: set model.config.output_router_logits to "
                "False if that is meant, or train it elsewhere",
                FrugalKDWarning,
                stacklevel=2,
            )

    def learn(self, forward: Forward, data: Any, labels: Tensor, batch: Batch) -> Learned:
        counts = torch.from_numpy(self._corpus.row_counts(batch.ids))
        try:
            states = self.model.states(data, forward)
        except Exception as error:
            blame(error, ModelError, f"the model fails on blocks {few(batch.ids.tolist())}")
        owner = _owner(counts).to(states.device, non_blocking=True)
        found = token_loss(
            self.model, states, self.model.labels(data), batch.targets,  # pyright: ignore
            self.objective.at(batch.progress), tokens=batch.step_tokens,
            weights=batch.weights[owner] if batch.weighted else None,
        )  # fmt: skip
        losses = _means(found.losses, owner, len(counts))
        return Learned(found.loss, losses[:, None], losses)

    def outcomes(
        self, forward: Forward, data: TokenBatch, targets: TokenRows | None = None,
        progress: float = 0,
    ) -> Tensor:  # fmt: skip
        """The mean loss of the tokens of each block of a batch, (rows, 1): as in training, or the
        cross-entropy where the objective needs targets and there are none."""
        states, labels = self.model.states(data, forward), self.model.labels(data)
        lacking = targets is None and self.objective.needs_targets
        objective = CrossEntropy() if lacking else self.objective.at(progress)
        found = token_loss(self.model, states, labels, targets, objective, tokens=1)
        owner = torch.nonzero(data["labels"][:, 1:] != IGNORED)[:, 0]
        return _means(found.losses, owner, len(data["labels"]))[:, None]


def _owner(counts: Tensor) -> Tensor:
    """The place in its batch of the block of each row."""
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def _means(losses: Tensor, owner: Tensor, blocks: int) -> Tensor:
    """The mean of the losses (rows,) of each block; 0 of one without rows."""
    sums = torch.zeros(2, blocks, dtype=losses.dtype, device=losses.device)
    sums.index_add_(1, owner, torch.stack([losses, torch.ones_like(losses)]))
    return sums[0] / sums[1].clamp_min(1)


def token_targets(
    teacher: nn.Module | Targets | None,
    corpus: Corpus,
    tokenizer: Any = None,
    *,
    student: nn.Module | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> LiveTokens | StoredTokens | None:
    """The targets of ``teacher``, a causal language model or targets of ``corpus``, for the
    ``student`` that is trained by them. ``tokenizer``: the teacher's own, where it is known.

    Raises:
        TargetsError: targets of another kind, or of another corpus.
        ModelError: as :class:`CausalModel`; training the student would change its teacher.
    """
    if isinstance(teacher, nn.Module):
        teacher = LiveTokens(teacher, corpus, tokenizer, precision=precision)
    if teacher is not None and not isinstance(teacher, LiveTokens | StoredTokens):
        raise TargetsError(
            f"{type(teacher).__name__} has no targets of tokens: give a causal language model, "
            "LiveTokens or StoredTokens"
        )
    if isinstance(teacher, LiveTokens) and student is not None:
        check_pair(student, teacher.model.model)
    if teacher is not None:
        teacher.check(corpus)
    return teacher


def check_held_out_corpus(data: object, corpus: Corpus) -> None:
    """Raises UnsupportedData unless ``data``, to evaluate a language model on that learns
    ``corpus``, are a Corpus of the same vocabulary, or None."""
    if not isinstance(data, Corpus | None):
        raise UnsupportedData(
            f"eval_dataset is a {type(data).__name__}, and the data are a Corpus: make a Corpus of "
            "it too (frugalkd.language.tokenize_corpus)"
        )
    if data is not None and data.about.get("vocabulary") != corpus.about.get("vocabulary"):
        raise UnsupportedData(
            f"the held-out text in {data.folder} has another vocabulary than that in "
            f"{corpus.folder}: tokenise both with one tokenizer"
        )
