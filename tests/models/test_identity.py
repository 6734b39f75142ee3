"""The identity of a model: all that can be known to decide what it says."""

from __future__ import annotations

import importlib
import json
import runpy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frugalkd.models import build_model, reorder_classes
from frugalkd.models import identity as module
from frugalkd.models.identity import constants, identity, inference_mode, weights_digest
from frugalkd.models.origin import name_classes, note_origin
from toys import net


class Plain(nn.Module):
    """Everything that a module may keep beside tensors and modules."""

    def __init__(self, scale: Any = 1, act: Any = F.relu, mean=None, options=()):
        super().__init__()
        self.scale, self._act, self.mean, self.options = scale, act, mean, options
        self.epsilon = 1e-5
        self.gate = torch.sigmoid
        self.calls, self.seen, self.last, self.ready = 0, [], None, False
        self.kind, self.sizes, self.table, self.shape = "a", (1, 1), {"a": 1}, torch.zeros(2)
        self.register_buffer("shift", torch.zeros(2), persistent=False)


class Said(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.hidden = object()
        self.how = how

    def extra_repr(self):
        return self.how


class State(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.count = steps

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


def build(model):
    return identity(model)["teacher's model"]


def test_a_digest_differs_for_every_parameter_and_buffer():
    digests = {weights_digest(net(0))}
    assert weights_digest(net(0)) in digests
    digests.add(weights_digest(net(1)))
    for change in (
        lambda m: m[0].bias.data.add_(1e-7),
        lambda m: m[1].running_var.add_(1e-3),
        lambda m: m[1].num_batches_tracked.add_(1),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.append(nn.Linear(4, 4)),
        lambda m: m.register_buffer("mean", torch.ones(2), persistent=False),
    ):
        model = net(0)
        change(model)
        digests.add(weights_digest(model))
    assert len(digests) == 8
    assert all(len(digest) == 64 for digest in digests)
    assert identity(net(0).eval().requires_grad_(False)) == identity(net(0))


def test_extra_state_is_part_of_the_weights():
    assert weights_digest(State(1)) != weights_digest(State(2))
    assert weights_digest(State(1)) == weights_digest(State(1))


@pytest.mark.parametrize(
    "other",
    [
        {"scale": -1}, {"scale": 1.0}, {"scale": "1"}, {"act": F.gelu}, {"act": nn.ReLU},
        {"act": torch.relu_}, {"act": partial(F.leaky_relu, negative_slope=0.2)},
        {"act": partial(F.leaky_relu, negative_slope=0.3)}, {"mean": torch.ones(3)},
        {"mean": torch.zeros(3)}, {"options": (1, 2)}, {"options": {"a": [1.5, None]}},
        {"options": {1, 2}}, {"scale": torch.float16}, {"scale": float("nan")},
    ],
)  # fmt: skip
def test_constructor_arguments_are_part_of_it(other):
    assert build(Plain()) == build(Plain())
    assert build(Plain(**other)) == build(Plain(**other)) != build(Plain())


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", 1e-3), ("gate", torch.tanh), ("calls", -1), ("ready", True), ("kind", "b"),
     ("last", 0), ("sizes", (1, 2)), ("seen", [1]), ("table", {"a": 2}), ("shape", torch.ones(2))],
)  # fmt: skip
def test_an_attribute_of_any_name_is_part_of_it(name, value):
    model = Plain()
    setattr(model, name, value)
    assert build(model) != build(Plain())
    assert build(Plain().eval()) == build(Plain())


class Counting(nn.Module):
    """A forward pass changes a counter, a list, a cache, and the model of it has a sign."""

    def __init__(self, s):
        super().__init__()
        self.sign, self.calls, self.seen = s, 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        self.last = x
        return self.sign * x


def test_what_a_forward_pass_changes_counts_as_it_was_before():
    counting: Any = Counting(1)
    model, new = nn.Sequential(counting), nn.Sequential(Counting(1))
    before = build(model)
    for _ in range(2):
        with inference_mode(model):
            with inference_mode(model):
                model(torch.ones(2))
            model(torch.ones(2))
        assert build(model) == before == build(new)
    counting.sign = -1
    assert build(model) == build(nn.Sequential(Counting(-1))) != before


def test_what_transformers_notes_is_no_part_of_it():
    model: Any = Plain()
    model.name_or_path, model._is_hf_initialized, model.scratch = "here/bert", True, object()
    assert identity(model) == identity(Plain())


def test_modules_without_weights_differ():
    ways = [
        nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.Softmax(1), nn.Softmax(0),
        nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Flatten(0), nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"), Said("a"), Said("b"),
    ]  # fmt: skip
    digests = {build(nn.Sequential(nn.Linear(2, 2), way)) for way in ways}
    assert len(digests) == len(ways)
    same_weights = [nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 2, 3, 1, 1)]
    assert len(set(map(build, same_weights))) == 3


def test_an_address_in_a_text_is_no_part_of_it():
    assert build(Said("<f at 0x7f00>")) == build(Said("<f at 0x7f11>"))


