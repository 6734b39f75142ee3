"""Sharded models (FSDP2): each rank holds a part of every parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frugalkd.distributed.ranks import Ranks, is_sharded
from frugalkd.errors import NonFiniteLoss, RankError, Stopped
from frugalkd.files.parsing import one_line
from frugalkd.teachers import EMATeacher, Targets
from frugalkd.training.settings import Training

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules that are never called, and so are never gathered."""


@contextmanager
def placed(
    model: nn.Module,
    targets: Targets | None,
    training: Training,
    device: torch.device,
    ranks: Ranks,
) -> Iterator[tuple[nn.Module, Callable[[], None]]]:
    """Move ``model`` and the live teachers of ``targets`` to ``device``; with ``training.fsdp`` and
    several ranks, sharded copies of them, while the originals wait in main memory. Gives the model
    to train, and a function that copies its weights to ``model``, which every rank has to call.
    After Stopped or NonFiniteLoss this was done; teachers are the originals again in any case.
    Raises RankError where a model cannot be sharded, or the training needs unsharded ones."""
    teachers = {} if targets is None else targets.live_teachers
    if ranks.alone or not training.fsdp:
        memory = torch.channels_last if training.channels_last else torch.preserve_format
        model.to(device, memory_format=memory)  # pyright: ignore[reportCallIssue]
        for live in teachers.values():
            live.teacher.to(device)
        yield model, lambda: None
        return
    if training.ema is not None or any(isinstance(live, EMATeacher) for live in teachers.values()):
        raise RankError(
            "a sharded model has no moving average: leave training.ema out and use another teacher "
            "than its average, or set training.fsdp to false"
        )
    if targets is not None and targets.fills_as_visited:
        raise RankError(
            "a sharded teacher is run by all ranks at once, and at first visits each rank lacks "
            "other rows: fill a store before, or set training.fsdp to false"
        )
    if training.compile:
        raise RankError("training.compile is for unsharded models: leave it out, or training.fsdp")
    cut = sharded(model, device, ranks)
    originals = {name: live.teacher for name, live in teachers.items() if not live.own_forward}
    try:
        for name, live in teachers.items():
            if name in originals:
                live.teacher = sharded(live.teacher, device, ranks)
            else:  # the caller's function runs it: it stays unsharded
                live.teacher.to(device)
        yield cut, lambda: _copy_back(cut, model)
    except (NonFiniteLoss, Stopped):  # which all ranks raise
        _copy_back(cut, model)
        raise
    finally:
        for name, teacher in originals.items():
            teachers[name].teacher = teacher


def sharded(model: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """A copy of ``model``, with the first rank's weights, sharded over ``ranks``: first each member
    of its lists and sequences, so that one of them at a time is complete on ``device``, then the
    rest. (Which parts are sharded separately is our choice.) ``model`` goes to main memory. Raises
    RankError where it ties weights, or torch cannot shard it."""
    # Here, because it takes a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False))):
        raise RankError(
            f"a {type(model).__name__} ties weights, which sharding would untie: set training.fsdp "
            "to false"
        )
    made = copy.deepcopy(model.cpu()).to(memory_format=torch.contiguous_format)  # pyright: ignore
    for tensor in made.state_dict().values():
        if isinstance(tensor, Tensor):
            ranks.take_first(tensor)
    mesh = init_device_mesh(device.type, (ranks.world,))
    listed = [
        member
        for parent in made.modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for member in parent.children()
        if next(member.parameters(), None) is not None and not isinstance(member, _CONTAINERS)
    ]
    try:
        for part in (*reversed(list(dict.fromkeys(listed))), made):
            # Not even the outermost stays complete after a forward pass: between two of them an
            # optimiser or a checkpoint would use its complete parameters as the model's.
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise RankError(
            f"torch cannot shard a {type(model).__name__}: {one_line(str(error), most=200)}; set "
            "training.fsdp to false"
        ) from None
    return made.to(device)


class WaitingSGD(torch.optim.SGD):
    """SGD for sharded parameters, for which torch has no fused step. It respects ``found_inf`` as
    fused ones do, and waits for the device to read it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        if vars(self).pop("found_inf", 0):  # torch's own refuses to see it
            return None
        return super().step(closure)


def check_parts(model: nn.Module, parts: nn.Module, ranks: Ranks) -> None:
    """Raises RankError where several ranks cannot have an objective's own ``parts``."""
    if not ranks.alone and any(buffer.is_floating_point() for buffer in parts.buffers()):
        raise RankError(
            "this objective remembers the rows that it has seen, and each rank sees its own rows "
            "alone: train with one process, or choose another objective"
        )
    # torch's optimiser steps support sharded parameters or others, not both.
    if is_sharded(model) and any(True for _ in parts.parameters()):
        raise RankError(
            "this objective trains adapters beside the student, which is not supported with a "
            "sharded one: set training.fsdp to false, or choose another objective"
        )


def whole(tree: Any, *, keep: bool = True) -> Any:
    """A state dict with all sharded tensors gathered in main memory. Every rank has to call it;
    those that do not ``keep`` it get None in place of tensors."""
    if isinstance(tree, Mapping):
        return {key: whole(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value, keep=keep) for value in tree]
    if not isinstance(tree, Tensor):
        return tree
    if _is_cut(tree):
        tree = tree.detach().full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    return tree.cpu() if keep else None


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load ``state``, an unsharded one, into ``model``, sharded or not."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(laid_out_like(tensor, state[name]))


def load_state(optimizer: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Load a state dict of unsharded, contiguous tensors, in the layout of the parameters: their
    shards, and their strides, which fused steps do not check."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def laid_out(parameter: Tensor, value: Any) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return laid_out_like(parameter, value) if same else value

    state = {
        number: {name: laid_out(parameters[number], value) for name, value in each.items()}
        for number, each in kept["state"].items()
    }
    optimizer.load_state_dict({**kept, "state": state})


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value``, unsharded, with the device, the strides and the shards of ``parameter``."""
    if not _is_cut(parameter):
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def _is_cut(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "DTensor"


@torch.no_grad()
def _copy_back(cut: nn.Module, model: nn.Module) -> None:
    for mine, its in zip(model.state_dict().values(), cut.state_dict().values(), strict=True):
        if isinstance(mine, Tensor):
            mine.copy_(whole(its))
    model.train(cut.training)
