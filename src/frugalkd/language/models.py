"""Causal language models: by name or file, cut from their teacher, and in two parts, so that the
head runs on a few positions at a time."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.data.batches import call
from frugalkd.data.text import check_vocabulary, from_transformers, model_folder, vocabulary_of
from frugalkd.errors import FrugalKDWarning, ModelError, SettingError, TargetsError
from frugalkd.files.parsing import one_line
from frugalkd.language.corpus import Corpus
from frugalkd.language.documents import tokenizer_digest
from frugalkd.models.building import causal_from
from frugalkd.models.identity import inference_mode
from frugalkd.outputs.tokens import IGNORED
from frugalkd.runtime.devices import device_of
from frugalkd.runtime.imports import require_extra
from frugalkd.runtime.settings import check_types

Embeddings = Literal["trained", "frozen", "shared"]

_INPUTS = ("input_ids", "position_ids")
_PROBED = 6  # tokens of each of two documents
_OF_MODULES = frozenset({*vars(nn.Module()), "gradient_checkpointing", "name_or_path"})
_LARGE = 64.0  # states that are so much larger show what a model does to large logits


def load_causal(name: str, *, download: bool = True, **options: Any) -> Any:
    """A causal language model of transformers, and its tokenizer.

    Args:
        name: a folder, a folder inside an installed package, a name on the hub, or a ``.gguf``
            file in one of these (which needs ``gguf``).
        download: whether a name on the hub may be fetched; else this machine's cache has it.
        options: of ``AutoModelForCausalLM.from_pretrained``, such as ``dtype``.

    Returns:
        the model in eval mode, and the tokenizer.

    Raises:
        ModelError: there is no such model, or what reads it is not installed.
    """
    folder, file = place_of(name)
    model = causal_from(folder, download=download, **file, **options)
    return model.eval(), load_tokenizer(name, download=download)


def load_tokenizer(name: str, *, download: bool = True) -> Any:
    """The tokenizer alone of :func:`load_causal`. Raises ModelError."""
    folder, file = place_of(name)
    return from_transformers("AutoTokenizer", folder, download=download, **file)


def place_of(name: str) -> tuple[str, dict[str, str]]:
    """Where transformers finds the model ``name``, and which file of it, if it is one. Raises
    ModelError."""
    if not name.endswith(".gguf"):
        return name, {}
    require_extra("gguf", "GGUF files need gguf", ModelError, "gguf")
    path = Path(name if os.path.isfile(name) else model_folder(name))
    return os.fspath(path.parent), {"gguf_file": path.name}


def check_tokenizers(student: Any, teacher: Any) -> None:
    """Raises TargetsError unless both tokenizers have the same tokens with the same numbers, which
    their models read; how they make tokens of a text may differ."""
    own, other = vocabulary_of(student), vocabulary_of(teacher)
    check_vocabulary(own, other)
    if more := sorted(other.keys() - own.keys(), key=lambda token: other[token]):
        raise TargetsError(
            f"the teacher's tokenizer has {len(more)} tokens that the student's lacks, the first "
            f"is {one_line(repr(more[0]), 40)}: train both models with one tokenizer"
        )


def cut_layers(teacher: Any, layers: Sequence[int], embeddings: Embeddings = "trained") -> Any:
    """A student that begins as some of its teacher's layers.

    Args:
        teacher: a causal language model of transformers.
        layers: which of its layers, such as ``[0, 4, 8]``, in this order.
        embeddings: ``trained``; ``frozen``, a copy that is not trained; ``shared``, the teacher's
            own, frozen, which takes no memory. A head that is the embeddings goes with them.

    Raises:
        ModelError: the teacher's layers are not found, or one of them would be another one at its
            new place.
        SettingError: there is no such layer.
    """
    check_types(embeddings=(embeddings, Embeddings))
    depth = teacher.config.num_hidden_layers
    if not layers or not all(type(each) is int and 0 <= each < depth for each in layers):
        raise SettingError(f"layers are {list(layers)}: give some of 0 .. {depth - 1}")
    lists = [
        name for name, module in teacher.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]  # fmt: skip
    if len(lists) != 1:
        raise ModelError(f"{type(teacher).__name__} has no one list of {depth} layers to cut")
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    for name, value in vars(config).items():  # one entry a layer, such as layer_types
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, [value[each] for each in layers])
    with torch.random.fork_rng(devices=[]):
        student = type(teacher)(config).to(next(teacher.parameters()).dtype)
    places = {f"{lists[0]}.{new}.": f"{lists[0]}.{old}." for new, old in enumerate(layers)}
    _fill(student, teacher, places)
    if embeddings == "shared":
        student.set_input_embeddings(teacher.get_input_embeddings())
        student.tie_weights()
    if embeddings != "trained":
        student.get_input_embeddings().requires_grad_(False)
    return student.train(teacher.training)


def _fill(student: nn.Module, teacher: nn.Module, places: Mapping[str, str]) -> None:
    """Give ``student`` the tensors of its ``teacher``, whose names begin in another way (values of
    ``places``) where they are of a layer (its keys). Raises ModelError where a layer has other
    tensors at its new place, or other settings, which it would have again where it is loaded."""

    def there(name: str) -> str:
        new = next((each for each in places if name.startswith(each)), "")
        return places.get(new, "") + name.removeprefix(new)

    kind = type(teacher).__name__
    tensors = dict(teacher.named_buffers(remove_duplicate=False)) | teacher.state_dict()
    try:
        student.load_state_dict({name: tensors[there(name)] for name in student.state_dict()})
    except (KeyError, RuntimeError):
        raise ModelError(
            f"the layers of {kind} differ by their place (dense ones and mixtures of experts, "
            "perhaps), so that some would not have their own weights: choose others"
        ) from None
    for name, buffer in student.named_buffers(remove_duplicate=False):
        if there(name) in tensors:  # in its own precision: `to` rounds those that are not saved
            owner, _, own = name.rpartition(".")
            setattr(
                student.get_submodule(owner), own, tensors[there(name)].to(buffer.device, copy=True)
            )
    modules = dict(teacher.named_modules())
    for name, module in student.named_modules():
        before = modules.get(there(name))
        if before is None or there(name) == name or type(module).__module__.startswith("torch."):
            continue
        own, old = _settings(module), _settings(before)
        other = sorted(each for each in own if own[each] != old.get(each))
        if other:
            raise ModelError(
                f"{there(name)} of {kind} has {other[0]} = {one_line(old.get(other[0]), 40)}, and "
                f"at its new place {one_line(own[other[0]], 40)}, which depends on the number of "
                "the layer: choose layers that keep theirs (0, 1, ...)"
            )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module of transformers, without the number of its layer."""
    kinds = bool | int | float | str | None
    left_out = _OF_MODULES | {"layer_idx", "layer_id"}
    return {
        name: value for name, value in vars(module).items()
        if isinstance(value, kinds) and name not in left_out
    }  # fmt: skip


