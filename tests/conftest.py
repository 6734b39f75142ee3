"""What all tests share: one torch thread, and the data that may be absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from frugalkd.data import data_root

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def require_data() -> Callable[[str], Path]:
    """``require_data("cifar10/train.parquet")``: its path under the data root (or an absolute
    one). The test skips where it is absent, and fails where the environment has CI."""
    root = data_root().absolute()

    def find(path: str) -> Path:
        found = root / path
        if not found.exists():
            reason = f"{path} is not in the data root (set FRUGALKD_DATA)"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}; CI must have it")
            pytest.skip(reason)
        return found

    return find
