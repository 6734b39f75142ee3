"""Generate docs/errors.md from the code: every error that a user can see, with its message.

Messages are extracted from the statements that raise them. Run-time values are in braces.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from frugalkd import errors

PACKAGE = Path(__file__).parents[1] / "src/frugalkd"

HEAD = """\
# Every error, and what to do

Generated from the code by `make pages`; do not edit it by hand.

Every expected failure raises a `frugalkd.FrugalKDError`: one line that says what is wrong, where,
and what to do. The command line prints it after `error: ` and exits with code 2 (`--debug` shows
the traceback). Python raises the classes below, all from `frugalkd.errors`. In the messages, names
in braces stand for values that are filled in; `{nearest}` stands for the nearest known names. Typer
reports a mistake in the command line itself (an unknown option, a missing argument), and its
message ends with the `--help` command to run.
"""
_CAUGHT = {
    "files/arrays.py",
    "files/parsing.py",
    "models/text.py",
    "experiments/runs/folder.py",
    "models/preprocess.py",
}
"""Modules whose ValueError is converted to another error before a user sees it."""
_OF_RECIPES = {
    "experiments/recipes/schema.py",
    "models/building.py",
    "runtime/sections.py",
}
"""Modules whose ValueError becomes a RecipeError that names the field (by way of pydantic)."""
_TRANSPARENT = {
    "str",
    "repr",
    "len",
    "few",
    "sorted",
    "tuple",
    "list",
    "float",
    "int",
    "min",
    "max",
}
"""Calls that are replaced by their argument in a message."""


@dataclass(frozen=True, order=True)
class Message:
    """One statement that can raise: the name of the error, the module, the text of the message."""

    error: str
    where: str
    text: str


class Module:
    """The functions of a module, nested ones too, and its imports from frugalkd."""

    def __init__(self, path: Path):
        self.where = path.relative_to(PACKAGE).as_posix()
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self.scopes = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        self.functions = {node.name: node for node in self.scopes}
        self.imported = {
            name.asname or name.name: node.module.removeprefix("frugalkd.").replace(".", "/")
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("frugalkd.")
            and node.module
            for name in node.names
        }  # fmt: skip


def messages() -> list[Message]:
    """All messages, sorted, without duplicates."""
    modules = {path.relative_to(PACKAGE).as_posix(): Module(path) for path in PACKAGE.rglob("*.py")}
    found = {
        Message(error, module.where, text)
        for module in modules.values()
        for function in module.scopes
        for error, text in _of_scope(function, module, modules)
        if _says_something(text)
    }
    return sorted(found)


def page() -> str:
    """The content of docs/errors.md."""
    by_error: dict[str, list[Message]] = {}
    for message in messages():
        by_error.setdefault(message.error, []).append(message)
    parts = [HEAD]
    for name in _classes():
        rows = [f"| `{m.where}` | {_cell(m.text)} |" for m in by_error.get(name, [])]
        table = "\n".join(["| from | message |", "|---|---|", *rows]) if rows else ""
        about = _about(getattr(errors, name))
        parts.append(f"## {name}\n\n{about}\n" + (f"\n{table}\n" if table else ""))
    return "\n".join(parts)


def _classes() -> list[str]:
    """The names of frugalkd's errors and warnings, in the order of the code."""
    return [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    ]


def _about(error: type[Exception]) -> str:
    above = error.__bases__[0]
    said = inspect.cleandoc(error.__doc__ or "")
    if above.__module__ == errors.__name__ and above is not errors.FrugalKDError:
        said = f"A kind of `{above.__name__}`.\n\n{said}"
    return said.replace("``", "`")


