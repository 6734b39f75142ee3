"""Models cut over the ranks (FSDP2): each rank holds a part of every parameter.

What torch.distributed.fsdp takes a second to import is imported where a model is to be cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frugalkd.errors import NonFiniteLoss, RankError
from frugalkd.ranks import Ranks
from frugalkd.teachers import EMATeacher, LiveTeacher
from frugalkd.training import Training


@contextmanager
def placed(
    model: nn.Module,
    teachers: Mapping[str, LiveTeacher],
    training: Training,
    device: torch.device,
    ranks: Ranks,
) -> Iterator[nn.Module]:
    """``model`` as it is to be trained on ``device``: itself, or with ``training.shard`` and
    several ranks a copy that is cut over them, whose weights it is given in the end. Teachers are
    put there, or cut, alike, and are whole again afterwards.

    Raises:
        RankError: something of the training needs the whole model on each rank.
    """
    if ranks.alone or not training.shard:
        memory = torch.channels_last if training.channels_last else torch.preserve_format
        model.to(device, memory_format=memory)  # pyright: ignore[reportCallIssue]
        for live in teachers.values():
            live.teacher.to(device)
        yield model
        return
    averaged = any(isinstance(live, EMATeacher) for live in teachers.values())
    if averaged or training.ema is not None:
        raise RankError(
            "a sharded model has no moving average: leave training.ema out and take another "
            "teacher than its average, or set training.shard to false"
        )
    cut = sharded(model, device, ranks)
    whole = {name: live.teacher for name, live in teachers.items() if not live.own_forward}
    try:
        for name, teacher in whole.items():
            teachers[name].teacher = sharded(teacher, device, ranks)
        yield cut
        _take_back(model, cut)
    except NonFiniteLoss:  # which all ranks raise, with the weights of the step before
        _take_back(model, cut)
        raise
    finally:
        for name, teacher in whole.items():
            teachers[name].teacher = teacher


@torch.no_grad()
def _take_back(model: nn.Module, cut: nn.Module) -> None:
    """Give ``model`` the weights of its sharded copy."""
    for mine, its in zip(model.state_dict().values(), cut.state_dict().values(), strict=True):
        mine.copy_(_gathered(its))
    model.train(cut.training)


def sharded(model: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """A copy of ``model``, with the first rank's weights, cut over ``ranks``: the members of its
    lists and sequences each by itself, so that one of them at a time is whole on ``device``, then
    what is left. (Which parts are cut by themselves is our choice.)"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    made = copy.deepcopy(model).cpu()
    for tensor in made.state_dict().values():
        ranks.take_first(tensor)
    mesh = init_device_mesh(device.type, (ranks.world,))
    listed = [
        member
        for parent in made.modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for member in parent.children()
        if next(member.parameters(), None) is not None and not _is_list(member)
    ]
    for part in (*reversed(list(dict.fromkeys(listed))), made):
        # Not even the outermost stays whole after a forward pass: between two of them an optimiser
        # or a checkpoint would take its whole parameters for the model's.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return made.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` has cut ``model``, or a part of it."""
    return any(type(parameter).__name__ == "DTensor" for parameter in model.parameters())


def whole(tree: Any) -> Any:
    """A state dict with all that is cut put together, in main memory; every rank has to ask."""
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value) for value in tree]
    return _gathered(tree).cpu() if isinstance(tree, Tensor) else tree


def refuse_beside(model: nn.Module, parts: nn.Module) -> None:
    """Raises RankError where an objective's own ``parts`` would be trained beside a sharded model,
    by one optimiser: torch's steps take either kind of parameter, not both."""
    if is_sharded(model) and any(True for _ in parts.parameters()):
        raise RankError(
            "this objective trains adapters beside the student, which a sharded one has no place "
            "for: set training.shard to false, or choose another objective"
        )


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``model``, a sharded one or not, the weights of ``state``, a whole one."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(laid_out_like(tensor, state[name]))


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value``, a whole tensor, on the device of ``parameter``, cut and in memory as that is."""
    if type(parameter).__name__ != "DTensor":
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def _gathered(tensor: Tensor) -> Tensor:
    if type(tensor).__name__ != "DTensor":
        return tensor
    return tensor.detach().full_tensor()  # pyright: ignore[reportAttributeAccessIssue]


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList)
