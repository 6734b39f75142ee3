"""Recipes from YAML: by name or path, with overrides, and errors of one line that name the field.

Listing and printing recipes does not import torch; validating one does (its registries need it).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from frugalkd.errors import (
    AccessRefused,
    FrugalKDError,
    ImportRefused,
    RecipeError,
    UnknownName,
    few,
    nearest,
    refuse_schema,
)
from frugalkd.files import StrPath
from frugalkd.files.parsing import read_bounded
from frugalkd.runtime.settings import shown

if TYPE_CHECKING:
    from frugalkd.experiments.recipes.schema import Recipe
    from frugalkd.models.building import ModelSettings
    from frugalkd.runtime.sections import NamedOrPath

SCHEMA = 1
"""A recipe without the key ``schema`` is of this one."""

LARGEST = 1 << 17
"""Bytes of a recipe's file: PyYAML takes up to a kilobyte for every other one."""

MOST_VALUES = 100_000
_SHIPPED = Path(__file__).parent
_NAMED = ("name", "path")
_OWN_SETTINGS = ("policy", "objective")
"""Sections in which all settings belong to the name."""


def recipe_names() -> list[str]:
    """The shipped recipes, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, or of a file. Raises UnknownName, RecipeError."""
    path = _SHIPPED / f"{name}.yaml" if name in recipe_names() else Path(name)
    if path.is_dir():
        raise RecipeError(
            f"{name} is a folder: a recipe is a YAML file, or the name of a shipped one"
        )
    beside = [str(file) for file in path.parent.glob("*.yaml")]
    if not path.suffix and len(path.parts) == 1 and not path.exists():
        raise UnknownName("recipe", name, [*recipe_names(), *beside])
    try:
        return read_bounded(path, LARGEST).decode("utf-8")
    except OSError as error:
        hint = nearest(name, beside) if beside else "write one from 'frugalkd recipes show digits'"
        raise RecipeError(f"cannot read recipe {name}: {error.strerror}; {hint}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{name} is not a recipe: it is not UTF-8 text") from None
    except ValueError as error:
        raise RecipeError(f"{name} is not a recipe: {error}") from None