def _cell(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _says_something(text: str) -> bool:
    """Whether the text has a word outside of braces."""
    return len(re.findall(r"[a-z]{2,}", re.sub(r"\{[^}]*\}", "", text))) > 0


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The statements of a function without those of nested functions."""
    for node in ast.iter_child_nodes(scope):
        statement = isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)
        if statement and not isinstance(node, ast.FunctionDef):
            yield node
            yield from _inside(node)


def _of_scope(
    scope: ast.AST, module: Module, modules: dict[str, Module]
) -> Iterator[tuple[str, str]]:
    """The names and messages of errors that a function raises, warns with, or returns."""
    known = {*_classes(), "ValueError"}
    given = scope.args if isinstance(scope, ast.FunctionDef) else None
    arguments = {each.arg for each in (*given.args, *given.kwonlyargs)} if given else set()
    spared = {"ValueError"} if module.where in _CAUGHT else set()
    for node in _inside(scope):
        call = node.exc if isinstance(node, ast.Raise) else getattr(node, "value", None)
        if not isinstance(node, ast.Raise | ast.Return | ast.Expr):
            continue
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        if name == "require_extra":
            extra, needs, error = (_resolved(argument, scope)[0] for argument in call.args[:3])
            yield error.strip("{}"), f"{needs}: pip install 'frugalkd[{extra}]'"
        if isinstance(node, ast.Raise) and name in arguments:
            name = "FrugalKDError"  # the caller passes the class
        if name == "warnings.warn" and len(call.args) > 1:
            name = ast.unparse(call.args[1])
        if name in known - spared:
            if name == "ValueError" and module.where in _OF_RECIPES:
                name = "RecipeError"
            for text in _texts(call, name, scope, module, modules):
                yield name, " ".join(text.split())


def _texts(
    call: ast.Call, name: str, scope: ast.AST, module: Module, modules: dict[str, Module]
) -> list[str]:
    """The possible messages of the error that ``call`` creates."""
    if name == "UnknownName":
        return [f"unknown {_text(call.args[0])} {_text(call.args[1])}: {{nearest}}"]
    if name == "NonFiniteLoss":
        what = next(word.value for word in call.keywords if word.arg == "what")
        advice = [word.value for word in call.keywords if word.arg == "advice"]
        default = inspect.signature(errors.NonFiniteLoss).parameters["advice"].default
        whats = _resolved(what, scope)
        said = _resolved(advice[0], scope) if advice else [default] * len(whats)
        return [
            f"{each} is not finite at epoch {{epoch}}, step {{step}}, samples {{ids}}: {do}"
            for each, do in zip(whats, said, strict=True)
        ]
    message = call.args[1 if name in ("WriteFailed", "PathRefused") else 0] if call.args else None
    if message is None:
        return []
    texts = [text for text in _resolved(message, scope) if text != "None"]
    if any(_says_something(text) for text in texts):
        return texts
    return [text for made in _calls(message) for text in _made_by(made, module, modules)]


def _resolved(node: ast.AST, scope: ast.AST) -> list[str]:
    """The texts of an expression. For a local name: the texts of all values assigned to it."""
    if isinstance(node, ast.IfExp):
        return [*_resolved(node.body, scope), *_resolved(node.orelse, scope)]
    if not isinstance(node, ast.Name):
        return [_text(node)]
    texts = []
    for step in _inside(scope):
        if not isinstance(step, ast.Assign):
            continue
        for target, value in _pairs(step):
            if isinstance(target, ast.Name) and target.id == node.id:
                texts += _resolved(value, scope)
    return texts or [_text(node)]


def _pairs(step: ast.Assign) -> Iterator[tuple[ast.AST, ast.AST]]:
    for target in step.targets:
        if isinstance(target, ast.Tuple) and isinstance(step.value, ast.Tuple):
            yield from zip(target.elts, step.value.elts, strict=True)
        else:
            yield target, step.value


def _calls(message: ast.AST) -> list[str]:
    """The names of the functions that a message calls."""
    return [
        node.func.id
        for node in ast.walk(message)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def _made_by(function: str, module: Module, modules: dict[str, Module], deep: int = 4) -> list[str]:
    """The texts that a function of the package, or a function that it calls, returns."""
    if function in module.imported:
        module = modules.get(f"{module.imported[function]}.py", module)
    made = module.functions.get(function)
    if made is None or deep == 0:
        return []
    texts = []
    for node in _inside(made):
        value = node.value if isinstance(node, ast.Return | ast.Assign) else None
        if isinstance(node, ast.Return) and isinstance(value, ast.JoinedStr):
            texts.append(_text(value))
        if value is not None:
            for each in dict.fromkeys(_calls(value)):
                if each not in (function, "nearest"):
                    texts += _made_by(each, module, modules, deep - 1)
    return texts


def _text(node: ast.AST) -> str:
    """The text of an expression, with braces around values that are known only at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        if isinstance(node.value, ast.Constant):
            return str(node.value.value)
        if isinstance(node.value, ast.IfExp) and isinstance(node.value.body, ast.Constant):
            return ""  # a plural ending
        return "{" + _short(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return _text(node.body) or _text(node.orelse)
    return "{" + _short(node) + "}"


def _short(node: ast.AST) -> str:
    """A short name for the value of an expression."""
    match node:
        case ast.Name():
            return node.id.strip("_")
        case ast.Attribute(value=ast.Call(func=ast.Name(id="type"), args=[given]), attr="__name__"):
            return f"type of {_short(given)}"
        case ast.Attribute():
            inner = node.value
            plain = isinstance(inner, ast.Name) and inner.id in ("self", "error")
            return node.attr.strip("_") if plain else f"{_short(inner)}.{node.attr.strip('_')}"
        case ast.Call(func=ast.Name(id=name), args=[given, *_]) if name in _TRANSPARENT:
            return _short(given)
        case ast.Call(func=ast.Name(id="getattr")):
            return "value"
        case ast.Call(func=ast.Name(id=name)):
            return name.strip("_")
        case ast.Call(func=ast.Attribute(attr="join"), args=[given]):
            return _short(given)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="shlex" | "np" | "os")), args=[given]):
            return _short(given)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            return name.strip("_")
        case ast.Call(func=ast.Attribute(value=inner)):
            return _short(inner)
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            return f"{_short(left)}/{_short(right)}"
        case ast.BinOp(left=left) if len(ast.unparse(node)) > 24:
            return _short(left)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(key))):
            return f"{_short(inner)}.{key}"
        case ast.Subscript(value=inner) | ast.Starred(value=inner):
            return _short(inner)
        case ast.IfExp(body=body, orelse=other):
            return _short(other) if isinstance(body, ast.Constant) else _short(body)
        case ast.BoolOp(values=[first, *_]):
            return _short(first)
        case ast.GeneratorExp(elt=inner) | ast.ListComp(elt=inner):
            return _short(inner)
        case ast.JoinedStr() | ast.Constant():
            return _text(node).replace("{", "").replace("}", "")
        case ast.Set(elts=[first, *_]) | ast.List(elts=[first, *_]) | ast.Tuple(elts=[first, *_]):
            return _short(first)
    return ast.unparse(node)
