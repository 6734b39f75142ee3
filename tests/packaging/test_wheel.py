"""The wheel that users install: small, typed, and complete without this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
import frugalkd
from frugalkd.cli import main
assert Path(frugalkd.__file__).is_relative_to(sys.prefix), frugalkd.__file__
assert main(["recipes", "show", "digits"]) == 0
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(sys.executable, "-m", *words, "--wheel-dir", str(folder), str(ROOT))
    [made] = folder.iterdir()
    return made


def run(*words: str, **more: str) -> str:
    """What a command prints, without this checkout among what it imports."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more
    done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_small_and_has_what_is_needed(wheel):
    assert wheel.stat().st_size < 1 << 20
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "frugalkd/py.typed" in names
    package = ROOT / "src" / "frugalkd"
    ours = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.*")}
    ours = {name for name in ours if "__pycache__" not in name}
    assert ours == {name for name in names if name.startswith("frugalkd/")}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with nothing but the wheel."""
    folder = tmp_path_factory.mktemp("v")
    venv.create(folder, with_pip=True)
    words = ["pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    run(str(folder / "bin" / "python"), "-m", *words)
    return folder / "bin"


def test_it_runs_in_an_environment_of_its_own(installed):
    """Its dependencies are read from this one."""
    here = sysconfig.get_path("purelib")
    assert "teacher:" in run(str(installed / "python"), "-c", SCRIPT, PYTHONPATH=here)
    version = run(str(installed / "frugalkd"), "--version", PYTHONPATH=here)
    assert version.startswith("frugalkd ")


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_keeps_the_torch_that_is_there(wheel, extra):
    """What pip would install beside this environment's torch, and that it finds all of it."""
    words = ["pip", "install", "--dry-run", "--quiet", "--report", "-", f"{wheel}[{extra}]"]
    planned = json.loads(run(sys.executable, "-m", *words))["install"]
    names = {each["metadata"]["name"].lower() for each in planned}
    assert "frugalkd" in names
    assert "torch" not in names


def test_the_types_of_a_users_script_are_checked(installed, tmp_path):
    script = tmp_path / "mine.py"
    right, wrong = "frugalkd.Training(epochs=3)", "frugalkd.Training(epochs='3')"
    script.write_text(f"import frugalkd\n\n{right}\n{wrong}\n")
    words = ["--pythonpath", str(installed / "python"), "--outputjson", str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", *words], cwd=tmp_path, capture_output=True, text=True
    )
    [found] = json.loads(done.stdout)["generalDiagnostics"]
    assert found["rule"] == "reportArgumentType"
    assert found["range"]["start"]["line"] == 3
