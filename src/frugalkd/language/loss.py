"""One loss a token, from the last hidden states: the logits of all tokens never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from frugalkd.data.batches import form
from frugalkd.errors import ObjectiveError, SettingError, TargetsError
from frugalkd.language.encodings import TokenEncoding
from frugalkd.language.models import CausalModel, rows_at_once
from frugalkd.language.targets import TokenRows
from frugalkd.objectives import FeatureObjective, Objective
from frugalkd.runtime.failures import blame
from frugalkd.runtime.settings import check_integer, check_number
from frugalkd.teachers import Targets
from frugalkd.teachers.encodings import Fidelity
from frugalkd.teachers.sparse import Sparse

Losses = Callable[[Tensor, slice], Tensor]


class TokenLoss(NamedTuple):
    """``loss``: the sum of weights times losses over the number of tokens, with its gradient.
    ``losses``: one a row, without weights and gradients, (rows,)."""

    loss: Tensor
    losses: Tensor


def check_token_objective(objective: Objective, targets: Targets | TokenEncoding | None) -> None:
    """Refuse an objective that is not defined for tokens one by one, or that reads more of the
    teacher than ``targets`` keep, or at another temperature. Raises SettingError, TargetsError."""
    name = type(objective).__name__
    if objective.mixes_rows or any(isinstance(each, FeatureObjective) for each in objective.terms):
        raise SettingError(
            f"the loss of a token under {name} depends on features or on other tokens: give an "
            "objective of single rows, such as KD or JensenShannon"
        )
    if objective.learns != "one-class":
        raise SettingError(
            f"{name} learns {objective.learns}, and a token is a class: give KD, JensenShannon or "
            "CrossEntropy"
        )
    if not objective.needs_targets:
        return
    if targets is None:
        raise TargetsError(f"{name} needs a teacher: pass targets, or CrossEntropy() to do without")
    if targets.keeps < objective.reads:
        hint = ""
        if objective.reads == Fidelity.SOFTMAX:
            hint = "fill one by top-k+tail, which is biased, or "
        raise TargetsError(
            f"{name} reads more of the teacher than this store keeps, which serves forward KL "
            f"(KD): {hint}run the teacher live"
        )
    own = getattr(objective, "temperature", None)
    if targets.temperature not in (None, own):
        raise TargetsError(
            f"stored tokens are the teacher's at temperature {targets.temperature:g}, and {name} "
            f"has {own}: set its temperature to 1, or run the teacher live"
        )


def token_loss(
    model: CausalModel,
    states: Tensor,
    labels: Tensor,
    targets: TokenRows | None,
    objective: Objective,
    *,
    tokens: float,
    weights: Tensor | None = None,
    chunk: int | None = None,
) -> TokenLoss:
    """The loss of the rows of a batch.

    The head runs on ``chunk`` rows at a time, in float32 (float64 where the weights are), and the
    gradients of states and head are computed with it: nothing of a chunk is kept.

    Args:
        model: whose head it is.
        states: (rows, width), of ``model.states``.
        labels: int64 (rows,), of ``model.labels``.
        targets: what ``fetch`` of live or stored tokens gave; None where none are needed.
        objective: one loss a row (:func:`check_token_objective`).
        tokens: the rows of the *global* batch, over all ranks and accumulated batches: so the
            gradient does not depend on how the batch is divided. Where the ranks' gradients are
            averaged, as DDP does, divide it by their number.
        weights: (rows,), of each row: what its sample weighs times what the token does; None: 1.
        chunk: rows whose logits are in memory at a time; None: :func:`rows_at_once`.

    Raises:
        SettingError: there are not as many targets, or weights, as rows.
        ObjectiveError: the objective fails, or does not return one loss a row.
    """
    chunk = rows_at_once(model.vocabulary, states.device) if chunk is None else chunk
    check_integer("chunk", chunk, 1)
    check_number("tokens", tokens, 0)
    for name, given in (("labels", labels), ("targets", targets), ("weights", weights)):
        if given is not None and len(given) != len(states):
            raise SettingError(f"{len(given)} {name} for {len(states)} rows: give one for each")
    weight, bias = model.weights()
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = states.new_ones(len(states), dtype=dtype) if weights is None else weights.to(dtype)
    scale = scale / (tokens or 1)  # of ranks together, it may be less than one token a rank
    losses = _losses_of(objective, labels, targets, model.vocabulary)
    if not torch.is_grad_enabled():
        states, weight = states.detach(), weight.detach()
        bias = None if bias is None else bias.detach()
    return TokenLoss(*_HeadLoss.apply(states, weight, bias, scale, losses, chunk))


def _losses_of(
    objective: Objective, labels: Tensor, targets: TokenRows | None, vocabulary: int
) -> Losses:
    """The objective's losses of some rows, from their logits."""
    name = type(objective).__name__

    def losses(logits: Tensor, rows: slice) -> Tensor:
        part = None if targets is None else targets.part(rows)
        given: Any = part
        if isinstance(part, Sparse) and objective.reads > Fidelity.DRAWS:
            given = part.logits(vocabulary)
        try:
            found = objective(logits, given, labels[rows])
        except Exception as error:
            blame(error, ObjectiveError, f"{name} fails on logits {tuple(logits.shape)}")
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            raise ObjectiveError(
                f"{name} gives {form(found)} for {len(logits)} rows: give one loss a row"
            )
        return found

    return losses


class _HeadLoss(torch.autograd.Function):
    """The weighted sum of the losses, and the losses, of states (rows, width) and a linear head;
    its gradients are computed in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        losses_of: Losses,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad[:3]
        matrix = weight.to(scale.dtype)
        shift = None if bias is None else bias.to(scale.dtype)
        losses = scale.new_empty(len(states))
        of_states = torch.zeros_like(states, dtype=scale.dtype) if needs[0] else None
        of_weight = torch.zeros_like(matrix) if needs[1] else None
        of_bias = None if shift is None or not needs[2] else torch.zeros_like(shift)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), chunk):
                rows = slice(start, min(start + chunk, len(states)))
                part = states[rows].to(scale.dtype)
                logits = F.linear(part, matrix, shift).requires_grad_(any(needs))
                with torch.set_grad_enabled(any(needs)):
                    found = losses_of(logits, rows)
                losses[rows] = found.detach()
                if not any(needs):
                    continue
                (of_logits,) = torch.autograd.grad(found, logits, scale[rows].to(found.dtype))
                if of_states is not None:
                    torch.mm(of_logits, matrix, out=of_states[rows])
                if of_weight is not None:
                    of_weight.addmm_(of_logits.T, part)
                if of_bias is not None:
                    of_bias += of_logits.sum(dim=0)
        ctx.gradients = (of_states, of_weight, of_bias)
        ctx.dtypes = (states.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(losses)
        return (scale * losses).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients = (
            None if each is None else (each * upstream).to(dtype)
            for each, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        return (*gradients, None, None, None)
