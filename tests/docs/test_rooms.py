"""What import-linter cannot express of the rooms of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import frugalkd

ROOT = Path(frugalkd.__file__).parent


def imported(path):
    """The modules and names that a file imports, with dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_imports(path):
    """Of these, what has a part with a leading underscore outside the file's own package."""
    own = ".".join(("frugalkd", *path.relative_to(ROOT).parent.parts))
    for name in imported(path):
        package, dot, private = name.partition("._")
        if name.startswith("frugalkd.") and dot and not private.startswith("_") and package != own:
            yield f"{path.relative_to(ROOT)}: {name}"


def test_no_module_imports_anothers_underscore_module():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    assert [found for path in files for found in private_imports(path)] == []


def test_a_private_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_rooms.ROOT", tmp_path)
    (tmp_path / "cli").mkdir()
    path = tmp_path / "cli" / "x.py"
    path.write_text("from frugalkd.cli._own import a\nimport frugalkd.selection._epoch\n")
    assert list(private_imports(path)) == ["cli/x.py: frugalkd.selection._epoch"]