def load_recipe(name_or_path: StrPath, overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe: a shipped name or a YAML file, with ``section.key=value`` overrides.
    Raises UnknownName, RecipeError: one line that names the field and the nearest allowed names."""
    name_or_path = os.fspath(name_or_path)
    raw = load_yaml(recipe_text(name_or_path), name_or_path)
    if not isinstance(raw, dict):
        raise RecipeError(f"{name_or_path} is not a recipe: it holds no 'key: value' lines")
    again = "write it again from 'frugalkd recipes show digits'"
    refuse_schema(raw.pop("schema", SCHEMA), SCHEMA, f"recipe {name_or_path}", RecipeError, again)
    recipe = _validated(raw, f"recipe {name_or_path}: ")
    settings = dict(parse(setting) for setting in overrides)
    return override(recipe, settings) if settings else recipe


def override(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A copy of ``recipe`` with ``settings``, dotted key -> value; a mapping replaces a section.

    A new ``name`` (or ``path``) of a policy, an objective or a model starts from its own defaults,
    without the settings of the old one. Raises RecipeError.
    """
    raw = recipe.model_dump(mode="json")
    for key in sorted(settings, key=lambda key: key.rpartition(".")[2] not in _NAMED):
        _write(raw, key, settings[key])  # names first: the other settings belong to the new name
    return _validated(raw, "")


def check_names(recipe: Recipe) -> None:
    """Raises RecipeError, which names the field, for what the schema alone cannot find: unknown
    models and data sets, options that they do not take, malformed import paths. Imports nothing."""
    from frugalkd.data import DATA, check_data
    from frugalkd.language.named import CAUSAL_MODELS, CORPORA
    from frugalkd.models import check_model_name

    for role in ("teacher", "student"):
        said = getattr(recipe, role)
        for part in ("objective", "policy"):
            for path in getattr(getattr(said, part), "imports", ()):
                _check_path(f"{role}.{part}", path)
        for part in ("optimizer", "schedule"):
            if path := getattr(said.training, part).path:
                _check_path(f"{role}.training.{part}", path)
    _check_spec("data", recipe.data, partial(check_data, known=DATA | CORPORA))
    for field, model in _models(recipe):
        _check_spec(field, model, partial(check_model_name, more=CAUSAL_MODELS))


def check_variants(recipe: Recipe, arms: Collection[str]) -> None:
    """:func:`check_names` for the recipe's teachers, and for those of its own arms that ``arms``
    names. Raises RecipeError, which names the teacher or the arm, and the field."""
    variants = {f"teachers.{name}": settings for name, settings in recipe.teachers.items()}
    variants |= {f"arms.{name}.set": recipe.arms[name].set for name in recipe.arms if name in arms}
    for where, settings in variants.items():
        try:
            check_names(override(recipe, settings))
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None


def import_paths(recipe: Recipe) -> list[str]:
    """The import paths that ``recipe`` names, its teachers and arms included, in order."""
    variants = _variants(recipe)
    specs = [spec for one in variants for spec in (one.data, *dict(_models(one)).values())]
    paths = [spec.path for spec in specs if spec.path is not None]
    for one in variants:
        for role in (one.teacher, one.student):
            policy = () if role.policy is None else role.policy.imports
            paths += [*role.objective.imports, *policy, *role.training.imports]
    return list(dict.fromkeys(paths))


def fetched_names(recipe: Recipe) -> list[str]:
    """What ``recipe``, its teachers and arms included, would fetch from a network: data sets,
    tokenizers and models on the Hugging Face hub, pretrained weights. Imported code may fetch more.
    """
    from frugalkd.language.named import fetched
    from frugalkd.models.initial import PRETRAINED

    found = []
    for one in _variants(recipe):
        found += fetched(one.data.name, one.data.options, one.data.root)
        for _, model in _models(one):
            if model.init_weights == PRETRAINED:
                found.append(f"the pretrained weights of {model.name}")
            found += fetched(model.name, model.options)
    return list(dict.fromkeys(found))


def refuse_imports(recipe: Recipe, *, download: bool = False) -> None:
    """For a recipe from elsewhere.

    Raises:
        ImportRefused: it names import paths; they are listed.
        AccessRefused: it names what would be fetched from a network, and ``download`` is off.
    """
    paths = import_paths(recipe)
    if paths:
        raise ImportRefused(
            f"recipe {recipe.name} would import {', '.join(paths)}, and --no-import refuses that"
        )
    names = [] if download else fetched_names(recipe)
    if names:
        raise AccessRefused(
            f"recipe {recipe.name} would fetch {', '.join(names)}, and --no-import refuses that: "
            "allow it with --download"
        )


def _variants(recipe: Recipe) -> list[Recipe]:
    """The recipe, and with what its teachers and arms set."""
    variants = [recipe]
    for settings in (*recipe.teachers.values(), *(arm.set for arm in recipe.arms.values())):
        with suppress(RecipeError):  # what cannot be made does nothing
            variants.append(override(recipe, settings))
    return variants


def _models(recipe: Recipe) -> list[tuple[str, ModelSettings]]:
    """The models that a recipe names, without its teachers and arms, with their fields."""
    several = recipe.student.teachers
    return [
        ("teacher.model", recipe.teacher.model),
        ("student.model", recipe.student.model),
        *(
            (f"student.teachers.of.{name}.model", one.model)
            for name, one in (several.of.items() if several is not None else ())
            if one.model is not None
        ),
    ]


def _check_spec(
    field: str, spec: NamedOrPath, check: Callable[[str, Collection[str]], None]
) -> None:
    """``check`` is the registry's own, of a name and its options."""
    if spec.path is not None:
        return _check_path(field, spec.path)
    try:
        check(spec.name or "", spec.options)
    except UnknownName as error:
        raise RecipeError(f"{field}.name: {error}") from None
    except FrugalKDError as error:
        raise RecipeError(f"{field}: {error}") from None


def _check_path(field: str, path: str) -> None:
    """Raises RecipeError where the import path ``path`` has another form."""
    module, colon, name = path.partition(":")
    if not colon or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise RecipeError(f"{field}.path is {path[:100]!r}: write package.module:Name")


def _validated(raw: dict[str, Any], where: str) -> Recipe:
    """``raw`` as a recipe; ``where`` stands in front of an error."""
    from pydantic import ValidationError

    from frugalkd.experiments.recipes.explain import explain
    from frugalkd.experiments.recipes.schema import Recipe

    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(f"{where}{explain(error, Recipe)}") from None
    if wrong := list(_no_numbers(raw, recipe.model_dump(mode="json"), "")):
        raise RecipeError(f"{where}{few(wrong, '; ')}")
    return recipe


def _no_numbers(raw: Any, made: Any, field: str) -> Iterator[str]:
    """An error for each value of ``raw`` that is not a number and is one in ``made``, the validated
    recipe: pydantic reads true as 1, and text. (Its strict mode refuses a list for a tuple.)"""
    if isinstance(raw, Mapping) and isinstance(made, Mapping):
        for key in raw:
            yield from _no_numbers(raw[key], made.get(key), f"{field}.{key}".strip("."))
    elif isinstance(raw, list | tuple) and isinstance(made, list):
        for place, (one, other) in enumerate(zip(raw, made, strict=False)):
            yield from _no_numbers(one, other, f"{field}.{place}")
    elif isinstance(raw, bool | str) and type(made) in (int, float):
        yield f"{field} is {shown(raw)}: it should be a number"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; it refuses duplicate keys and keys that are not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = getattr(key, "value", "?")
                raise RecipeError(f"line {line}: key {shown!r} is not text: write it in quotes")
            if key.value in first:
                raise RecipeError(
                    f"line {line}: {key.value!r} is given twice (first in line {first[key.value]})"
                )
            first[key.value] = line
        return super().construct_mapping(node, deep=deep)


# PyYAML reads 1e-3 as text, since YAML 1.1 requires a dot and a sign.
_FLOAT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, "+-0123456789")