@final
class CausalModel:
    """A causal language model in two parts: its last hidden states, and the logits of some of them
    in float32 (float64 where the weights are), of the tokenizer's tokens alone.

    Args:
        model: of transformers, with ``base_model`` and output embeddings. It gets no attention
            mask: documents that share a row are kept apart by their positions.
        vocabulary: tokens of the tokenizer; a head that is padded beyond is cut to them.

    Raises:
        ModelError: the model has no such parts, fewer outputs than tokens, does more to its logits
            than its head, or mixes documents of one row.
    """

    def __init__(self, model: nn.Module, vocabulary: int):
        kind = type(model).__name__
        # Of an adapter (PEFT): the model that it changes.
        inner: Any = getattr(model, "get_base_model", lambda: model)()
        base = getattr(inner, "base_model", None)
        head = getattr(inner, "get_output_embeddings", lambda: None)()
        if isinstance(head, nn.Module) and not isinstance(head, nn.Linear):
            raise ModelError(
                f"{kind} needs a linear head, and its head is a {type(head).__name__} of "
                f"{type(head).__module__}: an adapter of the head has to be left out "
                "(target_modules, modules_to_save)"
            )
        if not isinstance(base, nn.Module) or base is inner or not isinstance(head, nn.Linear):
            raise ModelError(
                f"{kind} is not a causal language model of transformers: a base_model and a linear "
                "head (get_output_embeddings) are needed"
            )
        if head.out_features < vocabulary:
            raise ModelError(
                f"{kind} has {head.out_features} outputs, and the tokenizer {vocabulary} tokens: "
                "give the model's own tokenizer, or resize_token_embeddings"
            )
        taken = inspect.signature(base.forward).parameters
        if not {*_INPUTS, "use_cache"} <= taken.keys():
            raise ModelError(f"{kind} takes no position_ids, by which documents are kept apart")
        self.model, self.vocabulary = model, vocabulary
        self._base, self.head = base, head
        """The linear layer after the last hidden state."""
        self._options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(inner.forward).parameters:
            self._options["logits_to_keep"] = 1
        self._check()

    def states(
        self, data: Mapping[str, Tensor], forward: Callable[[dict[str, Any]], Any] | None = None
    ) -> Tensor:
        """The last hidden states (rows, width) that predict the rows of a batch of a corpus: those
        before ``labels != -100``, in their order. ``forward`` runs the complete model by its
        inputs, wrapped as it may be (DDP, autocast); its logits, of one position, are not used."""
        return self._hidden(data, forward)[:, :-1][data["labels"][:, 1:] != IGNORED]

    def exact_states(self, data: Mapping[str, Tensor]) -> Tensor:
        """:meth:`states` without gradients, in float32: the final norm reads what the last layer
        gives and rounds nothing to 16 bits, even under autocast. Raises ModelError: the model is
        of 16 bits, or runs so, and its final norm is not found."""
        if self._dtype == torch.float64:
            return self.states(data)
        norms = [m for m in self._base.children() if "norm" in type(m).__name__.lower()]
        if not norms:
            if self._dtype == torch.float32 and not torch.is_autocast_enabled(self._device.type):
                return self.states(data)
            raise ModelError(
                f"the final norm of {type(self.model).__name__} is not found, which has to run in "
                "float32: load the teacher with dtype=torch.float32, and run it in fp32"
            )
        taken: list[Tensor] = []
        hook = norms[-1].register_forward_pre_hook(lambda module, given: taken.append(given[0]))
        try:
            self._hidden(data)
        finally:
            hook.remove()
        norm = norms[-1]
        if self._dtype != torch.float32:
            norm = copy.deepcopy(norm).float()
        before = taken[-1][:, :-1][data["labels"][:, 1:] != IGNORED]
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return norm(before.float())

    @property
    def _dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def _device(self) -> torch.device:
        return self.head.weight.device

    def labels(self, data: Mapping[str, Tensor]) -> Tensor:
        """int64 (rows,), the tokens that are learned, as of :meth:`states`."""
        labels = data["labels"][:, 1:]
        return labels[labels != IGNORED]

    def logits(self, states: Tensor) -> Tensor:
        """Of ``states`` (rows, width): (rows, vocabulary)."""
        return project(states, *self.weights())

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """The head's weight and bias as the model has them, for :func:`project`."""
        bias = self.head.bias
        return self.head.weight[: self.vocabulary], None if bias is None else bias[
            : self.vocabulary
        ]

    def check(self, corpus: Corpus, tokenizer: Any = None) -> None:
        """Raises TargetsError where ``tokenizer``, the model's own, has other tokens than the
        corpus's; ModelError where a block has more tokens than the model positions. Without a
        ``tokenizer`` the one that lies where the model was loaded from is compared, and another
        one is a FrugalKDWarning: the model may have been changed since."""
        most = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if most is not None and corpus.longest > most:
            raise ModelError(
                f"the model has {most} positions, and a block of {corpus.folder} "
                f"{corpus.longest} tokens: tokenise with length at most {most}"
            )
        if tokenizer is not None:
            if not same_vocabulary(tokenizer, corpus):
                raise TargetsError(
                    f"the model's tokenizer has another vocabulary than {corpus.folder}: tokenise "
                    "with it, or train both models with one tokenizer"
                )
            return
        origin = str(getattr(getattr(self.model, "config", None), "_name_or_path", ""))
        beside = tokenizer_at(origin, download=False)
        if beside is not None and not same_vocabulary(beside, corpus):
            warnings.warn(
                f"the tokenizer of {origin}, from which the model was loaded, has another "
                f"vocabulary than {corpus.folder}: tokenise with it, unless the model was changed "
                "for these tokens",
                FrugalKDWarning,
                stacklevel=2,
            )

    def _hidden(
        self, data: Mapping[str, Tensor], forward: Callable[[dict[str, Any]], Any] | None = None
    ) -> Tensor:
        inputs = {name: data[name] for name in _INPUTS}
        if forward is None:
            return self._base(**inputs, use_cache=False).last_hidden_state
        taken: list[Tensor] = []
        hook = self._base.register_forward_hook(
            lambda module, given, output: taken.append(output.last_hidden_state)
        )
        try:
            forward({**inputs, **self._options})
        finally:
            hook.remove()
        return taken[-1]

    def _check(self) -> None:
        """Raises ModelError where the two parts are not the model, or documents are mixed."""
        kind, device = type(self.model).__name__, device_of(self.model)
        # Two rows: flash attention respects positions in a batch of one alone.
        ids = (torch.arange(4 * _PROBED, device=device) * 7919 % self.vocabulary).reshape(2, -1)
        apart = torch.arange(_PROBED, device=device).repeat(2, 2)
        inputs = {"input_ids": ids, "position_ids": apart}
        with inference_mode(self.model):
            enlarge = self._base.register_forward_hook(_enlarged)
            try:
                # Not the forward that a trainer has put before it, which may run in 16 bits.
                own = partial(type(self.model).forward, self.model)
                whole = call(own, {**inputs, "use_cache": False})
                states = self._hidden(inputs)
            finally:
                enlarge.remove()
            ours = self.logits(states)
            if not _near(ours, whole[..., : self.vocabulary]):
                raise ModelError(
                    f"{kind} does more to its logits than its head, such as a scale or a cap, "
                    "which is not supported"
                )
            second = {"input_ids": ids[:, _PROBED:], "position_ids": apart[:, _PROBED:]}
            alone = self.logits(self._hidden(second) * _LARGE)
            if not _near(ours[:, _PROBED:], alone.to(whole.dtype)):
                raise ModelError(
                    f"{kind} mixes documents of one row, since positions do not keep them apart: "
                    "load it with attn_implementation='sdpa'"
                )


