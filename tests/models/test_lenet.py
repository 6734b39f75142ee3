from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from frugalkd.errors import ModelError
from frugalkd.models.lenet import lenet5


def test_28_pixels_are_the_network_of_32_padded():
    small, large = lenet5(10, 1, (28, 28)), lenet5(10, 1, (32, 32))
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(small(x), large(pad(x, (2, 2, 2, 2))))


def test_the_smallest_picture():
    assert lenet5(10, 1, (12, 12))(torch.zeros(1, 1, 12, 12)).shape == (1, 10)
    with pytest.raises(ModelError, match="at least 12x12"):
        lenet5(10, 1, (11, 12))
