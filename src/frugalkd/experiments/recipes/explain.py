"""A pydantic error as one line: the field in dotted form, and the nearest allowed names."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from frugalkd.errors import nearest
from frugalkd.files.parsing import one_line
from frugalkd.runtime.settings import shown

_MOST_ERRORS = 10
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NO_SECTION = ("model_type", "dataclass_type", "dict_type", "union_tag_not_found")
_NAMED = ("data", "model", "objective", "optimizer", "policy")
"""Sections with a name, which a recipe may have in place of the section."""

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
    "random-counts": "permuted",
    "reuses": "reuse_classifier_dim",
    "sees": "input_transform",
    "shard": "fsdp",
    "start": "init_weights",
    "wake": "all",
    "warmup_steps": "warmup",
    "when_all_sleep": "when_all_skipped",
}
"""Keys and values of earlier recipes, and their names now."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All errors of a ``model``, in one line; of many errors the first ones, and how many more
    there are. Misspelt keys come first, since they often leave another key missing."""
    errors = sorted(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
    lines = list(dict.fromkeys(_line(each, model) for each in errors))
    if (more := len(lines) - _MOST_ERRORS) > 0:
        lines[_MOST_ERRORS:] = [f"and {more} more"]
    return one_line("; ".join(lines), most=2000)


def _line(error: Any, model: type[BaseModel]) -> str:
    keys, section, inside = _walk(error["loc"], model)
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
        said = value if isinstance(value, str) else shown(value)
        hint = f"it is now {RENAMED[said]}" if RENAMED.get(said) in known else nearest(said, known)
        return f"{field} is {shown(value)}: {hint}"
    if kind == "union_tag_not_found" and isinstance(value, Mapping):
        return f"{field}.name is missing: known are {', '.join(sorted(_members(inside)))}"
    if kind == "value_error":
        return _of_section(field, str(context["error"]), inside)
    if kind in _NO_SECTION:
        if isinstance(value, str) and keys[-1] in _NAMED:
            return f"{field} is {shown(value)}: it is a section, set {field}.name to a name"
        return f"{field} is {shown(value)}: it is a section, write its keys below it"
    message = error["msg"].removeprefix("Input should be ").partition(", unable to parse")[0]
    return f"{field} is {shown(value)}: it should be {message}"


def _nearest(keys: list[str], section: Any, model: type[BaseModel]) -> str:
    """The new name of the last of ``keys``; or where ``section``, or else the recipe, has it
    further below; or the nearest names of the section."""
    *above, key = keys
    if (new := RENAMED.get(key)) in _fields(section):
        return f"it is now {'.'.join([*above, str(new)])}"
    found = [(*above, *path) for path in paths_of(section) if path[-1] == key]
    found = found or [path for path in paths_of(model) if path[-1] == key]
    close = [".".join(path) for path in found]
    return f"did you mean {' or '.join(close[:3])}?" if close else nearest(key, _fields(section))


def paths_of(kind: Any) -> Iterator[tuple[str, ...]]:
    """The paths of all settings below ``kind``, without those of a registry's members."""
    for name, inner in _fields(kind).items():
        yield (name,)
        for path in paths_of(inner):
            yield (name, *path)


def _of_section(field: str, message: str, section: Any) -> str:
    """The error that a section itself raised; a key that it begins with in dotted form."""
    first, _, rest = message.partition(" ")
    key = first.rpartition(".")[2]
    if key in _fields(section) and rest.startswith("must"):
        return f"{field}.{key} {rest}" if field else message
    return f"{field}: {message}" if field else message


def _walk(loc: tuple[int | str, ...], model: Any) -> tuple[list[str], Any, Any]:
    """The keys of ``loc`` without a union's tags, the section of the last of them, and the type
    of its value."""
    keys: list[str] = []
    section, here = model, model
    for step in loc:
        if step in (members := _members(here)):
            here = members[step]
        else:
            keys.append(str(step))
            section, here = here, _inside(here, step)
    return keys, section, here


def _plain(kind: Any) -> Any:
    """A type without Annotated and without ``| None``."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        some = [arg for arg in get_args(kind) if arg is not type(None)]
        return _plain(some[0]) if len(some) == 1 else kind
    return kind


def _members(kind: Any) -> dict[Any, Any]:
    """The members of a union with tags, by these; none for any other type."""
    kind = _plain(kind)
    if get_origin(kind) not in (Union, types.UnionType):
        return {}
    tagged = [one for one in get_args(kind) if get_origin(one) is Annotated]
    return {one.__metadata__[0].tag: get_args(one)[0] for one in tagged}


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
    """The type of ``step`` in a section or a container."""
    if step in (fields := _fields(kind)):
        return fields[str(step)]
    kind = _plain(kind)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is tuple and isinstance(step, int) else Any
