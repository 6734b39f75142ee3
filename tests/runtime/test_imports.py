from __future__ import annotations

import sys

import pytest

from frugalkd.errors import DataError, ModelError
from frugalkd.runtime.imports import check_options, import_object, make_object


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current directory; what the test imports is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(path: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_object(path)
    assert "\n" not in str(caught.value)


def test_finds_objects():
    assert import_object("frugalkd.errors:ModelError") is ModelError
    assert import_object("frugalkd.errors:ModelError.__init__") is ModelError.__init__


def test_finds_scripts_and_packages_of_the_user(folder):
    (folder / "my_models.py").write_text("class Net:\n    size = 3\n")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "inner.py").write_text("from my_models import Net\n")
    assert import_object("my_models:Net.size") == 3
    assert import_object("my_package.inner:Net") is import_object("my_models:Net")
    assert sys.path.count(str(folder)) == 1


def test_the_current_directory_hides_nothing_installed(folder):
    (folder / "frugalkd.py").write_text("ModelError = None\n")
    (folder / "hypothesis.py").write_text("given = None\n")
    assert import_object("hypothesis:given") is not None
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize(
    "path", ["", "frugalkd", "frugalkd.errors", ":Net", "a:", "a:b:c", "a b:c", "../a:b", "a.:b"]
)
def test_other_forms(path):
    refused(path, r"is not an import path: write package\.module:Name")


def test_no_such_module():
    refused("no_such_thing:Net", "no module 'no_such_thing': install it, or run in")
    refused("frugalkd.no_such_thing:Net", "no module 'frugalkd.no_such_thing'")


def test_no_such_name(folder):
    refused("frugalkd.errors:ModelErrors", "frugalkd.errors has no 'ModelErrors': did you mean Mod")
    refused("frugalkd.errors:ModelError.abc", "frugalkd.errors.ModelError has no 'abc': known are")
    (folder / "empty_module.py").write_text("")
    refused("empty_module:Net", "it defines no name")


def test_modules_that_fail(folder):
    (folder / "needs.py").write_text("import no_such_thing\n")
    refused("needs:Net", "'needs' needs 'no_such_thing', which is not installed")
    (folder / "raises.py").write_text("raise ValueError('one\\ntwo')\n")
    refused("raises:Net", "importing 'raises' failed .ValueError: one two.$")
    (folder / "wrong.py").write_text("def (:\n")
    refused("wrong:Net", "importing 'wrong' failed .SyntaxError")


def example(root, width=3, *, depth=2): ...


def open_ended(root, **options): ...


def test_check_options():
    given = {"fixed": {"root"}, "what": "model 'm'", "error": DataError}
    check_options(example, {"width": 1, "depth": 2}, **given)
    check_options(open_ended, {"anything": 1}, **given)
    with pytest.raises(DataError, match="model 'm' takes no option 'widht': did you mean width"):
        check_options(example, {"widht": 1}, **given)
    with pytest.raises(DataError, match="no option 'root'"):
        check_options(example, {"root": 1}, **given)
    with pytest.raises(DataError, match="it takes none"):
        check_options(lambda root: None, {"x": 1}, **given)


def test_makes_objects_and_says_in_one_line_what_went_wrong(folder):
    (folder / "made.py").write_text(
        "SIZE = 3\n"
        "def pair(left, right=2):\n"
        "    if left < 0:\n"
        "        raise ValueError('too small\\nby far')\n"
        "    return left, right\n"
    )
    assert make_object("made:pair", {"left": 1}) == (1, 2)
    assert make_object("builtins:dict", {"any": 1}) == {"any": 1}
    for path, options, says in (
        ("made:pair", {"lft": 1}, "made:pair takes no option 'lft': did you mean left?"),
        ("made:pair", {"left": -1}, "made:pair failed with options {'left': -1} .ValueError: too"),
        ("made:pair", {}, "made:pair failed with options {} .TypeError: .* missing"),
        ("made:SIZE", {}, "made:SIZE is a int: name a class or a function"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            make_object(path, options)
        assert "\n" not in str(caught.value)
