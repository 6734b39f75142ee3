"""A pydantic error as one line: the field in dotted form, and the nearest allowed names."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from frugalkd.errors import nearest
from frugalkd.files.parsing import one_line

_MOST_ERRORS = 10
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(error: ValidationError, raw: Any, model: type[BaseModel]) -> str:
    """All that is wrong with ``raw`` as a ``model``, in one line; of very many errors the first
    ones, and how many more there are."""
    errors = error.errors()
    # A misspelt key often leaves another one missing: the misspelling says more.
    errors.sort(key=lambda one: one["type"] not in _UNKNOWN)
    said = list(dict.fromkeys(_one(each, raw, model) for each in errors))
    more = len(said) - _MOST_ERRORS
    if more > 0:
        said[_MOST_ERRORS:] = [f"and {more} more"]
    return one_line("; ".join(said), most=2000)


RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "bucket": "length_bucket_batches",
    "clip": "max_grad_norm",
    "finale": "final_full_epochs",
    "judge": "label_source",
    "max_sleep": "max_skip",
    "pace": "budget_schedule",
    "passing": "keep_probability",
    "quota": "budget_rule",
    "reuses": "reuse_classifier_dim",
    "sees": "input_transform",
    "shard": "fsdp",
    "start": "init_weights",
    "when_all_sleep": "when_all_skipped",
}
"""Keys of earlier recipes, and what they are called now."""

_NAMED = ("data", "model", "objective", "optimizer", "policy")
"""Sections that have a name: who writes it in their place is told where it goes."""


def _one(error: Any, raw: Any, model: type[BaseModel]) -> str:
    keys, section, inside = _walk(error["loc"], raw, model, error["type"] in _UNKNOWN)
    field, context = ".".join(keys), error.get("ctx", {})
    kind, value = error["type"], error["input"]
    if kind in _UNKNOWN:
        return f"no such setting {field}: {_nearest(keys, section, model)}"
    if kind == "missing":
        return f"{field} is missing"
    if kind in ("literal_error", "union_tag_invalid"):
        known = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        if kind == "union_tag_invalid":
            field, value = f"{field}.name", context["tag"]
        return f"{field} is {_shown(value)}: {nearest(_text(value), known)}"
    if kind == "union_tag_not_found":
        known = [member.model_fields["name"].default for member in _members(inside)]
        return f"{field}.name is missing: known are {', '.join(sorted(known))}"
    if kind == "value_error":
        return _of_section(field, str(context["error"]), inside)
    if kind in ("model_type", "model_attributes_type", "dataclass_type", "dict_type"):
        if isinstance(value, str) and keys[-1] in _NAMED:
            return f"{field} is {_shown(value)}: it is a section, set {field}.name to a name"
        return f"{field} is {_shown(value)}: it is a section, write its keys below it"
    message = error["msg"].removeprefix("Input should be ").partition(", unable to parse")[0]
    return f"{field} is {_shown(value)}: it should be {message}"


def _nearest(keys: list[str], section: Any, model: type[BaseModel]) -> str:
    """Where the last of ``keys``, which ``section`` does not have, is a setting: below the section,
    or anywhere in the recipe; else the nearest names of the section."""
    *above, key = keys
    if (new := RENAMED.get(key)) in _fields(section):
        return f"it is now {'.'.join([*above, str(new)])}"
    below = [(*above, *path) for path in paths_of(section) if path[-1] == key]
    found = below or [path for path in paths_of(model) if path[-1] == key]
    close = [".".join(path) for path in found]
    return f"did you mean {' or '.join(close[:3])}?" if close else nearest(key, _fields(section))


def paths_of(kind: Any) -> Iterator[tuple[str, ...]]:
    """Of all settings below ``kind``, but those of what stands in a recipe by name."""
    for name, inner in _fields(kind).items():
        yield (name,)
        for path in paths_of(inner):
            yield (name, *path)


def _of_section(field: str, message: str, section: Any) -> str:
    """A section's own complaint; where it starts with a key of the section, the key in full."""
    first, _, rest = message.partition(" ")
    key = first.rpartition(".")[2]
    if key in _fields(section) and rest.startswith("must"):
        return f"{field}.{key} {rest}" if field else message
    return f"{field}: {message}" if field else message


def _text(value: Any, form: Callable[[Any], str] = str) -> str:
    try:
        return form(value)
    except ValueError:  # more digits than Python writes
        return "a number of very many digits"


def _shown(value: Any) -> str:
    text = _text(value, repr)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _walk(
    loc: tuple[int | str, ...], raw: Any, model: Any, last_is_a_key: bool
) -> tuple[list[str], Any, Any]:
    """The keys of ``loc`` without a union's tags, the section that holds the last of them, and
    what stands there."""
    keys: list[str] = []
    section, here, value = model, model, raw
    for place, step in enumerate(loc):
        is_last = place == len(loc) - 1
        union = _members(here)
        if union and isinstance(value, Mapping) and value.get("name") == step:
            tagged = [m for m in union if m.model_fields["name"].default == step]
            if tagged and not (is_last and last_is_a_key and step in value):
                here = tagged[0]
                continue
        keys.append(str(step))
        section, here = here, _inside(here, step)
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            value = None
    return keys, section, here


def _plain(kind: Any) -> Any:
    """A type without Annotated and without ``| None``."""
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in (Union, types.UnionType):
            some = [arg for arg in get_args(kind) if arg is not type(None)]
            if len(some) != 1:
                return kind
            kind = some[0]
        else:
            return kind


def _members(kind: Any) -> list[type[BaseModel]]:
    """The members of a union over a registry; none for any other type."""
    kind = _plain(kind)
    if get_origin(kind) not in (Union, types.UnionType):
        return []
    members = [arg for arg in get_args(kind) if isinstance(arg, type)]
    return [arg for arg in members if issubclass(arg, BaseModel) and "name" in arg.model_fields]


def _fields(kind: Any) -> dict[str, Any]:
    """The keys that a section allows, and their types."""
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}


def _inside(kind: Any, step: int | str) -> Any:
    """The type below ``step``."""
    fields = _fields(kind)
    if step in fields:
        return fields[str(step)]
    kind = _plain(kind)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if get_origin(kind) is tuple and isinstance(step, int):
        return get_args(kind)[0]
    return Any