def same_vocabulary(tokenizer: Any, corpus: Corpus) -> bool:
    """Whether ``tokenizer`` has the tokens of the one that ``corpus`` was made with."""
    return tokenizer_digest(tokenizer)["vocabulary"] == corpus.about.get("vocabulary")


def tokenizer_at(name: str, *, download: bool = True) -> Any:
    """As :func:`load_tokenizer`; None where there is a model alone."""
    folder = Path(model_folder(name)) if name else None
    if folder is None or (folder.is_dir() and not any(folder.glob("tokenizer*"))):
        return None
    try:
        return load_tokenizer(name, download=download)
    except ModelError:
        return None


def rows_at_once(outputs: int, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """How many rows have their logits in memory at a time. On a CPU as many as fill 24 MiB: larger
    tensors get fresh memory from the system each time, which takes as long as the head's
    products."""
    if device.type != "cpu":
        return 256
    return max(1, min(256, 24 * 2**20 // (dtype.itemsize * outputs)))


def project(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits (rows, outputs) in float32, or in float64 where the weights are."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(
            states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )


def _enlarged(module: nn.Module, inputs: Any, output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state * _LARGE
    return output


def _near(one: Tensor, other: Tensor) -> bool:
    """Up to the rounding of the type that ``other``, the model's own, is of."""
    exact = other.dtype in (torch.float32, torch.float64)
    other = other.to(one.dtype)
    return bool((one - other).abs().max() <= (1e-3 if exact else 0.03) * other.abs().max() + 1e-6)
