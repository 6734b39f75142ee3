"""The wheel that users install: small, typed, and complete without this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
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


def test_it_runs_in_an_environment_of_its_own(wheel, tmp_path):
    """Its dependencies are read from this one."""
    venv.create(tmp_path / "v", with_pip=True)
    python = str(tmp_path / "v" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    said = run(python, "-c", SCRIPT, PYTHONPATH=sysconfig.get_path("purelib"))
    assert "teacher:" in said
    command = str(tmp_path / "v" / "bin" / "frugalkd")
    version = run(command, "--version", PYTHONPATH=sysconfig.get_path("purelib"))
    assert version.startswith("frugalkd ")