def test_a_default_that_a_newer_torch_adds_says_nothing(monkeypatch):
    before, new = build(nn.BatchNorm1d(4)), nn.BatchNorm1d.__init__

    def newer(self, num_features, shiny=True, **rest):
        new(self, num_features, **rest)
        self.shiny = shiny

    module._parameters.cache_clear()
    monkeypatch.setattr(nn.BatchNorm1d, "__init__", newer)
    monkeypatch.setattr(nn.BatchNorm1d, "extra_repr", lambda self: "shiny")
    try:
        assert build(nn.BatchNorm1d(4)) == before
        kind: Any = nn.BatchNorm1d
        assert build(kind(4, shiny=False)) != before
    finally:
        module._parameters.cache_clear()


def test_its_spec_and_its_hooks_are_parts_of_it():
    model = net(0)
    note_origin(model, spec={"name": "n", "options": {"scale": -1}})
    assert build(model) != build(net(0))
    turned = net(0)
    name_classes(turned, "abcd")
    assert build(turned) == build(net(0))
    reorder_classes(turned, "dcba")
    assert build(turned) != build(net(0))


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_the_library_that_a_model_comes_from_is_named(name, monkeypatch):
    library = name.partition("/")[0]
    pytest.importorskip(library)
    model = build_model(name, num_classes=2, in_channels=3, image_size=32)
    said = identity(nn.Sequential(model))["libraries"]
    assert said.startswith(f"{library} ")
    assert "+" not in said
    monkeypatch.setattr(module, "_version", lambda package: "0.1+cpu")
    assert identity(model)["libraries"] == f"{library} 0.1"
    assert "libraries" not in identity(net(0))


def test_constants_read_the_parameters_of_base_classes_too():
    class Child(Plain):
        def __init__(self, *, bias=2, **rest):
            super().__init__(**rest)
            self.bias = bias

    assert {"scale", "bias", "_act"} <= constants(Child(scale=3)).keys()


def tiny(**config):
    transformers = pytest.importorskip("transformers")
    given = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    kind = transformers.MistralForCausalLM
    return kind(transformers.MistralConfig(**given | config)).eval()


@pytest.mark.parametrize("config", [{"sliding_window": None}, {"sliding_window": 3}])
def test_settings_of_transformers_are_part_of_it(config):
    """Of the same weights, which give other outputs."""
    one, other, ids = tiny(), tiny(**config), torch.arange(8)[None]
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        assert not torch.equal(one(ids).logits, other(ids).logits)
    assert build(one) == build(tiny()) != build(other)
    assert build(nn.Sequential(one)) != build(nn.Sequential(other))


def test_of_settings_of_parts_only_what_differs_is():
    """Defaults of the installed version are not: a newer one may add to them."""
    config = pytest.importorskip("transformers").CLIPConfig()
    assert module._settings(config) == "{}"
    config.text_config.hidden_act, config.vision_config.patch_size = "gelu", 16
    assert json.loads(module._settings(config)) == {
        "text_config": {"hidden_act": "gelu"}, "vision_config": {"patch_size": 16},
    }  # fmt: skip


def test_what_settings_have_no_more_is_part_of_it():
    config = pytest.importorskip("transformers").LlamaConfig()
    config.rope_parameters = {"rope_type": "default"}
    assert json.loads(module._settings(config)) == {"rope_parameters": {"rope_theta": None}}


def test_what_transformers_writes_into_settings_is_not(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    read.config.use_cache, read.config.id2label = False, {0: "a"}
    read.config.problem_type, read.config.initializer_range = "regression", 0.5
    assert build(read) == build(model) == build(tiny())


def test_a_script_and_a_module_give_the_same(tmp_path, monkeypatch):
    """``__main__`` in one process, a module's name in another."""
    (tmp_path / "own_net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, scale=2, act=torch.relu):\n"
        "        super().__init__()\n        self.scale, self.act = scale, act\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    script = runpy.run_path(str(tmp_path / "own_net.py"), run_name="__main__")["Own"]
    module = importlib.import_module("own_net").Own
    assert (script.__module__, module.__module__) == ("__main__", "own_net")
    assert build(script()) == build(module()) != build(module(3))


# Evaluation forwards leave no trace in the model, whatever happens in them.


def modes(model):
    return [module.training for module in model.modules()]


def test_every_submodule_gets_its_own_mode_back():
    model = net(0)
    model[1].eval()
    model[4].eval()
    before = modes(model)
    assert len(set(before)) == 2
    with inference_mode(model):
        assert not any(modes(model))
        assert not torch.is_grad_enabled()
        with inference_mode(model):
            pass
        assert not any(modes(model))
    assert modes(model) == before
    assert torch.is_grad_enabled()


def test_an_error_inside_puts_all_back():
    model = net(0)
    before, stream = modes(model), torch.get_rng_state()

    def fail():
        with inference_mode(model):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_model_does_not_change():
    model = net(0).train()
    before = identity(model)
    with inference_mode(model):
        one, other = (model(torch.ones(2, 1, 6, 6)) for _ in range(2))
    assert torch.equal(one, other)
    assert not one.requires_grad
    assert identity(model) == before
