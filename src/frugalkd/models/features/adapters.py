"""What makes a student's feature one of the teacher's shape."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.errors import ModelError
from frugalkd.models.features.probe import Shape


@final
class Adapter(nn.Module):
    """From features (rows, \\*``given``) to (rows, \\*``wanted``).

    A shape is (channels, height, width), (tokens, width) or (channels,). Sizes other than the
    channels' are averaged down (adaptive average pooling) or interpolated up (bilinearly) first;
    then, where the channels differ, a 1x1 convolution or a linear layer follows, with a bias. Where
    the shapes are one it does nothing and has no parameters. A map becomes a vector by its mean.

    Args:
        given, wanted: without the rows.
        always: have the convolution or linear layer even where the channels are the same.

    Raises:
        ModelError: a vector that should become a map, or shapes of more than three sizes.
    """

    def __init__(self, given: Shape, wanted: Shape, *, always: bool = False):
        super().__init__()
        self.wanted = wanted
        if len(given) > 3 or len(wanted) > len(given) or (len(wanted) == 2 != len(given)):
            raise ModelError(
                f"no adapter makes features of shape {wanted} of ones of {given}: name modules "
                "whose features have as many sizes, or a teacher's without height and width"
            )
        self.project: nn.Module = nn.Identity()
        of, to = channels_of(given), channels_of(wanted)
        if of != to or always:
            self.project = nn.Conv2d(of, to, 1) if len(wanted) == 3 else nn.Linear(of, to)

    def forward(self, features: Tensor, like: Tensor | None = None) -> Tensor:
        """To the sizes of ``like``, (rows, ...), where it is given: those of padded texts differ
        from batch to batch."""
        wanted = self.wanted if like is None else tuple(like.shape[1:])
        return self.project(resized(features, wanted))


def channels_of(shape: Shape) -> int:
    """How many channels features of ``shape`` have: tokens have their width."""
    return shape[-1] if len(shape) == 2 else shape[0]


def resized(features: Tensor, wanted: Shape) -> Tensor:
    """``features`` (rows, ...) with the sizes of ``wanted`` but for the channels, which stay."""
    if features.ndim == 2 and len(wanted) == 1:
        return features
    if len(wanted) == 1:  # the mean over what are not channels
        return features.flatten(2).mean(2) if features.ndim > 3 else features.mean(1)
    if len(wanted) == 2:
        return _tokens(features.transpose(1, 2), wanted[0]).transpose(1, 2)
    height, width = wanted[1:]
    if tuple(features.shape[2:]) == (height, width):
        return features
    # Down first, so that a side that shrinks is averaged and one that grows is interpolated.
    least = min(features.shape[2], height), min(features.shape[3], width)
    features = F.adaptive_avg_pool2d(features, least)
    if least == (height, width):
        return features
    return F.interpolate(features, (height, width), mode="bilinear", align_corners=False)


def _tokens(features: Tensor, length: int) -> Tensor:
    if features.shape[2] == length:
        return features
    if features.shape[2] > length:
        return F.adaptive_avg_pool1d(features, length)
    return F.interpolate(features, length, mode="linear", align_corners=False)
