"""Hooks that keep features, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from frugalkd.models.features import Taps
from toys import net


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def inputs(rows=3):
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_it_keeps_what_the_modules_return_until_it_is_taken():
    model, x = net().eval(), inputs()
    with Taps(model, ["0", "4"]) as taps:
        model(inputs(2))
        model(x)
        kept = taps.take()
        assert taps.take() == {}
    assert list(kept) == ["0", "4"]
    assert torch.equal(kept["0"], model[0](x))
    assert torch.equal(kept["4"], model[:5](x))
    assert kept["4"].grad_fn is not None


def test_a_forward_pass_without_gradients_leaves_nothing_unless_that_is_asked_for():
    model = net().eval()
    with Taps(model, ["0"]) as taps, torch.no_grad():
        model(inputs())
        assert taps.take() == {}
    with Taps(model, ["0"], always=True) as taps, torch.no_grad():
        model(inputs())
        assert set(taps.take()) == {"0"}


def test_no_hook_is_left_and_no_name_is_changed():
    model = net()
    before = list(model.state_dict())
    with Taps(model, ["0", "2"]):
        assert hooks_of(model) == 2
        assert list(model.state_dict()) == before
        with pytest.raises(RuntimeError, match="size"):
            model(torch.ones(1, 3, 6, 6))
    assert hooks_of(model) == 0


def test_of_several_outputs_the_first_counts():
    model = nn.Sequential(nn.LSTM(3, 2, batch_first=True))
    with Taps(model, ["0"]) as taps:
        out, _ = model(torch.ones(4, 5, 3))
        assert torch.equal(taps.take()["0"], out)


def test_a_compiled_model_keeps_the_same_features_with_their_gradients():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    with Taps(model, ["1", "2"]) as taps:
        for x in (inputs(), 2 * inputs()):
            compiled(x)
            kept = taps.take()
            torch.testing.assert_close(kept["1"], model[:2](x))
            taps.take()
            kept["2"].sum().backward()
            grads = [p.grad for p in model[1].parameters()]
            model.zero_grad()
            model[:3](x).sum().backward()
            for mine, other in zip(grads, model[1].parameters(), strict=True):
                torch.testing.assert_close(mine, other.grad)
            model.zero_grad()
        with torch.no_grad():
            taps.take()
            compiled(inputs())
            assert taps.take() == {}
    assert counter.frame_count > 0


def test_what_a_module_gets_is_a_feature_too():
    model, x = net().eval(), inputs()
    with Taps(model, ["5:input", "4"]) as taps:
        model(x)
        kept = taps.take()
    assert torch.equal(kept["5:input"], kept["4"])
    assert not any(module._forward_pre_hooks for module in model.modules())
