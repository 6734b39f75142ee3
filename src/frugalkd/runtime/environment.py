"""What a launcher (torchrun, accelerate launch, mpirun) says in the environment of a process."""

from __future__ import annotations

import os

_NAMES = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate launch
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)

_SIGNS = ("connection closed by peer", "connection reset by peer", "broken pipe", "read error")
"""What gloo says where the other end of a connection is gone."""


def rank_and_world() -> tuple[int, int]:
    """Which process this is, from 0, and of how many, as the launcher says: (0, 1) without one."""
    for rank, world in _NAMES:
        told = os.environ.get(rank, ""), os.environ.get(world, "")
        if all(number.isdecimal() for number in told):
            return int(told[0]), int(told[1])
    return 0, 1


def is_parting(error: BaseException) -> bool:
    """Whether ``error`` is what torch says when another rank is gone."""
    if not isinstance(error, RuntimeError) or rank_and_world()[1] == 1:
        return False
    said = str(error).lower()
    return any(sign in said for sign in _SIGNS)
