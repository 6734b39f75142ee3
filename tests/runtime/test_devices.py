"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from frugalkd.errors import ModelError
from frugalkd.runtime.devices import resolve_device


def test_the_processor_is_always_here():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps", "xpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "unknown device 'gpu': did you mean cuda?"),
        ("GPU", "unknown device 'GPU': did you mean cuda?"),
        ("cuda:1", "unknown device 'cuda:1': name cuda, and choose the card with CUDA_VISIBLE"),
        ("tpu", "unknown device 'tpu': "),
    ],
)
def test_an_unknown_device_is_refused(name, says):
    with pytest.raises(ModelError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(says)


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="device cuda is not available: set device: auto, or cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda") == torch.device("cuda")
