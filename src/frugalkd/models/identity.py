"""What decides a model's outputs, as digests: of its weights, and of all that is not in them; and
evaluation forwards, which leave no trace in either."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from frugalkd.errors import FrugalKDWarning, ModelError
from frugalkd.files.parsing import one_line
from frugalkd.models.origin import OWN_HOOKS, origin_of
from frugalkd.runtime.failures import blame

TORCH = "torch"
"""The version of torch: recorded, and another one is a warning."""

_UNVERSIONED = frozenset({"torch", "frugalkd", "builtins", "__main__", "__mp_main__"})
"""Packages whose version is recorded elsewhere, or that have none."""
_LIBRARIES = frozenset({"torch", "timm", "torchvision", "transformers"})
"""Packages whose classes keep what they were constructed with under the parameters' names; what
else they keep depends on their version, which is recorded."""
_BOOKKEEPING = frozenset({*vars(nn.Module()), "name_or_path", "_is_hf_initialized"})
"""Attributes of torch's own, and transformers' notes on where weights came from."""
_NOT_OUTPUTS = frozenset({
    "_attn_implementation", "_name_or_path", "architectures", "bos_token_id", "dtype",
    "eos_token_id", "id2label", "initializer_factor", "initializer_range", "label2id",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
"""Settings of transformers' configurations that decide no output, or that are recorded elsewhere;
``problem_type`` is written by a forward with labels."""
_FIRST: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
"""By module, the attributes that a forward pass changed, as they were before ("" for none); all
modules of a model that had a forward pass are in it."""


def identity(model: nn.Module) -> dict[str, str]:
    """What decides the outputs of ``model`` in eval mode, by name: ``teacher``,
    :func:`weights_digest`; ``teacher's model``, :func:`build_digest`; and ``libraries``, the
    versions of the packages that its modules come from, without torch, where there are some. Code
    is not read, nor a hook of the user's."""
    libraries = ", ".join(map(" ".join, libraries_of(model).items()))
    return {
        "teacher": weights_digest(model),
        "teacher's model": build_digest(model),
        **({"libraries": libraries} if libraries else {}),
    }


def identity_of_body(model: nn.Module, head: str) -> dict[str, str] | None:
    """As :func:`identity`, of all that comes before the module at the path ``head``, whose
    parameters are left out. None where code decides the outputs that no version names: classes of
    other packages than frugalkd and the libraries here, a hook, a ``forward`` of one instance."""
    for module in model.modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        own = all(isinstance(hook, OWN_HOOKS) for hook in hooks)
        package = type(module).__module__.partition(".")[0]
        if "forward" in vars(module) or not own or package not in {*_LIBRARIES, "frugalkd"}:
            return None
    return {
        "model": build_digest(model),
        "weights": weights_digest(model, without=head),
        "libraries": ", ".join(map(" ".join, libraries_of(model).items())),
        **versions(["frugalkd"]),
        **this_torch(),
    }


def this_torch() -> dict[str, str]:
    """The version of torch, as records hold it."""
    return {TORCH: str(torch.__version__)}


def differences(there: Mapping[str, str], here: Mapping[str, str], what: str) -> list[str]:
    """The names under which ``here`` differs from ``there``; another torch is only a warning."""
    if TORCH in here:
        warn_of_torch(there.get(TORCH), what)
    return [name for name in here if name != TORCH and there.get(name) != here[name]]


def warn_of_torch(version: object, what: str) -> None:
    """A FrugalKDWarning where ``what`` was made with another ``version`` of torch."""
    if version is not None and version != torch.__version__:
        warnings.warn(
            f"{what} was made with torch {one_line(version, 30)}, and this is torch "
            f"{torch.__version__}: the last digits may differ",
            FrugalKDWarning,
            stacklevel=4,
        )


def build_digest(model: nn.Module) -> str:
    """SHA-256 (hex) of how a model was built, without its weights: of its
    :class:`~frugalkd.models.origin.Origin`'s spec, of its input transform, of the order of its
    outputs, of each module's class name, ``extra_repr`` and :func:`constants`, and of the settings
    of transformers' configurations, whose models keep them under other names, or not at all."""
    spec = json.dumps(origin_of(model).spec, sort_keys=True)
    return hashlib.sha256("\n".join([spec, *_structure(model)]).encode()).hexdigest()


def weights_digest(model: nn.Module, *, without: str | None = None) -> str:
    """SHA-256 (hex) of a model's parameters and buffers, non-persistent ones included, with their
    names; without those of the module at the path ``without``."""
    digest = hashlib.sha256()
    tensors = dict(model.named_buffers()) | model.state_dict()
    for name, value in sorted(tensors.items()):
        if without is not None and name.startswith(f"{without}.".lstrip(".")):
            continue
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(_bytes(value))
        else:  # a module's own extra state
            digest.update(f"{name} {_stable(repr(value))}\n".encode())
    return digest.hexdigest()


