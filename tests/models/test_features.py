"""Features: paths, recording, probing their shapes, adapters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounter

from frugalkd.errors import ModelError
from frugalkd.models.features import Adapter, Taps, feature_paths, find_paths, probe_features
from toys import net, same_state

NAMES = ["", "stem", "stages", "stages.0", "stages.0.conv1", "stages.1", "stages.10", "head"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["head"], ["head"]),
        (["stages.*"], ["stages.0", "stages.1", "stages.10"]),
        (["stages.?", "stem"], ["stages.0", "stages.1", "stem"]),
        (["*.*.conv[12]"], ["stages.0.conv1"]),
        (["stages.1", "stages.*"], ["stages.1", "stages.0", "stages.10"]),
        (["*"], ["stem", "stages", "head"]),
    ],
)
def test_a_pattern_matches_as_many_parts_in_their_order(patterns, found):
    assert find_paths(patterns, NAMES, "the student") == tuple(found)


@pytest.mark.parametrize("wrong", ["stage.0", "stages.0.conv2", "hed", "", "stages.0.*.x"])
def test_a_pattern_without_a_match_lists_the_nearest_names(wrong):
    with pytest.raises(ModelError) as caught:
        find_paths([wrong], NAMES, "the student")
    said = str(caught.value)
    assert said.startswith(f"the student has no module {wrong!r}: did you mean ")
    assert said.count(" or ") == 2
    assert "\n" not in said


def test_a_model_without_modules():
    with pytest.raises(ModelError, match="the teacher has no module 'head': it has none"):
        find_paths(["head"], [""], "the teacher")


def test_the_nearest_names_are_near():
    with pytest.raises(ModelError, match=r"did you mean stages\.0\.conv1 or "):
        find_paths(["stages.0.conv2"], NAMES, "the student")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("fc:input", ["fc:input"]), ("*", ["body", "fc"]), ("*:input", ["body:input", "fc:input"])],
)
def test_inputs_match_input_patterns_only(pattern, found):
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    assert find_paths([pattern], feature_paths(model), "the student") == tuple(found)


def test_the_nearest_inputs_are_inputs():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    with pytest.raises(ModelError, match=r"did you mean fc:input or body:input\?"):
        find_paths(["fx:input"], feature_paths(model), "the student")


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def inputs(rows=3):
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_taps_record_outputs_until_they_are_taken():
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


def test_passes_without_gradients_are_recorded_only_with_always():
    model = net().eval()
    with Taps(model, ["0"]) as taps, torch.no_grad():
        model(inputs())
        assert taps.take() == {}
    with Taps(model, ["0"], always=True) as taps, torch.no_grad():
        model(inputs())
        assert set(taps.take()) == {"0"}


def test_no_hook_is_left_and_no_name_changes():
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


@pytest.mark.heavy
def test_a_compiled_model_gives_the_same_features_and_gradients():
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


def test_an_input_is_a_feature_too():
    model, x = net().eval(), inputs()
    with Taps(model, ["5:input", "4"]) as taps:
        model(x)
        kept = taps.take()
    assert torch.equal(kept["5:input"], kept["4"])
    assert not any(module._forward_pre_hooks for module in model.modules())


def probe(model, *patterns, rows=2):
    x = torch.ones(rows, 1, 6, 6)
    return probe_features(model, patterns, lambda: model(x), "the student")


def test_shapes_are_without_rows_in_the_order_of_the_paths():
    assert probe(net(), "4", "[01]") == {"4": (144,), "0": (4, 6, 6), "1": (4, 6, 6)}


def test_probing_does_not_change_the_model():
    model, other = net(), net()
    model[1].train()
    model[3].eval()
    state = torch.get_rng_state()
    probe(model, "0", "3")
    assert same_state(model, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model[1].training, model[3].training) == (True, True, False)
    assert not any(module._forward_hooks for module in model.modules())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(36, 36), nn.Linear(1, 1)
        self.odd = Odd()

    def forward(self, x):
        x = self.layer(self.layer(x.flatten(1)))
        return x + self.odd(x)[0].sum()


class Odd(nn.Module):
    def forward(self, x):
        return (x[0],)


class Whole(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.parametrize(
    ("model", "path", "says"),
    [
        (Twice(), "layer", "module layer of the student runs 2 times in a forward pass"),
        (Twice(), "idle", "module idle of the student does not run in a forward pass"),
        (Twice(), "odd", r"features of shape \(36,\) for 2 rows"),
        (nn.Sequential(nn.Flatten(), Whole()), "1", "returns torch.int64: name one that"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), "0", "is changed in place"),
        (nn.Sequential(nn.Flatten()), "1", "has no module '1': did you mean 0"),
    ],
)
def test_what_is_no_feature_is_refused(model, path, says):
    with pytest.raises(ModelError, match=says):
        probe(model, path)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_module_that_changes_in_place_has_a_feature():
    assert probe(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), "1") == {"1": (2, 4, 4)}


def test_an_input_that_is_changed_in_place_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten())
    with pytest.raises(ModelError, match="is changed in place"):
        probe(model, "1:input")
    assert probe(model, "2:input") == {"2:input": (2, 4, 4)}
    assert not any(module._forward_pre_hooks for module in model.modules())


SIZES = st.integers(1, 9)


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(SIZES, SIZES, SIZES))
def test_any_map_is_adapted_to_any_other(given, wanted):
    adapter = Adapter(given, wanted)
    assert adapter(torch.ones(2, *given)).shape == (2, *wanted)
    kind = nn.Identity if given[0] == wanted[0] else nn.Conv2d
    assert type(adapter.project) is kind


@given(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES))
def test_tokens_are_adapted_to_any_other(given, wanted):
    adapter = Adapter(given, wanted)
    assert adapter(torch.ones(3, *given)).shape == (3, *wanted)
    assert type(adapter.project) is (nn.Identity if given[1] == wanted[1] else nn.Linear)


@pytest.mark.parametrize("given", [(5,), (5, 4, 3), (4, 5)])
def test_everything_becomes_a_vector(given):
    assert Adapter(given, (7,))(torch.ones(2, *given)).shape == (2, 7)
    values = torch.rand(2, *given)
    mean = values if len(given) == 1 else values.mean((2, 3)) if len(given) == 3 else values.mean(1)
    torch.testing.assert_close(Adapter(given, (5,))(values), mean)


@pytest.mark.parametrize(
    ("given", "wanted"), [((5,), (5, 4, 3)), ((5,), (4, 5)), ((4, 5), (5, 2, 2)),
                          ((5, 2, 2), (4, 5)), ((1, 2, 3, 4), (1, 2, 3, 4))]
)  # fmt: skip
def test_what_no_adapter_can_do_is_refused(given, wanted):
    with pytest.raises(ModelError, match="no adapter makes features of shape"):
        Adapter(given, wanted)


def test_equal_shapes_need_no_adapter():
    values = torch.rand(2, 3, 4, 5)
    adapter = Adapter((3, 4, 5), (3, 4, 5))
    assert adapter(values) is values
    assert list(adapter.parameters()) == []
    assert len(list(Adapter((3, 4, 5), (3, 4, 5), always=True).parameters())) == 2


def test_smaller_maps_are_means_and_larger_ones_interpolate():
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = Adapter((1, 4, 4), (1, 2, 2))(values)
    assert small.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    large = Adapter((1, 4, 4), (1, 8, 8))(values)
    assert float(large.min()) >= 0
    assert float(large.max()) <= 15
    assert large[0, 0, 0].diff().ge(0).all()
    both = Adapter((1, 4, 4), (1, 2, 8))(values)
    assert both.shape == (1, 1, 2, 8)
    torch.testing.assert_close(both.mean(), values.mean())


def test_the_mean_of_every_row_survives_pooling():
    values = torch.rand(3, 6, 2)
    torch.testing.assert_close(Adapter((6, 2), (3, 2))(values).mean(1), values.mean(1))


def test_padded_texts_may_differ_in_length():
    adapter = Adapter((4, 3), (5, 7))
    longer = torch.rand(2, 9, 3)
    made = adapter(longer, like=torch.rand(2, 9, 7))
    torch.testing.assert_close(made, adapter.project(longer))
    assert adapter(longer).shape == (2, 5, 7)
