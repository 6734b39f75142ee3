"""mixup and CutMix as views: which views of a sample are mixed, with which sample, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.policies.policy import Ids
from frugalkd.runtime.draws import hash64, stream, uniform
from frugalkd.runtime.settings import Settings

_BEGIN, _PARTNER, _SHARE, _TOP, _LEFT = map(stream, ("mixed", "partner", "share", "top", "left"))


@dataclass(frozen=True)
class Mix(Settings):
    """A part of another sample in a picture, as a function of ``(seed, id, view)`` only.

    A mixed view has no label of its own: the teacher's answer to it counts
    (``Sampling(label_free=True)``), and it is counted for the sample whose view it is, which is at
    least half of it. It never lets this sample rest: the gate decides by plain views alone.

    Attributes:
        name: ``mixup`` (Zhang et al., ICLR 2018) averages two pictures; ``cutmix`` (Yun et al.,
            ICCV 2019) pastes a rectangle of the other picture.
        part: of each sample's views, which are mixed; the others are plain. Of 1 / (1 - part)
            successive views, rounded up, one is plain.

    The share of a sample's own picture is uniform in [1/2, 1): that of mixup with alpha 1, where
    the larger of two shares is that of the sample. Of a rectangle beyond the edge less is pasted.
    Partners are drawn from the whole data set, also from samples that are not trained on (of weight
    0, or a probe), in a view of the same number.
    """

    name: Literal["mixup", "cutmix"]
    part: Annotated[float, "in (0, 1)"] = 0.5

    def mixed(self, seed: int, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which of these views are mixed: evenly spread over the views of a sample."""
        begin = uniform(seed, _BEGIN, ids)
        return np.floor((views + 1) * self.part + begin) > np.floor(views * self.part + begin)

    def partners(self, seed: int, ids: Ids, views: Ids, samples: int) -> Ids:
        """Of each of these mixed views another sample, of ``samples``."""
        bits = hash64(seed, _PARTNER, ids, views)
        steps = (bits % np.uint64(max(samples - 1, 1))).astype(np.int64)
        return (ids + 1 + steps) % samples

    def together(self, x: Tensor, others: Tensor, seed: int, ids: Ids, views: Ids) -> Tensor:
        """The pictures ``x`` (B, C, H, W) of these views with a part of their partners."""
        rest = uniform(seed, _SHARE, ids, views) / 2
        if self.name == "mixup":
            return x + torch.from_numpy(rest).float()[:, None, None, None] * (others - x)
        inside = [
            _inside(side, np.sqrt(rest), uniform(seed, purpose, ids, views))
            for side, purpose in zip(x.shape[2:], (_TOP, _LEFT), strict=True)
        ]
        pasted = torch.from_numpy(inside[0][:, :, None] & inside[1][:, None, :])
        return torch.where(pasted[:, None], others, x)


def _inside(side: int, part: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(B, side): which pixels of a side lie within ``part`` of it around the place ``at``, both of
    the whole side."""
    length, middle = np.floor(part * side), np.floor(at * side)
    begin = middle - length // 2
    places = np.arange(side)
    return (places >= begin[:, None]) & (places < (begin + length)[:, None])