def constants(module: nn.Module) -> dict[str, str]:
    """The attributes of a module that decide its outputs beside registered tensors and modules, as
    texts (docs/store.md). Of torch's classes without defaults, which a newer torch may add."""
    found = _attributes(module) | _FIRST.get(module, {})
    return {name: text for name, text in found.items() if text}


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule gets its own mode flag back, and random streams
    continue as if nothing had run, even where a module draws numbers in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        try:
            model.eval()
        except Exception as error:
            blame(error, ModelError, f"this {type(model).__name__} cannot be put into eval mode")
        with _noting_state(model), torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _noting_state(model: nn.Module) -> Iterator[None]:
    """Around a forward pass: note which attributes of ``model`` the first one changes."""
    if model in _FIRST:
        yield
        return
    before = {module: _attributes(module) for module in model.modules()}
    for module in before:
        _FIRST.setdefault(module, {})
    try:
        yield
    finally:
        for module, old in before.items():
            new = _attributes(module)
            changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
            _FIRST[module] = {name: old.get(name, "") for name in changed} | _FIRST[module]


def _attributes(module: nn.Module) -> dict[str, str]:
    kind = type(module)
    package = kind.__module__.partition(".")[0]
    defaults = _parameters(kind)
    found = {}
    for name, value in vars(module).items():
        given = name.lstrip("_")
        always = isinstance(value, float | FunctionType | BuiltinFunctionType)
        if name in _BOOKKEEPING or not (package not in _LIBRARIES or given in defaults or always):
            continue
        text = _plain(value)
        if text is not None and not (package == "torch" and text == defaults.get(given)):
            found[name] = text
    return found


def libraries_of(model: nn.Module) -> dict[str, str]:
    """The versions of the packages of a model's classes, by name, without torch and frugalkd."""
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    return versions(sorted(packages - _UNVERSIONED))


def versions(packages: list[str]) -> dict[str, str]:
    """The versions of the installed ones of ``packages``, without a build's label (``+cu124``)."""
    found = {name: _version(name) for name in packages}
    return {name: text.partition("+")[0] for name, text in found.items() if text}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))


def _structure(model: nn.Module) -> Iterator[str]:
    """A line for each module, without its class's module: a user's script is ``__main__`` in one
    process and a module in another."""
    configs = set()
    for name, module in model.named_modules():
        kind = type(module)
        shown = "" if kind.__module__.startswith("torch.") else module.extra_repr()
        yield _stable(f"{name} {kind.__qualname__}({shown}) {sorted(constants(module).items())}")
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        own = (repr(hook) for hook in hooks if isinstance(hook, OWN_HOOKS))
        yield from (text.replace("InputTransformHook", "Seen") for text in own)  # as in old digests
        config = vars(module).get("config")
        if id(config) not in configs and hasattr(config, "to_diff_dict"):
            configs.add(id(config))
            yield _stable(f"{name} {_settings(config)}")


def _settings(config: Any) -> str:
    """What differs in a configuration of transformers, and in those of its parts, from the defaults
    of its class, which a newer version may add to."""
    try:
        defaults = _decisive(type(config)().to_dict())
    except Exception:  # of a class that cannot do without arguments
        defaults = {}
    differing = _differing(_decisive(config.to_dict()), defaults)
    return json.dumps(differing, sort_keys=True, default=str)


def _differing(own: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The items of ``own`` that differ from ``defaults``, and of a dict in both those of its items
    that do; None for what is in ``defaults`` alone."""
    found = {}
    for name, value in {**dict.fromkeys(defaults), **own}.items():
        default = defaults.get(name, _NOT_OUTPUTS)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _differing(value, default), {}
        if value != default:
            found[name] = value
    return found


def _decisive(settings: dict[Any, Any]) -> dict[str, Any]:
    """``settings`` without those that decide no output, in those of a part too; what JSON has no
    form of as a text."""
    return {
        str(name): _decisive(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name not in _NOT_OUTPUTS
    }


@cache
def _parameters(kind: type[nn.Module]) -> dict[str, str | None]:
    """A constructor's parameters, its base classes' included, with their defaults as texts."""
    found: dict[str, str | None] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, nn.Module) and each is not nn.Module and "__init__" in vars(each):
            for name, parameter in inspect.signature(each.__init__).parameters.items():
                found[name] = _plain(parameter.default)
    return found


def _plain(value: Any) -> str | None:
    """A text of what is plain in ``value``, the same in every process; None for what is not."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.dtype | torch.Size | range | slice):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(_plain(item)) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(str(_plain(item)) for item in value))}}}"
    if isinstance(value, Mapping):
        return str([(_plain(key), _plain(item)) for key, item in value.items()])
    if isinstance(value, functools.partial):
        return str([_plain(value.func), _plain(value.args), _plain(value.keywords)])
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(_bytes(value)).hexdigest()}"
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return value.__qualname__
    return None


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _stable(text: str) -> str:
    """``text`` without what differs from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