def load_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; ``source`` names it in errors. Raises RecipeError: one line, with
    the line's number where there is one."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if _count(node, {}) > MOST_VALUES:
            raise RecipeError(
                f"not a recipe: more than {MOST_VALUES} values, aliases counted each time"
            )
        return None if node is None else loader.construct_document(node)
    except RecipeError as error:
        raise RecipeError(f"{source}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not YAML: {' '.join(str(error).split())}") from None


def _count(node: Any, known: dict[int, int]) -> int:
    """The values of a node; ``known`` holds the counts of earlier ones. A node that holds itself
    raises RecursionError."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        mapping = isinstance(node, yaml.MappingNode)
        inner = [value for _, value in node.value] if mapping else node.value
        known[id(node)] = 1 + sum(_count(each, known) for each in inner)
    return known[id(node)]


def parse(setting: str) -> tuple[str, Any]:
    """``"section.key=value"`` as (key, value); the value is YAML. Raises RecipeError."""
    key, equals, value = setting.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"--set {setting!r} is not section.key=value (for example student.training.epochs=5)"
        )
    return key, load_yaml(value, f"--set {key}")


def _write(raw: dict[str, Any], key: str, value: Any) -> None:
    parts = key.split(".")
    # Settings of an arm or of a teacher are dotted keys themselves.
    keep = 3 if parts[0] == "arms" and parts[2:3] == ["set"] else 2 if parts[0] == "teachers" else 0
    *above, last = [*parts[:keep], ".".join(parts[keep:])] if len(parts) > keep > 0 else parts
    section, name = raw, ""
    for depth, name in enumerate(above):
        inner = section.get(name)
        if inner is None:
            inner = section[name] = {}
        if not isinstance(inner, dict):
            where = ".".join(above[: depth + 1])
            raise RecipeError(f"{key}: {where} is a value ({inner!r}), not a section")
        section = inner
    if last in _NAMED and section.get(last) != value:  # drop the settings of the old name
        if name in _OWN_SETTINGS:
            section.clear()
        elif "options" in section:
            section.update(options={}, **dict.fromkeys(_NAMED))
    section[last] = copy.deepcopy(value)  # the caller's object is not shared
