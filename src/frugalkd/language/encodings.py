"""How a teacher's distribution over tens of thousands of tokens is kept in a few bytes.

A record holds some classes, by the numbers of their tokens, and the logarithms of their
probabilities down to -16 in one byte, as ``-16 * (byte / 255) ** 2``, rounded up or down at random
so that a probability is right in expectation; it is off by at most 1.3 % of itself down to e, 5 %
down to e ** -8. That of the first class, entropy, and log p of the label down to -32 are kept in
steps of 1/2048.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import TargetsError, UnknownName
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.settings import Count, check_integer
from frugalkd.teachers.encodings import Fidelity, Format
from frugalkd.teachers.sparse import Sparse

_STREAM = draws.stream("tokens of a teacher's distribution")
_STEPS = 2048
_LARGEST = (1 << 16) - 1
_DEEPEST, _LEVELS = 16.0, 255
_ROUNDED = draws.stream("rounding of a teacher's distribution")

RECORD_BYTES = 64


class TokenEncoding(Format):
    """How the distribution of one token is kept, in at most ``record_bytes`` bytes."""

    record_bytes: int
    has_logs: ClassVar[bool] = True
    """Whether the probabilities of the classes are kept."""
    knows_top = False
    temperature = 1.0

    def count(self, classes: int) -> int:
        """How many classes a record holds. Raises TargetsError: not even one, or all there are."""
        each, row = 2 + (classes > 1 << 16) + self.has_logs, 4 + 3 * self.has_logs
        count = (self.record_bytes - row) // each
        if self.has_logs and count > 255:
            count = (self.record_bytes - row - 1) // each
        if not 1 <= count < classes <= 1 << 24:
            raise TargetsError(
                f"records of {self.record_bytes} bytes hold {max(count, 0)} of {classes} tokens: "
                f"give at least {row + each}, and fewer than all tokens need"
            )
        return count

    def record(self, classes: int) -> np.dtype[np.void]:
        count = self.count(classes)
        parts: list[Any] = [("classes", "<u2", (count,))]
        if classes > 1 << 16:
            parts.append(("high", "u1", (count,)))
        if self.has_logs:
            parts += [
                ("logs", "u1", (count,)),
                ("first", "<u2"),
                ("head", "u1" if count < 256 else "<u2"),
            ]
        return np.dtype([*parts, ("label", "<u2"), ("entropy", "<u2")])

    def encode(self, logits: Tensor, labels: Tensor, rows: Ids, views: Ids) -> NDArray[np.void]:
        """Records (rows,) of finite ``logits`` float (rows, classes), with the ``labels`` int64
        (rows,); a pure function of each row's logits and of (row, view), both (rows,)."""
        logs = torch.log_softmax(logits.double(), dim=1)
        shares = logs.exp()
        entropy = -torch.einsum("rc,rc->r", shares, logs)
        first = torch.from_numpy(draws.uniform(0, _STREAM, rows, views)).to(logs.device)
        records = np.empty(len(logits), self.record(logits.shape[1]))
        chosen, head = self.choose(logs, shares, first[:, None], self.count(logits.shape[1]))
        numbers = chosen.cpu().numpy()
        records["classes"] = numbers & 0xFFFF
        if "high" in (records.dtype.names or ()):
            records["high"] = numbers >> 16
        if self.has_logs:
            kept, slots = logs.gather(1, chosen), np.arange(chosen.shape[1])
            drawn = draws.uniform(0, _ROUNDED, rows[:, None], views[:, None], slots)
            records["logs"] = _bytes(kept, torch.from_numpy(drawn).to(kept.device)).cpu().numpy()
            records["first"] = _codes(kept[:, 0]).cpu().numpy()
            records["head"] = head.cpu().numpy()
        records["label"] = _codes(logs.gather(1, labels[:, None]))[:, 0].cpu().numpy()
        records["entropy"] = _codes(-entropy).cpu().numpy()
        return records

    def decode(self, records: NDArray[np.void], classes: int) -> Sparse:
        """The distributions of ``records`` (rows,), in main memory. Raises TargetsError: a record
        names a token that does not exist."""
        numbers = records["classes"].astype(np.int64)
        if "high" in (records.dtype.names or ()):
            numbers |= records["high"].astype(np.int64) << 16
        if len(records) and numbers.max() >= classes:
            raise TargetsError(f"a stored row names a token beyond the {classes} that there are")
        chosen, head = torch.from_numpy(numbers), torch.zeros(len(numbers), 1)
        logs = torch.zeros(chosen.shape, dtype=torch.float64)
        if self.has_logs:
            logs = _of_bytes(torch.from_numpy(records["logs"].astype(np.float64)))
            logs[:, 0] = _logs(torch.from_numpy(records["first"].astype(np.int64)))
            head = torch.from_numpy(records["head"].astype(np.int64))[:, None]
        return self.weigh(chosen, logs, head, entropy_of(records))

    @abstractmethod
    def choose(
        self, logs: Tensor, shares: Tensor, first: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Which classes are kept, int64 (rows, count), by the probabilities ``shares`` (rows,
        classes), whose memory may be used, their logarithms ``logs``, and one uniform draw a row,
        ``first`` (rows, 1); and how many of them, the first ones, are of the head, int64
        (rows,)."""

    @abstractmethod
    def weigh(self, classes: Tensor, logs: Tensor, head: Tensor, entropy: Tensor) -> Sparse:
        """What the kept ``classes`` weigh, by their log probabilities float64 and by how many of
        them are of the head, (rows, 1)."""


@final
@dataclass(frozen=True)
class HeadAndTail(TokenEncoding):
    """Distinct tokens, each in with the probability ``min(1, p / tau)`` and then weighing ``max(p,
    tau)``; tau is such that these probabilities sum to the number n of tokens that fit.

    The likeliest tokens, those of the *head*, are there with their own probability; of the *tail*
    one random number selects the others by systematic sampling. For any function of the token the
    weighted sum is an unbiased estimate of the teacher's expectation; the weights sum to 1. Forward
    KL and total variation are such sums; reverse KL and JSD are not.
    """

    record_bytes: Count = RECORD_BYTES

    name = "head+tail"
    keeps = Fidelity.DRAWS

    def choose(
        self, logs: Tensor, shares: Tensor, first: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        top = logs.topk(count, dim=1)
        largest = top.values.exp()
        others = shares.scatter_(1, top.indices, 0.0)
        # What is left from each class on, summed from the smallest: a tail may be below 1e-16.
        left = largest.flip(1).cumsum(dim=1).flip(1) + others.sum(dim=1, keepdim=True)
        slots = torch.arange(count, 0, -1, device=logs.device)
        # Of the head while p is at least an equal part, among the classes from it on, of that.
        head = (largest * slots >= left).cumprod(dim=1).bool()
        drawn = (~head).sum(dim=1, keepdim=True)
        tail = others.scatter_(1, top.indices, largest.masked_fill(head, 0.0))
        places = first + torch.arange(count, device=logs.device) - (count - drawn)
        found = _find(tail, places.clamp_min(0.0) / drawn.clamp_min(1))
        return torch.where(head, top.indices, found), head.sum(dim=1)

    def weigh(self, classes: Tensor, logs: Tensor, head: Tensor, entropy: Tensor) -> Sparse:
        own = torch.arange(classes.shape[1]) < head
        shares = logs.exp() * own
        left = (1 - shares.sum(dim=1, keepdim=True)).clamp_min(0.0)
        weights = torch.where(own, shares, left / (classes.shape[1] - head).clamp_min(1))
        weights = weights / weights.sum(dim=1, keepdim=True)
        return Sparse(classes, weights.float(), (weights * logs).sum(dim=1).float())


@final
@dataclass(frozen=True)
class TopTokens(TokenEncoding):
    """The likeliest tokens. With the ``tail``, all others are one outcome more, of their total
    probability; without, these tokens' probabilities are scaled to sum to 1. Biased either way:
    of the tail, its total is all that is kept."""

    record_bytes: Count = RECORD_BYTES
    tail: bool = True

    knows_top = True
    keeps = Fidelity.SOFTMAX

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "top-k+tail" if self.tail else "top-k"

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "record_bytes": self.record_bytes}

    def choose(
        self, logs: Tensor, shares: Tensor, first: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        return logs.topk(count, dim=1).indices, torch.full((len(logs),), count)

    def weigh(self, classes: Tensor, logs: Tensor, head: Tensor, entropy: Tensor) -> Sparse:
        weights = logs.exp()
        total = weights.sum(dim=1, keepdim=True)
        rest = None
        if self.tail:
            weights = weights / total.clamp_min(1.0)
            rest = 1 - weights.sum(dim=1)
        else:
            weights = weights / total
        information = torch.xlogy(weights, weights).sum(dim=1)
        if rest is not None:
            rest = rest.clamp_min(0.0).float()
            information = information + torch.xlogy(rest, rest)
        return Sparse(classes, weights.float(), information.float(), rest)


@final
@dataclass(frozen=True)
class SampledTokens(TokenEncoding):
    """Draws from the teacher's distribution, which weigh the same: as many as fit, since nothing
    but the tokens' numbers is kept. After Sparse Logit Sampling (Anshumann et al., ACL 2025), by
    systematic draws as :class:`frugalkd.teachers.encodings.Sampled`."""

    record_bytes: Count = RECORD_BYTES

    has_logs = False
    name = "sampled"
    keeps = Fidelity.DRAWS

    def choose(
        self, logs: Tensor, shares: Tensor, first: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        places = (first + torch.arange(count, device=logs.device)) / count
        return _find(shares, places), torch.zeros(len(logs))

    def weigh(self, classes: Tensor, logs: Tensor, head: Tensor, entropy: Tensor) -> Sparse:
        weights = torch.full(classes.shape, 1 / classes.shape[1])
        return Sparse(classes, weights, -entropy)


def entropy_of(records: NDArray[np.void]) -> Tensor:
    """float32 (rows,), the teacher's entropy in nats."""
    return -_logs(torch.from_numpy(records["entropy"].astype(np.int64))).float()


def label_logs_of(records: NDArray[np.void]) -> Tensor:
    """float32 (rows,), log of the teacher's probability of each label; -32 for less."""
    return _logs(torch.from_numpy(records["label"].astype(np.int64))).float()


def _codes(logs: Tensor) -> Tensor:
    return (logs * -_STEPS).round().clamp(0, _LARGEST).long()


def _logs(codes: Tensor) -> Tensor:
    return codes.double() / -_STEPS


def _bytes(logs: Tensor, drawn: Tensor) -> Tensor:
    """One of the two bytes around each log probability, such that the probability is that of the
    bytes in expectation over ``drawn``, uniform in [0, 1)."""
    above = (logs / -_DEEPEST).clamp(0, 1).sqrt().mul(_LEVELS).floor().clamp_max(_LEVELS - 1)
    most, least = _of_bytes(above).exp(), _of_bytes(above + 1).exp()
    down = drawn * (most - least) < most - logs.exp()
    return (above + down).long()


def _of_bytes(levels: Tensor) -> Tensor:
    return -_DEEPEST * (levels / _LEVELS).square()


def _find(shares: Tensor, places: Tensor) -> Tensor:
    """The classes in whose part of the sum of ``shares`` (rows, classes) the ``places`` (rows, n)
    in [0, 1) lie. Overwrites ``shares``."""
    below = shares.cumsum_(1)
    total = below[:, -1:].contiguous()
    last = torch.searchsorted(below, total)
    return torch.minimum(torch.searchsorted(below, places * total, right=True), last)


TOKEN_ENCODINGS: dict[str, Callable[[int], TokenEncoding]] = {
    "head+tail": HeadAndTail,
    "top-k+tail": lambda record_bytes: TopTokens(record_bytes, True),
    "top-k": lambda record_bytes: TopTokens(record_bytes, False),
    "sampled": SampledTokens,
}


def make_token_encoding(name: str, record_bytes: Any = RECORD_BYTES) -> TokenEncoding:
    """An encoding by its name.

    Raises:
        UnknownName: there is none of this name.
        SettingError: ``record_bytes`` is not an integer in 1 .. 65536.
    """
    if name not in TOKEN_ENCODINGS:
        raise UnknownName("encoding of tokens", str(name), TOKEN_ENCODINGS)
    check_integer("record_bytes", record_bytes, 1, 1 << 16)
    return TOKEN_ENCODINGS[name](record_bytes)
