"""No module but those of ``files/`` opens a path to write, removes one, or makes a folder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import frugalkd

SOURCE = Path(frugalkd.__file__).parent
WRITERS = {
    "os": {"open", "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "makedirs", "link",
           "symlink", "truncate", "mkfifo", "chmod", "utime"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree"},
    "tempfile": {"mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory"},
    "np": {"save", "savez", "savetxt", "memmap"},
    "torch": {"save"},
}  # fmt: skip
METHODS = {
    "write_text", "write_bytes", "unlink", "rmdir", "mkdir", "touch", "symlink_to", "hardlink_to",
    "save_file", "to_csv", "to_parquet", "write_table", "savefig", "tofile", "chmod",
}  # fmt: skip
ALLOWED = {
    "cli/__init__.py: os.open(os.devnull, os.O_WRONLY)": "the null device",
    "distributed/launch.py: open(os.devnull, 'w')": "the null device",
    "language/corpus.py: "
    "np.memmap(file, dtype=kind, mode='r+' if write else 'r', shape=(count,))":
        "a descriptor that files/ opened",
    "ledger/audit.py: open(file, 'w', newline='', encoding='utf-8', closefd=False)":
        "a descriptor that files/ opened",
    "ledger/ledger.py: open(file, 'w', newline='', encoding='utf-8', closefd=False)":
        "a descriptor that files/ opened",
    "ledger/ledger.py: open(file, 'wb', closefd=False)": "a descriptor that files/ opened",
    "ledger/ledger.py: pyarrow.parquet.write_table(pyarrow.table(table), content)": "into that one",
    "experiments/report/paper.py: "
    "composed(panels).savefig(file, format=kind, metadata=_UNDATED[kind])":
        "into memory",
    "models/export.py: tempfile.TemporaryDirectory(prefix='frugalkd-')":
        "a new, private folder of the system's, for onnxruntime's quantiser, which takes paths",
    "models/export.py: Path(place, 'float.onnx').write_bytes(onnx_file)": "into that one",
    "models/hub.py: tempfile.TemporaryDirectory(prefix='frugalkd-')":
        "a new, private folder of the system's, for what is pushed",
    "teachers/stored.py: tempfile.TemporaryDirectory(prefix='frugalkd-')":
        "a new, private folder of the system's",
}  # fmt: skip
"""Calls that may stay, each with the reason."""


def writes(call: ast.Call) -> bool:
    match call.func:
        case ast.Name("open"):
            mode = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
            return any(_changes(each) for each in mode)
        case ast.Name(name):
            return name in METHODS
        case ast.Attribute(ast.Name(module), name) if module in WRITERS:
            return name in WRITERS[module]
        case ast.Attribute(_, "open"):  # a path's; others have no mode
            return any(_changes(each) for each in call.args if isinstance(each, ast.Constant))
        case ast.Attribute(_, name):
            return name in METHODS
    return False


def _changes(mode: ast.expr) -> bool:
    """Whether a mode is one to write with, or not known."""
    if isinstance(mode, ast.Constant):
        return isinstance(mode.value, str) and bool(set(mode.value) & set("wax+"))
    return isinstance(mode, ast.Name)


def found(source: str, where: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"{where}: {ast.unparse(call)}" for call in calls if writes(call)]


def test_files_alone_write():
    calls = [
        call
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "files"
        for call in found(path.read_text(), str(path.relative_to(SOURCE)))
    ]
    assert sorted(calls) == sorted(ALLOWED)


def test_within_files_one_module_opens_paths():
    calls = [
        call
        for path in sorted((SOURCE / "files").glob("*.py"))
        if path.name != "opening.py"
        for call in found(path.read_text(), path.name)
    ]
    assert sorted(calls) == [
        "arrays.py: np.memmap(file, dtype=dtype, mode='r+', shape=(samples,))",
        "parsing.py: os.open(path, flags | os.O_NONBLOCK)",
        "writing.py: os.open('.', os.O_RDONLY, dir_fd=folder)",
        "writing.py: os.replace(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)",
        "writing.py: os.unlink(aside, dir_fd=folder)",
    ]


@pytest.mark.parametrize(
    "call",
    ["open(p, 'w')", "open(p, mode='ab')", "open(p, how)", "p.open('x')", "p.write_text('')",
     "p.unlink()", "os.replace(p, q)", "shutil.rmtree(p)", "tempfile.mkstemp()",
     "save_file(x, p)", "np.memmap(p)", "p.parent.mkdir()", "frame.to_csv(p)"],
)  # fmt: skip
def test_what_is_found(call):
    assert found(call, "x") == [f"x: {call}"]


@pytest.mark.parametrize(
    "call", ["open(p)", "open(p, 'rb')", "p.open()", "p.read_text()", "x.write(b)"]
)
def test_what_is_not(call):
    assert found(call, "x") == []
